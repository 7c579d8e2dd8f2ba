"""Ensembles average members, pool their passes, and never overwrite another folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_predictions, make_run

from cxr_dist.config.named import named_run
from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.ensemble import average, member_of, prepare_ensemble_folder
from cxr_dist.evaluate.uncertainty import summarise


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_passes_of_all_members_are_pooled(task: str) -> None:
    passes = np.random.default_rng(0).dirichlet(np.full(5, 0.5), size=(3, 8, 40))  # members, passes, samples
    members = [
        dataclasses.replace(make_predictions(task=task, n=40, seed=seed), mc=summarise(passes[seed], task))
        for seed in range(3)
    ]
    result, together = average(members), summarise(passes.reshape(24, 40, 5), task)
    np.testing.assert_array_equal(result.probabilities, np.mean([member.probabilities for member in members], axis=0))
    assert result.mc is not None
    for name in ("mean", "variance", "predictive_entropy", "expected_entropy"):
        np.testing.assert_allclose(getattr(result.mc, name), getattr(together, name), rtol=1e-10, err_msg=name)
    assert result.mc.passes == 24


def test_a_member_is_recorded_with_the_settings_that_distinguish_it() -> None:
    config = named_run("enhanced")
    sections = list(config.data.text_sections)
    fused = {"run": "enhanced", "mode": "fused", "seed": config.seed, "text_sections": sections, "checkpoint_step": 9}
    assert sections
    assert member_of(config, 9) == fused
    image = dataclasses.replace(config, model=dataclasses.replace(config.model, mode="image"))
    assert member_of(image, 9) == fused | {"mode": "image", "text_sections": []}


def test_one_member_is_unchanged_and_no_passes_stay_no_passes() -> None:
    one = make_predictions()
    assert average([one]) is one
    assert average([make_predictions(passes=0), make_predictions(passes=0, seed=1)]).mc is None


@pytest.mark.parametrize("other", [{"data": 8}, {"n": 20}, {"classes": ("a", "b")}, {"task": "multilabel"}])
def test_members_with_different_samples_or_classes_are_refused(other: dict) -> None:
    with pytest.raises(UserError, match="use runs of one data set"):
        average([make_predictions(), make_predictions(**other)])


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    run, other = (make_run(tmp_path / name, make_predictions(n=20)) for name in ("a", "b"))
    with pytest.raises(UserError, match="not an ensemble's folder: choose an empty or new folder for --out"):
        prepare_ensemble_folder(other, [run])
    prepare_ensemble_folder(tmp_path / "new", [run])
    prepare_ensemble_folder(tmp_path / "new", [run])  # a second time, for example for another split
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    facts = json.loads((tmp_path / "new" / "ensemble.json").read_text())
    assert facts == {"format": "cxr_dist ensemble", "settings_of": "a", "unfinished": []}
    for name in ("config.yaml", "environment.json"):
        assert (tmp_path / "new" / name).read_bytes() == (run / name).read_bytes()
    with pytest.raises(UserError, match="has no evaluation"):
        compare([tmp_path / "new"])


def test_unfinished_members_are_recorded(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, make_predictions(n=20), finished=name == "whole") for name in ("whole", "cut")]
    out = tmp_path / "ensemble"
    prepare_ensemble_folder(out, runs)
    shutil.copytree(runs[0] / "evaluation", out / "evaluation")
    assert compare([out], n_bootstrap=10).runs[0].unfinished == "cut"
    prepare_ensemble_folder(out, runs[:1])
    assert compare([out], n_bootstrap=10).runs[0].unfinished == ""
