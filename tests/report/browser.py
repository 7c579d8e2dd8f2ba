"""A page in, what headless Chromium makes of it out: its document, its complaints, and what is too wide."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ("--no-first-run", "--disable-sync", "--disable-background-networking", "--disable-component-update")
# A frame's width is what its media queries see, whatever the least width of a window is. Tables scroll.
_FRAME = """<!doctype html><iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<p id="wide"></p><script>onload = () => {{
  const inner = document.querySelector("iframe").contentDocument;
  const free = [...inner.body.querySelectorAll("*")].filter(e => !e.parentElement.closest(".scroll, svg"));
  const wide = free.filter(e => e.getBoundingClientRect().right > {width} + 1);
  document.querySelector("#wide").textContent = "checked " + free.length + ": " + wide.map(e => e.tagName).join();
}}</script>"""


def needs_chromium(test: object) -> object:
    """Marks a test that starts a browser, and skips it where there is none."""
    skip = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.browser(skip(test))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the browser had in the end."""

    dom: str
    complaints: list[str]
    """Lines of the console."""


def show(page: str, folder: Path) -> Shown:
    """Open a page from file:// and take what it became."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [*_QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    ran = subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return Shown(dom=ran.stdout, complaints=[line for line in ran.stderr.splitlines() if "CONSOLE" in line])


def too_wide(page: str, width: int, folder: Path) -> list[str]:
    """Tags of the elements that reach past a screen of `width` pixels, but for what scrolls by itself."""
    dom = show(_FRAME.format(width=width, page=escape(page, quote=True)), folder).dom
    found = re.search(r'<p id="wide">checked (\d+): ([^<]*)</p>', dom)
    assert found is not None
    assert int(found[1]) > 100
    return [tag for tag in found[2].split(",") if tag]
