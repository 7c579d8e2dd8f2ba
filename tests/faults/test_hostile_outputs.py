"""No output of a run acts on its reader, even if all names in it are hostile: table, JSON, page, card and terminal.

The names would be formulas in a spreadsheet, markup and scripts in a page, headings and links in a model card, and
commands to a terminal. Each output must show them as text, and what reads an output back must get the same names.
"""

import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import pytest
from made_runs import add_external, make_predictions, make_run
from rich.console import Console

from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import read_run
from cxr_dist.report.closing_table import print_comparison
from cxr_dist.report.comparison_file import write_comparison
from cxr_dist.report.evaluation_table import print_evaluation
from cxr_dist.report.model_card import CardFacts, model_card
from cxr_dist.report.page import render_page
from cxr_dist.shard.summary import print_summary

CLASSES = (
    "=HYPERLINK(1)", "@SUM(A1)", "<script>alert(1)</script>", "[red]|`x`[/red]", "\x1b[2J\x9b31m\u202e", "$\\foo$",
    "-a\r\n# b", '" onload="c',
)  # fmt: skip
ATTRIBUTES = {
    "view": ["+1+1", "\t=2", "\r=3", "<img src=x onerror=d>", "\x1b]0;e\x07", "-5", ""],
    "=sex": ["[bold]F[/bold]", "@M"],
}
SECTIONS = ("<b>findings</b>", '"}); f("', "\x1b[1m\n```")
EXTERNAL = "[blue]k\x1b[2J"
RUN = "=<i>run<|i> [red]g[h](i)`\n# j\x1b[2J\x07"
HEADER = re.compile(r"(attribute|label|predicted|probability|calibrated|mc_mean|mc_variance):")


@pytest.fixture(scope="module")
def predictions():
    made = make_predictions(n=120, classes=CLASSES)
    cells = {name: [values[i % len(values)] for i in range(len(made))] for name, values in ATTRIBUTES.items()}
    return dataclasses.replace(made, attributes=cells)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, predictions):
    folder = tmp_path_factory.mktemp("hostile") / RUN
    validation = make_predictions(n=120, classes=CLASSES, data=8)
    make_run(folder, predictions, sections=SECTIONS, validation=validation, recipe=RUN, finished=False)
    add_external(folder, EXTERNAL, make_predictions(n=90, passes=0, classes=CLASSES, data=9), validation)
    return folder


@pytest.fixture(scope="module")
def result(run_dir):
    return read_run(run_dir, RUN, "test")


@pytest.fixture(scope="module")
def comparison(run_dir):
    return compare([run_dir], n_bootstrap=10)


def shown(show, *content):
    """Return what a terminal with colours is sent, without rich's own colours."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=250)
    show(*content, console)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


def test_the_table_has_no_formula_and_reads_back_exactly(run_dir, predictions, result, tried):
    path = run_dir / "evaluation" / "test" / "predictions.csv"
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert all(HEADER.match(name) or re.fullmatch("[a-z_]+", name) for name in header)
    texts = [cell for row in rows for cell in row if not re.fullmatch(r"-?[0-9.e-]+", cell)]
    assert not [cell for cell in texts if cell.startswith(tuple("=+-@\t\r\n"))]
    assert "-5" in {cell for row in rows for cell in row}
    read = Predictions.read_csv(path)
    assert (read.classes, read.attributes) == (CLASSES, predictions.attributes)
    assert read.labels.tolist() == predictions.labels.tolist()
    assert result.name == RUN
    tried("hostile names in the table of a run", "read as it should be")


def test_json_holds_the_same_names_without_control_characters(run_dir, comparison, tmp_path, tried):
    write_comparison(comparison, tmp_path)
    for path in (run_dir / "evaluation" / "test" / "metrics.json", tmp_path / "comparison.json"):
        text = path.read_text(encoding="utf-8")
        assert not [c for c in text if ord(c) < 32 and c != "\n"]
        assert json.loads(text)
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())["metrics"]
    assert tuple(metrics["per_class"]) == CLASSES
    tried("hostile names in the JSON files of a run", "read as it should be")


class Elements(HTMLParser):
    """Collects the elements of a page, the names of their attributes, and the page's text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_names_as_text(comparison, tried):
    page = render_page(comparison)
    assert not [c for c in page if not c.isprintable() and c not in "\n\t"]
    elements = Elements()
    elements.feed(page)
    assert not elements.tags & {"script", "img", "i", "iframe"}
    assert not [name for name in elements.attributes if name.startswith("on")]
    text = "".join(elements.text)
    for name in ("<script>alert(1)</script>", "[red]|`x`[/red]", "$\\foo$", '" onload="c'):
        assert name in text
    tried("hostile names in the page of a run", "read as it should be")


def test_the_card_shows_names_as_text(result, tried):
    facts = CardFacts(
        config=result.config,
        manifest=result.manifest,
        manifest_sha256="0" * 64,
        step=180,
        calibrator=None,
        result=result,
        unfinished=result.unfinished,
        with_graph=True,
    )
    body = model_card(facts).split("\n---\n", 1)[1]
    assert not [c for c in body if not c.isprintable() and c != "\n"]
    assert not re.findall(r"^# [bj]|<script|<i>run|(?<!\\)\[h\]\(", body, re.MULTILINE)
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;" in body
    tried("hostile names in the model card of a run", "read as it should be")


def test_a_terminal_shows_names_as_text(run_dir, result, comparison, tried):
    external = json.loads((run_dir / "evaluation" / EXTERNAL / "metrics.json").read_text())
    texts = [
        shown(print_evaluation, external),
        shown(print_comparison, comparison),
        shown(print_summary, result.manifest),
    ]
    for text in texts:
        assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "[red]g[h](i)" in texts[0]
    assert "[blue]k\\x1b[2J" in texts[1]
    assert "[red]|`x`[/red]" in texts[2]
    tried("hostile names on the terminal of a run", "read as it should be")
