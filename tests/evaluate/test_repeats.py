"""Runs that differ only in their seed or test fold are one row, with mean, standard deviation and each value."""

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from made_folds import make_fold_runs
from made_runs import make_ensemble, make_predictions, make_run
from scipy.stats import t, ttest_rel

from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.metrics import strict_json


def seeded(folder: Path, seed: int, **options: object) -> Path:
    return make_run(folder, make_predictions(n=40, passes=0, seed=seed), mode="image", recipe="r", seed=seed, **options)


def test_runs_that_differ_only_in_their_seed_are_a_group(tmp_path: Path) -> None:
    runs = [seeded(tmp_path / f"s{seed}", seed) for seed in (1, 2, 3)]
    runs.append(seeded(tmp_path / "focal", 4, loss="focal"))
    runs.append(seeded(tmp_path / "again", 3))
    runs.append(make_ensemble(tmp_path / "ensemble", make_predictions(n=40), seeds=(1, 2), recipe="r", mode="image"))
    comparison = compare(runs, n_bootstrap=10)
    (group,) = comparison.seeds
    assert [run.name for run in group.runs] == ["s1", "s2", "s3"]
    aucs = [run.estimate("macro", "roc_auc").value for run in comparison.runs[:3]]
    assert group.mean("macro", "roc_auc") == pytest.approx(np.mean(aucs))
    assert group.standard_deviation("macro", "roc_auc") == pytest.approx(np.std(aucs, ddof=1))
    (written,) = comparison.to_dict()["seeds"]
    assert (written["runs"], written["seeds"]) == (["s1", "s2", "s3"], [1, 2, 3])
    assert written["metrics"]["macro_roc_auc"]["values"] == aucs
    strict_json(comparison.to_dict())


def test_runs_of_other_shards_are_no_group(tmp_path: Path) -> None:
    runs = [seeded(tmp_path / f"s{seed}", seed) for seed in (1, 2)]
    environment = runs[1] / "environment.json"
    environment.write_text(environment.read_text().replace('"manifest_sha256": "', '"manifest_sha256": "x'))
    assert compare(runs, n_bootstrap=10).seeds == []


def test_folds_are_one_row_with_numpy_s_mean_and_deviation(tmp_path: Path) -> None:
    runs = make_fold_runs(tmp_path, make_predictions(n=120, passes=0), folds=4)
    comparison = compare(runs, n_bootstrap=10)
    (group,), (row,) = comparison.repeats, comparison.rows
    facts = [json.loads((run / "evaluation/test/metrics.json").read_text())["metrics"] for run in runs]
    aucs = [each["macro"]["roc_auc"] for each in facts]
    assert (group.repeated, group.folds, comparison.seeds) == ("4 folds", [0, 1, 2, 3], [])
    assert (group.values("macro", "roc_auc"), row.name) == (aucs, "r (4 folds)")
    assert row.value("macro", "roc_auc") == comparison.runs[0].estimate("macro", "roc_auc").value
    (written,) = comparison.to_dict()["repeated"]
    assert written["metrics"]["macro_roc_auc"] == {
        "values": aucs,
        "mean": pytest.approx(np.mean(aucs)),
        "standard_deviation": pytest.approx(np.std(aucs, ddof=1)),
    }


def test_groups_of_seeds_are_paired_by_seed_as_scipy_does(tmp_path: Path) -> None:
    runs = [seeded(tmp_path / f"a{seed}", seed) for seed in (1, 2, 3, 4)]
    runs += [seeded(tmp_path / f"b{seed}", seed, loss="focal") for seed in (3, 2, 5, 1)]
    comparison = compare(runs, n_bootstrap=10)
    assert [row.name for row in comparison.rows] == ["a1, a2, a3, a4", "b3, b2, b5, b1"]
    (pairs,) = comparison.repeated_differences
    assert (pairs.paired_by, pairs.method) == ("seed", "the paired t-test")
    assert [(a.name, b.name) for a, b in pairs.pairs] == [("b3", "a3"), ("b2", "a2"), ("b1", "a1")]
    # The made runs of a seed have the same predictions, so every difference is 0 and there is nothing to test.
    assert asdict(pairs.difference("accuracy")) == {
        "values": (0.0, 0.0, 0.0),
        "mean": 0.0,
        "standard_deviation": 0.0,
        "low": None,
        "high": None,
        "p": None,
    }


def changed(run: Path, value: float) -> Path:
    """Give a made run another accuracy."""
    path = run / "evaluation/test/metrics.json"
    facts = json.loads(path.read_text())
    facts["metrics"]["accuracy"] = value
    path.write_text(json.dumps(facts))
    return run


def test_the_paired_test_of_seeds_is_that_of_scipy(tmp_path: Path) -> None:
    first, second = [0.71, 0.75, 0.74], [0.80, 0.77, 0.79]
    runs = [changed(seeded(tmp_path / f"a{s}", s), value) for s, value in enumerate(first)]
    runs += [changed(seeded(tmp_path / f"b{s}", s, loss="focal"), value) for s, value in enumerate(second)]
    found = compare(runs, n_bootstrap=10).repeated_differences[0].difference("accuracy")
    test = ttest_rel(second, first)
    interval = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(np.subtract(second, first)))
    assert found.standard_deviation == pytest.approx(np.std(np.subtract(second, first), ddof=1))
    assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, interval.low, interval.high))


def test_the_variance_of_folds_is_enlarged_for_their_common_training_samples(tmp_path: Path) -> None:
    """Nadeau and Bengio (2003): the variance of the mean is s² (1/K + n_test / n_train), here s² (1/4 + 1/2)."""
    first, second = [0.71, 0.75, 0.74, 0.70], [0.80, 0.77, 0.79, 0.78]
    predictions = dataclasses.replace(make_predictions(n=120, passes=0), patients=[f"p{i}" for i in range(120)])
    options = {"folds": 4, "calibrated": False}
    runs = [
        *map(changed, make_fold_runs(tmp_path, predictions, name="a", recipe="a", **options), first),
        *map(changed, make_fold_runs(tmp_path, predictions, name="b", recipe="b", loss="focal", **options), second),
    ]
    (pairs,) = compare(runs, n_bootstrap=10).repeated_differences
    assert (pairs.paired_by, [(a.fold, b.fold) for a, b in pairs.pairs]) == ("fold", [(k, k) for k in range(4)])
    found, values = pairs.difference("accuracy"), np.subtract(second, first)
    error = np.std(values, ddof=1) * np.sqrt(1 / 4 + 1 / 2)
    assert found.values == pytest.approx(values)
    assert found.p == pytest.approx(2 * t.sf(values.mean() / error, 3))
    assert found.low == pytest.approx(values.mean() - t.ppf(0.975, 3) * error)


def test_seeds_and_folds_together_are_one_row(tmp_path: Path) -> None:
    runs = [
        run
        for seed in (1, 2)
        for run in make_fold_runs(
            tmp_path, make_predictions(n=90, passes=0, seed=seed), name=f"s{seed}-fold", recipe="r", seed=seed
        )
    ]
    comparison = compare(runs, n_bootstrap=10)
    assert [run.name for run in comparison.runs] == ["s1 (3 folds)", "s2 (3 folds)"]
    (group,), (row,) = comparison.repeats, comparison.rows
    assert (group.repeated, len(group.runs), row.run) == ("3 folds × 2 seeds", 6, None)
