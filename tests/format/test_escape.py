"""Names are shown as they are in spreadsheets, Markdown and terminals, and cells read back as the text they hold."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cxr_dist.format.escape import csv_cell, csv_line, csv_text, markdown, terminal_text

FORMULAS = ["=1+1", "+A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "=cmd|'/c calc'!A0"]
HOSTILE_TEXT = st.text(st.sampled_from("'=+-@\t\r\n\",;1.e \\ax") | st.characters(codec="utf-8"), max_size=8)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_a_quote_in_front(text):
    assert csv_cell(text) == "'" + text
    assert csv_text(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["-1", "-0.25", "+3", "-1e-05", "-inf", "'tis", "AP", "", "a=b", "1-2", "nodule"])
def test_numbers_and_other_texts_are_unchanged(text):
    assert csv_cell(text) == text == csv_text(text)


@given(st.lists(HOSTILE_TEXT, min_size=2, max_size=4))
def test_a_line_reads_back_exactly(cells):
    (read,) = csv.reader(io.StringIO(csv_line(cells), newline=""))
    assert [csv_text(cell) for cell in read] == cells
    assert not any(cell.startswith(tuple("=@\t\r\n")) for cell in read)


def test_negative_numbers_stay_numbers():
    assert csv_line(["=1", -1, -0.5, "-0.5", None]) == "'=1,-1,-0.5,-0.5,\n"


def test_markdown_shows_markup_and_html_as_text_on_one_line():
    shown = r"a\|b \`c\` \*d\* \[e\](f) \# g &lt;img&gt;&amp;\\x1b"
    assert markdown("a|b `c` *d* [e](f)\n# g <img>&\x1b") == shown
    assert markdown("cross_entropy _loud_ $x$") == r"cross_entropy \_loud\_ \$x\$"
    assert markdown("pleural effusion (left), 95%") == "pleural effusion (left), 95%"


def test_a_terminal_shows_brackets_and_control_characters_as_text():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(terminal_text("[red]x[/red] \x1b[2J\u202e\x07"))
    assert console.file.getvalue() == "[red]x[/red] \\x1b[2J\\u202e\\x07\n"
