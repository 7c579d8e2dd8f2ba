"""The page shows the recorded numbers, contains no patient data, is self-contained and renders in a real browser."""

import dataclasses
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import bottom_of, needs_chromium, print_pages, show, too_wide
from made_runs import make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.paired import p_text
from cxr_dist.report.page import number, render_page, signed, summary, write_page
from cxr_dist.report.provenance import data_facts, leakage_statements


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> str:
    return render_page(compare(runs, n_bootstrap=200))


class Balance(HTMLParser):
    """Fail on a closing tag without a matching opening tag."""

    EMPTY = ("meta", "br", "link", "path", "use", "rect", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_tags_are_balanced(page: str) -> None:
    reader = Balance()
    reader.feed(page)
    assert reader.open == []


def test_values_and_intervals_are_those_of_the_runs(runs: list[Path], page: str) -> None:
    for run in compare(runs).runs:
        for path in (("macro", "roc_auc"), ("accuracy",), ("per_class", "nodule", "roc_auc")):
            estimate = run.estimate(*path)
            assert f"{estimate.value:.3f}" in page
            assert f"{estimate.low:.3f}–{estimate.high:.3f}" in page


def test_summary_names_the_sample_and_each_run_with_its_interval(runs: list[Path], page: str) -> None:
    comparison = compare(runs)
    sentence = summary(comparison)
    auc = comparison.runs[2].estimate("macro", "roc_auc")
    assert sentence.startswith(
        "Macro ROC AUC on 150 test images of 100 patients, with 95% confidence intervals: enhanced (image + report) "
        f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}); baseline (image only)"
    )
    assert sentence in page


def test_same_comparison_gives_the_same_bytes_with_unique_ids(runs: list[Path], page: str) -> None:
    assert render_page(compare(runs, n_bootstrap=200)) == page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_page_loads_no_resource_and_contains_no_script(page: str) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # XML namespaces, which are not fetched
    assert not re.search(r"<script|<link|<img|<iframe|@import|\bon\w+=|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_page_contains_no_sample_key_and_no_patient_id(runs: list[Path], page: str) -> None:
    predictions = compare(runs).runs[0].predictions
    assert not [key for key in (*predictions.keys, *predictions.patients) if key in page]


def test_page_states_its_purpose_and_whether_the_data_are_synthetic(tmp_path: Path, page: str) -> None:
    assert page.count("Research software, not for clinical use") == 2
    assert "Synthetic data." in page
    run = make_run(tmp_path / "real", make_predictions(n=30, passes=0), made_data=False, split_by="image")
    comparison = compare([run])
    real = render_page(comparison)
    assert "Synthetic data." not in real
    assert any("split" in warning for warning in comparison.warnings)
    assert all(escape(warning) in real for warning in comparison.warnings)
    assert "Research software, not for clinical use" in real


def test_page_shows_settings_environment_and_data(page: str, tmp_path: Path) -> None:
    for fact in (
        "700 images of 466 patients",
        "torch 2.15.0",
        "0c5a709",
        "--out demo/runs/baseline",
        "step 180",
    ):
        assert fact in page, fact
    run = make_run(tmp_path / "a", make_predictions(n=30))
    shutil.rmtree(tmp_path / "shards")
    assert "missing or changed since training" in data_facts(compare([run]))["Shards"]


def test_facts_that_all_runs_share_are_shown_once(page: str) -> None:
    assert page.count("torch 2.15.0") == 1
    assert page.count("cxr-dist train demo") == 3


def test_differences_are_shown_with_interval_and_p_value(runs: list[Path], page: str) -> None:
    comparison = compare(runs, n_bootstrap=200)
    for name in ("macro_roc_auc", "brier", "roc_auc/nodule"):
        difference = comparison.differences[2][name]
        bounds = f"{signed(difference.low)} to {signed(difference.high)}"
        assert f"{bounds}<br>{escape(p_text(difference)).replace(', ', '<br>')}" in page
    assert (signed(-0.25), signed(None)) == ("−0.250", "not defined")


def test_what_each_input_adds_stands_before_the_results(runs: list[Path], page: str) -> None:
    comparison = compare(runs, n_bootstrap=200)
    assert [ablation.removed for ablation in comparison.ablations] == ["image", "report"]
    for ablation in comparison.ablations:
        assert page.index(escape(ablation.added)) < page.index('id="results"')
        assert escape(p_text(ablation.differences["macro_roc_auc"])).replace(", ", "<br>") in page
    assert "adjusted by Holm&#39;s method for the number of differences in macro ROC AUC" in page


def test_thresholds_and_calibration_chosen_on_validation_are_shown_with_their_results(
    runs: list[Path], page: str
) -> None:
    evaluation = compare(runs, n_bootstrap=10).runs[2].evaluation
    point = evaluation["operating_points"]["per_class"]["nodule"]
    recall = point["applied"]["recall"]
    assert "thresholds chosen on 150 validation images of 100 patients (Youden" in page
    assert f"{point['threshold']:.3f}" in page
    assert f"{recall['value']:.3f}<br><small>{recall['low']:.3f}–{recall['high']:.3f}" in page
    assert f"Calibration: {evaluation['calibration']['method']}, chosen on 150 validation images" in page
    assert "cross-validated over patients: none " in page
    for method, loss in evaluation["calibration"]["candidates"].items():
        assert f"{method} {loss:.3f}" in page


def test_without_validation_no_thresholds_and_no_calibration_are_shown(tmp_path: Path) -> None:
    page = render_page(compare([make_run(tmp_path / "a", make_predictions(n=30, passes=0))]))
    assert "Operating points" not in page
    assert "Calibration of a" not in page
    assert "Differences from" not in page


def test_possible_leakage_is_stated_for_each_run(runs: list[Path], page: str) -> None:
    statements = leakage_statements(compare(runs, n_bootstrap=10))
    assert statements["Report sections read"] == ["none", "indication, findings", "indication, findings"]
    assert statements["Label terms in those sections"] == ["reads no report", *["not redacted"] * 2]
    assert statements["Split by"] == ["patient"] * 3
    assert statements["Samples without report text"] == ["reads no report", *["0 of 1000 in all splits"] * 2]
    assert statements["Patients of the test split who are also in the training split"] == ["0 of 100"] * 3
    assert all(statement in page for statement in statements)


def test_a_published_split_and_missing_reports_are_stated(runs: list[Path]) -> None:
    comparison = compare(runs, n_bootstrap=10)
    manifest = comparison.runs[0].manifest
    assert manifest is not None
    official = dataclasses.replace(manifest, recipe={"split": {"official": True}}, without_text=41)
    same = tuple(dataclasses.replace(run, manifest=official) for run in comparison.runs)
    comparison = dataclasses.replace(comparison, runs=same)
    assert leakage_statements(comparison)["Split by"] == ["patient, as published"] * 3
    page = render_page(comparison)
    assert page.count("patient, as published") >= 4  # data flow, methods, leakage, provenance
    assert "41 of 1000 in all splits" in page


def test_conclusions_and_main_results_are_open_and_everything_else_is_folded(page: str) -> None:
    sections = re.findall(r"<section [^>]*>\s*<(h2|details)\b.*?>", page)
    assert sections == ["h2"] + ["details"] * (len(sections) - 1)
    assert len(sections) >= 10
    assert "<details open" not in page
    assert page.index("</table>") < page.index("<details>")
    targets = re.findall(r'<a [^>]*href="#([^"]+)"', page)
    assert set(targets) <= set(re.findall(r'\bid="([^"]+)"', page))


@needs_chromium
def test_the_main_table_ends_within_the_first_screen(page: str, tmp_path: Path) -> None:
    assert bottom_of(page, ".scroll", 1280, tmp_path) <= 800
    assert bottom_of(page, ".conclusions", 390, tmp_path) <= 844


@needs_chromium
def test_paper_shows_what_is_folded(page: str, tmp_path: Path) -> None:
    """The printed page has a sheet for each run, although a reader of the screen would have to unfold it."""
    folded = print_pages(page, tmp_path)
    opened = print_pages(page.replace("<details>", "<details open>"), tmp_path)
    hidden = print_pages(page.replace("details::details-content", "details::none"), tmp_path)
    assert abs(folded - opened) <= 1  # a page break may fall elsewhere
    assert hidden + 3 < folded


def test_a_kind_of_run_that_was_not_evaluated_has_a_row_with_its_commands(runs: list[Path], page: str) -> None:
    assert "not evaluated" not in page
    alone = render_page(compare(runs[2:], n_bootstrap=10))
    for mode, name in (("image", "image only"), ("text", "report only")):
        assert f'<span class="mode {mode}">{name}</span>: not evaluated.' in alone
        assert f"cxr-dist train enhanced --model.mode {mode} --data.shards SHARDS" in alone


def test_page_of_four_runs_with_fourteen_classes_is_a_small_file(tmp_path: Path) -> None:
    classes = tuple(f"finding {i}" for i in range(14))
    settings = {"task": "multilabel", "n": 400, "classes": classes, "passes": 2}
    runs = [make_run(tmp_path / f"r{i}", make_predictions(seed=i, **settings)) for i in range(4)]
    assert len(render_page(compare(runs, n_bootstrap=10)).encode()) < 2_000_000


def test_class_names_are_escaped(tmp_path: Path) -> None:
    predictions = make_predictions(n=40, classes=("<script>alert(1)</script>", "a & b"))
    page = render_page(compare([make_run(tmp_path / "a", predictions)]))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_undefined_values_are_listed_with_their_reason(tmp_path: Path) -> None:
    predictions = make_predictions(task="multilabel", n=40, passes=0)
    predictions.labels[:, 1] = -1
    page = render_page(compare([make_run(tmp_path / "a", predictions)]))
    assert number(None) == "not defined"
    assert re.search(r"Not defined: [^.]*accuracy[^.]*\(cardiomegaly\): no known label", page)
    assert "Unknown" in page


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_sample_is_enough_for_a_page(tmp_path: Path, task: str) -> None:
    out = tmp_path / "report.html"
    write_page(compare([make_run(tmp_path / "a", make_predictions(task=task, n=1))]), out)
    assert "not defined" in out.read_text(encoding="utf-8")


@needs_chromium
def test_a_real_browser_shows_every_figure_without_console_messages(page: str, tmp_path: Path) -> None:
    shown = show(page, tmp_path)
    assert shown.console == []
    assert shown.dom.count("<svg") == shown.dom.count("</svg>") == 1 + 3 + 1 + 3 * 6


@needs_chromium
def test_no_element_is_wider_than_a_phone_screen(runs: list[Path], tmp_path: Path) -> None:
    page = render_page(compare(runs[2:], n_bootstrap=10))
    assert too_wide(page, 390, tmp_path) == []
    wider = page.replace("<main>", '<main><p style="width: 500px">wide</p>')
    assert too_wide(wider, 390, tmp_path) == ["P"]
