"""Runs that differ only in their seed are grouped, with the mean, the standard deviation and each value."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import make_ensemble, make_predictions, make_run

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
