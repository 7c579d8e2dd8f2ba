"""Ensembles: the mean of the predictions of several runs on the same samples.

A deep ensemble averages probabilities (Lakshminarayanan et al., NeurIPS 2017). The stochastic passes of all members
are pooled, so the mutual information includes the disagreement between members.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import McSummary, entropy
from cxr_dist.files import holds_something
from cxr_dist.run.folder import is_finished


def member_of(config: Config, step: int) -> dict[str, Any]:
    """A member's entry in metrics.json: the settings that distinguish it from the others, and its checkpoint."""
    fold = {} if config.data.fold is None else {"fold": config.data.fold}
    return fold | {
        "run": config.run,
        "mode": config.model.mode,
        "seed": config.seed,
        "text_sections": list(config.data.text_sections) if config.model.uses_text else [],
        "checkpoint_step": step,
    }


def average(members: Sequence[Predictions]) -> Predictions:
    """The mean of the raw predictions of one or more members, each with the same number of passes.

    Raises UserError if their samples, labels or classes differ.
    """
    first = members[0]
    if len(members) == 1:
        return first
    for other in members[1:]:
        same = (first.task, first.classes, first.keys) == (other.task, other.classes, other.keys)
        if not same or not np.array_equal(first.labels, other.labels):
            raise UserError("the runs of an ensemble predict different classes or samples: use runs of one data set")
    probabilities = np.mean([member.raw for member in members], axis=0)
    summaries = [member.mc for member in members if member.mc is not None]
    mc = _pooled(summaries, first) if summaries else None
    return dataclasses.replace(first, probabilities=probabilities, uncalibrated=None, mc=mc)


def _pooled(members: Sequence[McSummary], predictions: Predictions) -> McSummary:
    """The summary of the passes of all members, pooled as one set of passes."""
    means = np.array([member.mean for member in members])
    mean = means.mean(axis=0)
    # Law of total variance: the mean of the variances plus the variance of the means.
    variance = np.mean([member.variance for member in members], axis=0) + means.var(axis=0)
    return McSummary(
        mean=mean,
        variance=variance,
        predictive_entropy=entropy(mean, predictions.task),
        expected_entropy=np.mean([member.expected_entropy for member in members], axis=0),
        passes=sum(member.passes for member in members),
    )


def prepare_ensemble_folder(out: Path, members: Sequence[Path]) -> None:
    """Create a folder that `cxr-dist compare` can read like a run's, with the first member's settings (rank 0).

    ensemble.json names the members whose training has not finished.

    Raises UserError if `out` holds anything else, such as a run.
    """
    marker = out / "ensemble.json"
    if holds_something(out) and not marker.is_file():
        raise UserError(f"{out} is not an ensemble's folder: choose an empty or new folder for --out")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = {
        "format": "cxr_dist ensemble",
        "settings_of": members[0].resolve().name,
        "unfinished": [member.resolve().name for member in members if not is_finished(member)],
    }
    marker.write_text(json.dumps(facts))
    for name in ("config.yaml", "environment.json"):
        shutil.copyfile(members[0] / name, out / name)
