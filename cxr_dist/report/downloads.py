"""Links that save a table of the page as .csv and a figure as .svg. The files are inside the links, as data: URLs.

So the page stays one file, without scripts. A saved table has the numbers as the page shows them, with three decimals;
comparison.json has them in full.
"""

import re
from base64 import b64encode
from html import unescape
from html.parser import HTMLParser
from urllib.parse import quote

from markupsafe import Markup

from cxr_dist.errors import printable
from cxr_dist.format.escape import csv_line
from cxr_dist.report.svg import standalone

_UNQUOTED = "/:;,=?@$!*+-._~"
_NUMBER = r"[+−-]?\d+(?:\.\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER})(?:–| to )({_NUMBER})")
_VALUE = re.compile(rf"{_NUMBER}(?: ± {_NUMBER})?")


def csv_link(table: str, label: str) -> Markup:
    """Return a link that saves a table of the page. `table` is the inside of `<table>`, `label` names it."""
    data = "data:text/csv;charset=utf-8," + quote(csv_of(table), safe=_UNQUOTED)
    return _link(data, f"{_file_name(label)}.csv", "csv", f"Save as csv: {label}")


def svg_link(svg: str) -> Markup:
    """Return a link that saves a figure of the page, which `to_svg` made, under the name of its description."""
    found = re.search(r'aria-label="([^"]*)"', svg)
    assert found is not None
    label = unescape(found[1])
    data = "data:image/svg+xml;base64," + b64encode(standalone(svg).encode()).decode()
    return _link(data, f"{_file_name(label)}.svg", "SVG", f"Save as SVG: {label}")


def csv_of(table: str) -> str:
    """Return the rows of a table as csv, with one header row.

    A column of values becomes several: the first line of its cells, the bounds of an interval as `low` and `high`, and
    other lines as `note`. A cell that spans several rows is repeated in each. Undefined values are empty.
    """
    reader = _Cells()
    reader.feed(table)
    rows = _filled(reader.rows, reader.heads)
    if not rows:
        return ""
    head, body = rows[: reader.heads], rows[reader.heads :]
    titles = [", ".join(dict.fromkeys(filter(None, map(" ".join, parts)))) for parts in zip(*head, strict=True)]
    columns = [_columns(title, cells) for title, cells in zip(titles, zip(*body, strict=True), strict=False)]
    return "".join(map(csv_line, zip(*(each for split in columns for each in split), strict=True)))


def _link(data: str, file: str, text: str, label: str) -> Markup:
    link = Markup('<a class="save" download="{}" href="{}" aria-label="{}">{}</a>')
    return link.format(file, data, printable(label), text)


def _file_name(label: str) -> str:
    """A name that every file system accepts."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:80] or "saved"


def _columns(title: str, cells: tuple[list[str], ...]) -> list[list[str]]:
    """The columns, each with its title first, that the cells of a column of the table become."""
    if not any(_VALUE.fullmatch(lines[0]) for lines in cells if lines):
        return [[title, *(_plain(" ".join(lines)) for lines in cells)]]
    first, low, high, notes = [title], [f"{title}, low"], [f"{title}, high"], [f"{title}, note"]
    for lines in cells:
        bounds = [found for line in lines[1:] if (found := _INTERVAL.fullmatch(line))]
        first.append(_plain(lines[0]) if lines else "")
        low.append(_plain(bounds[0][1]) if bounds else "")
        high.append(_plain(bounds[0][2]) if bounds else "")
        notes.append("; ".join(line for line in lines[1:] if not _INTERVAL.fullmatch(line)))
    return [first, *(each for each in (low, high, notes) if any(each[1:]))]


def _plain(text: str) -> str:
    """A number with the minus that programs read; nothing for an undefined value; other texts as they are."""
    if text == "not defined":
        return ""
    return text.replace("−", "-") if _VALUE.fullmatch(text) else text


class _Cells(HTMLParser):
    """Reads the rows of a table: (lines, columns that it spans, rows that it spans) of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[tuple[list[str], int, int]]] = []
        self.heads = 0
        self._open = False
        self._in_head = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        elif tag == "tr":
            self.rows.append([])
            self.heads += self._in_head
        elif tag in ("th", "td"):
            spans = dict(attrs)
            self.rows[-1].append(([""], int(spans.get("colspan") or 1), int(spans.get("rowspan") or 1)))
            self._open = True
        elif tag == "br" and self._open:
            self.rows[-1][-1][0].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._open = False
            lines = self.rows[-1][-1][0]
            lines[:] = filter(None, (" ".join(line.split()) for line in lines))

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1][0][-1] += data


def _filled(rows: list[list[tuple[list[str], int, int]]], heads: int) -> list[list[list[str]]]:
    """The rows with one cell for each column.

    Cells are repeated in the rows that they span; those of the `heads` first rows in the columns, too.
    """
    filled: list[list[list[str]]] = []
    below: dict[int, tuple[list[str], int]] = {}  # column -> (lines, rows that they still span)
    for row in rows:
        line: list[list[str]] = []
        cells = iter(row)
        while True:
            if len(line) in below:
                column = len(line)
                lines, left = below.pop(column)
                line.append(lines)
                if left > 1:
                    below[column] = (lines, left - 1)
                continue
            cell = next(cells, None)
            if cell is None:
                break
            lines, across, down = cell
            for place in range(across):
                if down > 1:
                    below[len(line)] = (lines, down - 1)
                line.append(lines if place == 0 or len(filled) < heads else [])
        filled.append(line)
    width = max(map(len, filled), default=0)
    return [line + [[] for _ in range(width - len(line))] for line in filled]
