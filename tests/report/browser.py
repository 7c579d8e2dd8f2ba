"""Open a page in headless Chromium and return its document, its console messages and the elements that are too wide."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ("--no-first-run", "--disable-sync", "--disable-background-networking", "--disable-component-update")
# A window has a minimum width; media queries in a frame see the frame's width. Tables scroll, so they are left out.
_FRAME = """<!doctype html><iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<p id="wide"></p><script>onload = () => {{
  const inner = document.querySelector("iframe").contentDocument;
  const free = [...inner.body.querySelectorAll("*")].filter(e => !e.parentElement.closest(".scroll, svg"));
  const wide = free.filter(e => e.getBoundingClientRect().right > {width} + 1);
  document.querySelector("#wide").textContent = "checked " + free.length + ": " + wide.map(e => e.tagName).join();
}}</script>"""


def needs_chromium(test: object) -> object:
    """Mark a test that starts a browser, and skip it if Chromium is not installed."""
    skip = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.browser(skip(test))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    """Messages of the console."""


def show(page: str, folder: Path) -> Shown:
    """Open a page from file:// and return the resulting document."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [*_QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    ran = subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return Shown(dom=ran.stdout, console=[line for line in ran.stderr.splitlines() if "CONSOLE" in line])


def too_wide(page: str, width: int, folder: Path) -> list[str]:
    """Return the tags of the elements that exceed a screen of `width` pixels and are not in a scrolling box."""
    dom = show(_FRAME.format(width=width, page=escape(page, quote=True)), folder).dom
    match = re.search(r'<p id="wide">checked (\d+): ([^<]*)</p>', dom)
    assert match is not None
    assert int(match[1]) > 100
    return [tag for tag in match[2].split(",") if tag]
