"""The page: true, private, self-contained, and whole in a real browser."""

import dataclasses
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import needs_chromium, show, too_wide
from made_runs import make_ensemble, make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.report.page import number, p_value, render_page, signed, summary, write_page
from cxr_dist.report.provenance import data_facts, facts_of_runs, leakage_statements


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> str:
    return render_page(compare(runs, n_bootstrap=200))


class Balance(HTMLParser):
    """Fails on a tag that is closed without being open."""

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
            found = run.estimate(*path)
            assert f"{found.value:.3f}" in page
            assert f"{found.low:.3f}–{found.high:.3f}" in page


def test_summary_names_the_sample_and_each_run_with_its_interval(runs: list[Path], page: str) -> None:
    comparison = compare(runs)
    sentence = summary(comparison)
    auc = comparison.runs[2].estimate("macro", "roc_auc")
    assert sentence.startswith(
        f"Macro ROC AUC on 150 test images of 100 patients: enhanced (image + report) {auc.value:.3f} "
        f"(95% interval {auc.low:.3f} to {auc.high:.3f}); baseline (image only)"
    )
    assert sentence in page


def test_same_comparison_same_bytes_and_unique_ids(runs: list[Path], page: str) -> None:
    assert render_page(compare(runs, n_bootstrap=200)) == page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert not re.search(r"<script|<link|<img|<iframe|@import|\bon\w+=|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_no_key_and_no_patient_reaches_the_page(runs: list[Path], page: str) -> None:
    predictions = compare(runs).runs[0].predictions
    assert not [key for key in (*predictions.keys, *predictions.patients) if key in page]


def test_says_what_it_is(tmp_path: Path, page: str) -> None:
    assert page.count("Research software, not for clinical use") == 2
    assert "Made data." in page
    run = make_run(tmp_path / "real", make_predictions(n=30, passes=0), made_data=False, split_by="image")
    real = render_page(compare([run]))
    assert "Made data." not in real
    assert "images of one patient are in both training and test" in real
    assert "Research software, not for clinical use" in real


def test_provenance(page: str, tmp_path: Path) -> None:
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
    assert "gone or changed since training" in data_facts(compare([run]))["Shards"]


def test_facts_that_all_runs_share_are_said_once(page: str) -> None:
    assert page.count("torch 2.15.0") == 1
    assert page.count("cxr-dist train demo") == 3


def test_differences_are_shown_with_interval_and_p(runs: list[Path], page: str) -> None:
    comparison = compare(runs, n_bootstrap=200)
    for name in ("macro_roc_auc", "brier", "roc_auc/nodule"):
        found = comparison.differences[2][name]
        assert escape(f"{signed(found.low)} to {signed(found.high)}, {p_value(found.p)}") in page
    assert (signed(-0.25), signed(None)) == ("−0.250", "not defined")
    assert (p_value(0.0004), p_value(0.034), p_value(None)) == ("p < 0.001", "p = 0.034", "p not defined")


def test_what_was_chosen_on_validation_is_said_and_applied(runs: list[Path], page: str) -> None:
    evaluation = compare(runs, n_bootstrap=10).runs[2].evaluation
    point = evaluation["operating_points"]["per_class"]["nodule"]
    recall = point["applied"]["recall"]
    assert "thresholds chosen on 150 validation images of 100 patients (Youden" in page
    assert f"{point['threshold']:.3f}" in page
    assert f"{recall['value']:.3f}<br><small>{recall['low']:.3f}–{recall['high']:.3f}" in page
    assert f"temperature {evaluation['calibration']['temperature']:.2f}, fitted on 150 validation" in page


def test_without_validation_nothing_chosen_is_shown(tmp_path: Path) -> None:
    page = render_page(compare([make_run(tmp_path / "a", make_predictions(n=30, passes=0))]))
    assert "Operating points" not in page
    assert "Calibration of a" not in page
    assert "Differences to" not in page


def test_leakage_is_stated_for_each_run(runs: list[Path], page: str) -> None:
    found = leakage_statements(compare(runs, n_bootstrap=10))
    assert found["Report sections seen"] == ["none", "indication, findings", "indication, findings"]
    assert found["Label terms in those sections"] == ["no report is read", "left in", "left in"]
    assert found["Split grouped by"] == ["patient"] * 3
    assert found["Samples without report text"] == ["no report is read", *["0 of 1000, all splits"] * 2]
    assert found["Patients of test who are in training too"] == ["0 of 100"] * 3
    assert all(statement in page for statement in found)


def test_a_published_split_and_missing_reports_are_said(runs: list[Path]) -> None:
    comparison = compare(runs, n_bootstrap=10)
    manifest = comparison.runs[0].manifest
    assert manifest is not None
    official = dataclasses.replace(manifest, recipe={"split": {"official": True}}, without_text=41)
    same = tuple(dataclasses.replace(run, manifest=official) for run in comparison.runs)
    comparison = dataclasses.replace(comparison, runs=same)
    assert leakage_statements(comparison)["Split grouped by"] == ["patient, as published"] * 3
    page = render_page(comparison)
    assert page.count("patient, as published") >= 4  # data flow, methods, leakage, provenance
    assert "41 of 1000, all splits" in page


def test_every_link_of_the_contents_has_its_place(page: str) -> None:
    targets = re.findall(r'<a [^>]*href="#([^"]+)"', page)
    assert len(targets) >= 9
    assert set(targets) <= set(re.findall(r'\bid="([^"]+)"', page))


def test_a_kind_of_run_that_was_not_evaluated_has_its_row(runs: list[Path], page: str) -> None:
    assert "not evaluated" not in page
    alone = render_page(compare(runs[2:], n_bootstrap=10))
    for mode, name in (("image", "image only"), ("text", "report only")):
        assert f'<span class="mode {mode}">{name}</span>: not evaluated.' in alone
        assert f"cxr-dist train enhanced --model.mode {mode} --data.shards SHARDS" in alone


def test_an_ensemble_is_told_from_a_run(tmp_path: Path) -> None:
    single = make_run(tmp_path / "enhanced", make_predictions(n=40))
    ensemble = make_ensemble(tmp_path / "ensemble", make_predictions(n=40, seed=1), seeds=(1, 2, 3))
    comparison = compare([single, ensemble], n_bootstrap=10)
    page = render_page(comparison)
    assert "ensemble (image + report, mean of 3 runs)" in summary(comparison)
    assert page.count("<small>mean of 3 runs</small>") == 1
    assert page.count("<figcaption>Training loss and validation ROC AUC</figcaption>") == 1  # an ensemble was not trained itself
    facts = facts_of_runs(comparison.runs)["ensemble"]
    assert facts["Mean of"].startswith("3 runs: enhanced sees the film and the report, seed 1, step 180; ")
    assert (facts["Seed"], facts["Settings below"]) == ("1, 2, 3", "those of the first of them")
    assert "Mean of" not in facts_of_runs(comparison.runs)["enhanced"]


def test_four_runs_of_fourteen_classes_stay_a_small_file(tmp_path: Path) -> None:
    classes = tuple(f"finding {i}" for i in range(14))
    made = {"task": "multilabel", "n": 400, "classes": classes, "passes": 2}
    runs = [make_run(tmp_path / f"r{i}", make_predictions(seed=i, **made)) for i in range(4)]
    assert len(render_page(compare(runs, n_bootstrap=10)).encode()) < 1_500_000


def test_class_names_are_escaped(tmp_path: Path) -> None:
    made = make_predictions(n=40, classes=("<script>alert(1)</script>", "a & b"))
    page = render_page(compare([make_run(tmp_path / "a", made)]))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_undefined_values_are_named_with_their_reason(tmp_path: Path) -> None:
    made = make_predictions(task="multilabel", n=40, passes=0)
    made.labels[:, 1] = -1
    page = render_page(compare([make_run(tmp_path / "a", made)]))
    assert number(None) == "not defined"
    assert re.search(r"Not defined: [^.]*accuracy[^.]*\(cardiomegaly\): no known label", page)
    assert "Unknown" in page


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_sample_still_makes_a_page(tmp_path: Path, task: str) -> None:
    out = tmp_path / "report.html"
    write_page(compare([make_run(tmp_path / "a", make_predictions(task=task, n=1))]), out)
    assert "not defined" in out.read_text(encoding="utf-8")


@needs_chromium
def test_a_real_browser_shows_every_figure_without_a_complaint(page: str, tmp_path: Path) -> None:
    shown = show(page, tmp_path)
    assert shown.complaints == []
    assert shown.dom.count("<svg") == shown.dom.count("</svg>") == 1 + 3 + 1 + 3 * 6


@needs_chromium
def test_nothing_is_wider_than_a_phone(runs: list[Path], tmp_path: Path) -> None:
    page = render_page(compare(runs[2:], n_bootstrap=10))
    assert too_wide(page, 390, tmp_path) == []
    wider = page.replace("<main>", '<main><p style="width: 500px">wide</p>')
    assert too_wide(wider, 390, tmp_path) == ["P"]
