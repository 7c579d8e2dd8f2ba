"""Escape names and texts for where they are shown: a spreadsheet that opens a .csv, a Markdown page, a terminal.

Class names, section names, names of runs and of files come from the user's data, so they may hold anything.
(`report.html` is escaped by jinja2 itself.)
"""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from cxr_dist.errors import printable

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)
# As OWASP lists them, with the full-width forms. The quotes before are those of a text that starts as an escape does.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_MARKDOWN = re.compile(r"[\\`*\[\]#|~$]|(?<![^\W_])_|_(?![^\W_])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def csv_cell(text: str) -> str:
    """The text with a single quote in front if a spreadsheet would take it for a formula. Numbers are unchanged."""
    return "'" + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """The text of which `csv_cell` made this cell."""
    return cell[1:] if cell.startswith("'") and csv_cell(cell[1:]) == cell else cell


def csv_line(cells: Iterable[Any]) -> str:
    """A line of a .csv that a person may open: texts are escaped by `csv_cell`, and numbers read back exactly."""
    line = io.StringIO()
    # With this end of line, Python before 3.13 quotes a lone carriage return too; unquoted, it would end the row.
    csv.writer(line, lineterminator="\r\n").writerow(csv_cell(c) if isinstance(c, str) else c for c in cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def markdown(text: str) -> str:
    """The text so that Markdown, in a table too, shows it as it is, on one line: no markup, no HTML, no formula.

    For text, not for the inside of `code`, where Markdown has no escapes.
    """
    line = printable(" ".join(text.splitlines()))
    return re.sub("[&<>]", lambda found: _HTML[found[0]], _MARKDOWN.sub(r"\\\g<0>", line))


def terminal_text(text: str) -> Text:
    """The text for rich, which interprets neither [brackets] in it as markup nor control characters."""
    return Text(printable(text))
