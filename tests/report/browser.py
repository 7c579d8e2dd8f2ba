"""Open a page in headless Chromium: its document, its console messages, its layout and its printed sheets."""

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
<p id="wide"></p><p id="bottom"></p><script>onload = () => {{
  const inner = document.querySelector("iframe").contentDocument;
  document.querySelector("#bottom").textContent = inner.querySelector("{selector}").getBoundingClientRect().bottom;
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
    ran = _chromium(page, folder, "--dump-dom")
    return Shown(dom=ran.stdout, console=[line for line in ran.stderr.splitlines() if "CONSOLE" in line])


def print_pages(page: str, folder: Path) -> int:
    """Print a page and return the number of sheets."""
    _chromium(page, folder, f"--print-to-pdf={folder / 'page.pdf'}")
    return len(re.findall(rb"/Type\s*/Page\b", (folder / "page.pdf").read_bytes()))


def bottom_of(page: str, selector: str, width: int, folder: Path) -> float:
    """Return where the first such element ends on a screen of `width` pixels, in pixels from the top of the page."""
    match = re.search(r'<p id="bottom">([\d.]+)</p>', _framed(page, width, selector, folder))
    assert match is not None
    return float(match[1])


def too_wide(page: str, width: int, folder: Path) -> list[str]:
    """Return the tags of the elements that exceed a screen of `width` pixels and are not in a scrolling box."""
    dom = _framed(page, width, "body", folder)
    match = re.search(r'<p id="wide">checked (\d+): ([^<]*)</p>', dom)
    assert match is not None
    assert int(match[1]) > 100
    return [tag for tag in match[2].split(",") if tag]


def _framed(page: str, width: int, selector: str, folder: Path) -> str:
    return show(_FRAME.format(width=width, selector=selector, page=escape(page, quote=True)), folder).dom


def _chromium(page: str, folder: Path, action: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [*_QUIET, f"--user-data-dir={folder / 'profile'}", action]
    return subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
