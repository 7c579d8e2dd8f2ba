"""Each fused run is compared to a report-only and an image-only run, and the words follow from the paired interval."""

from pathlib import Path

import pytest
from made_runs import make_predictions, make_run

from cxr_dist.evaluate.ablation import Ablation, interval_text
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.paired import Difference
from cxr_dist.evaluate.run_result import Estimate


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two fused runs of different recipes, and for each mode runs of both recipes or of one."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "baseline": ("image", 0.8, "baseline"),
        "image-only": ("image", 1.0, "enhanced"),
        "text-only": ("text", 1.3, "enhanced"),
        "enhanced": ("fused", 2.4, "enhanced"),
        "other": ("fused", 2.0, "own"),
    }
    return [
        make_run(
            folder / name,
            make_predictions(skill=skill, seed=i, passes=0),
            mode=mode,
            recipe=recipe,
            loss="focal" if recipe == "enhanced" else "cross_entropy",
        )
        for i, (name, (mode, skill, recipe)) in enumerate(kinds.items())
    ]


def test_runs_of_the_same_recipe_are_paired_and_otherwise_the_first(runs: list[Path]) -> None:
    pairs = [(a.fused.name, a.single.name, a.removed) for a in compare(runs, n_bootstrap=50).ablations]
    assert pairs == [
        ("enhanced", "text-only", "image"),
        ("enhanced", "image-only", "report"),
        ("other", "text-only", "image"),
        ("other", "baseline", "report"),
    ]


def test_the_statement_says_both_things_apart_with_the_numbers_of_the_runs(runs: list[Path]) -> None:
    comparison = compare(runs, n_bootstrap=1000)
    image_added, report_added, other, _ = comparison.ablations
    alone = image_added.single.estimate("macro", "roc_auc")
    difference = image_added.differences["macro_roc_auc"]
    assert difference.value == image_added.fused.estimate("macro", "roc_auc").value - alone.value
    assert 0 < difference.low < difference.value < difference.high
    assert image_added.statement == (
        f"The report alone (text-only) reaches a macro ROC AUC of {alone.value:.3f} ({alone.low:.3f} to "
        f"{alone.high:.3f}). The image adds {difference.value:.3f} ({difference.low:.3f} to {difference.high:.3f}): "
        "enhanced − text-only, p ≤ 0.002, adjusted ≤ 0.008."
    )
    assert report_added.statement.startswith("The image alone (image-only) reaches")
    assert "They also differ in loss.name: not all of this is due to the input." in other.statement


def test_comparison_json_has_the_ablations_with_adjusted_p_values(runs: list[Path]) -> None:
    result = compare(runs, n_bootstrap=100).to_dict()
    strict_json(result)
    assert "Holm" in result["p_values"]
    found = result["ablations"]
    assert [entry["removed"] for entry in found] == ["image", "report"] * 2
    for entry in found:
        main = entry["differences"]["macro_roc_auc"]
        assert main["p"] <= main["p_holm"] <= 4 * main["p"]
        assert main["p_floor"] == 2 / 101
        assert entry["differences"]["accuracy"]["p_holm"] is None
        assert entry["other_settings"] == (
            [] if entry["run"] == "enhanced" else ["loss.name"] * (entry["compared_to"] == "text-only")
        )


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.038, 0.011, 0.067), "The image adds 0.038 (0.011 to 0.067): a − b, p = 0.006."),
        (
            (0.01, -0.011, 0.03),
            "For the image, no difference is shown: +0.010 (−0.011 to +0.030), a − b, p = 0.006.",
        ),
        ((-0.03, -0.05, -0.01), "With the image, the result is worse: −0.030 (−0.050 to −0.010), a − b, p = 0.006."),
        ((0.01, None, None), "For the image, no difference is shown: +0.010 (no interval), a − b, p = 0.006."),
        ((None, None, None), "What the image adds is not defined (a − b)."),
    ],
)
def test_words_follow_from_the_interval(tmp_path: Path, bounds: tuple[float, ...], words: str) -> None:
    predictions = make_predictions(n=20, passes=0)
    folders = [make_run(tmp_path / name, predictions, mode=mode) for name, mode in (("a", "fused"), ("b", "text"))]
    fused, single = compare(folders, n_bootstrap=10).runs
    value, low, high = bounds
    difference = Difference(value=value, low=low, high=high, p=0.006, method="paired bootstrap")
    assert Ablation(fused=fused, single=single, differences={"macro_roc_auc": difference}).added == words


def test_a_run_alone_has_no_ablation(runs: list[Path]) -> None:
    assert compare(runs[3:4], n_bootstrap=10).ablations == ()
    assert interval_text(Estimate(value=0.5, low=None, high=None)) == "0.500 (no interval)"
