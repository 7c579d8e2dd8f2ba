"""Tables of the page are saved as csv and figures as SVG, from inside the page and without a script."""

import io
import re
from base64 import b64decode
from html import unescape
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import pytest
from browser import needs_chromium, show
from made_runs import make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import HEADLINE, Comparison, compare
from cxr_dist.report.downloads import csv_of
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.report.page import render_page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(make_runs(tmp_path_factory.mktemp("runs")), n_bootstrap=50)


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return render_page(comparison)


def saved(page: str) -> dict[str, str]:
    """File name -> content of every file that the page offers, each once."""
    links = re.findall(r'download="([^"]*)" href="data:([^,"]*),([^"]*)"', page)
    names = [name for name, _, _ in links]
    assert len(names) == len(set(names))
    return {
        name: b64decode(data).decode() if kind.endswith(";base64") else unquote(unescape(data))
        for name, kind, data in links
    }


def test_every_table_and_figure_has_a_link(page: str) -> None:
    names = list(saved(page))
    assert sum(name.endswith(".csv") for name in names) == page.count("<table")
    assert sum(name.endswith(".svg") for name in names) == page.count("<svg")


def test_a_saved_table_has_the_numbers_of_the_runs_in_columns(comparison: Comparison, page: str) -> None:
    table = pd.read_csv(io.StringIO(saved(page)["main-metrics-of-each-run.csv"]))
    assert list(table["Run"]) == [run.name for run in comparison.runs]
    for metric, path in HEADLINE.items():
        for i, run in enumerate(comparison.runs):
            found, title = run.estimate(*path), METRIC_NAMES[metric]
            row = table.iloc[i][[title, f"{title}, low", f"{title}, high"]]
            assert list(row) == [round(each, 3) for each in (found.value, found.low, found.high)]


def test_a_saved_difference_has_its_interval_and_p_value(comparison: Comparison, page: str) -> None:
    table = pd.read_csv(io.StringIO(saved(page)["differences-from-baseline.csv"])).set_index("Metric")
    found = comparison.differences[2]["brier"]
    row = table.loc[METRIC_NAMES["brier"]]
    assert row["enhanced"] == round(found.value, 3) < 0
    assert (row["enhanced, low"], row["enhanced, high"]) == (round(found.low, 3), round(found.high, 3))
    assert row["enhanced, note"].startswith("p ")


def test_every_saved_table_is_rectangular_and_every_saved_figure_is_xml_of_its_own(page: str) -> None:
    for name, content in saved(page).items():
        if name.endswith(".csv"):
            assert len(pd.read_csv(io.StringIO(content), dtype=str)) > 0, name
        else:
            assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
            assert "var(--" not in content, name


def test_spans_lines_and_formulas_of_a_table() -> None:
    head = '<tr><th rowspan="2">Name</th><th colspan="2">Map</th></tr><tr><th>Hit</th><th>In &amp; out</th></tr>'
    body = '<tr><th rowspan="2">=1+1<br>b</th><td>0.5<br><small>−0.1 to 0.7<br>p = 0.2</small></td><td>not defined</td>'
    table = f'<thead>{head}</thead><tbody>{body}</tr><tr><td colspan="2">too few</td></tr></tbody>'
    assert csv_of(table).splitlines() == [
        'Name,"Map, Hit","Map, Hit, low","Map, Hit, high","Map, Hit, note","Map, In & out"',
        "'=1+1 b,0.5,-0.1,0.7,p = 0.2,",
        "'=1+1 b,too few,,,,",
    ]


def test_class_names_cannot_leave_the_link_or_the_cell(tmp_path: Path) -> None:
    hostile = ('"><script>alert(1)</script>', "=HYPERLINK(1)", "../../etc/passwd")
    page = render_page(compare([make_run(tmp_path / "a", make_predictions(n=40, classes=hostile))], n_bootstrap=10))
    assert "<script" not in page
    content = saved(page)["roc-auc-by-class.csv"]
    assert pd.read_csv(io.StringIO(content))["Class"].tolist() == [hostile[0], "'=HYPERLINK(1)", hostile[2]]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(csv|svg)", name) for name in saved(page))


@needs_chromium
def test_the_first_column_stays_in_view_on_a_phone_only(page: str, tmp_path: Path) -> None:
    frame = (
        '<!doctype html><iframe style="width: WIDTHpx; height: 800px" srcdoc="PAGE"></iframe><p id="seen"></p>'
        "<script>onload = () => { const inner = document.querySelector('iframe').contentDocument;"
        "const box = inner.querySelector('.scroll'); box.scrollLeft = 120;"
        "const cell = box.querySelector('tbody th').getBoundingClientRect().left - box.getBoundingClientRect().left;"
        "document.querySelector('#seen').textContent = [box.scrollLeft, cell].map(Math.round).join(); }</script>"
    )
    shown = show(frame.replace("WIDTH", "390").replace("PAGE", page.replace('"', "&quot;")), tmp_path).dom
    assert '<p id="seen">120,0</p>' in shown
