"""Out-of-fold predictions: those of each run of a cross-validation on its own test fold, pooled as one result.

Each sample is predicted once, by the run that was neither trained nor validated on it, as by scikit-learn's
`cross_val_predict`. Intervals resample the patients of all folds. The probabilities of a fold are calibrated on its own
validation fold, so that those of different runs can be ranked together; a pooled AUC still mixes the scales of several
models (Forman and Scholz, SIGKDD Explorations 2010), and the mean over the folds is shown beside it.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cxr_dist.config.run import Config
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.calibration import scores
from cxr_dist.evaluate.population import population
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import FIELDS, RunResult
from cxr_dist.evaluate.thresholds import at_own_thresholds
from cxr_dist.evaluate.uncertainty import McSummary
from cxr_dist.format.folds import joined, parts_of_fold
from cxr_dist.format.manifest import Manifest
from cxr_dist.run.folder import training_differences

OWN_CALIBRATION = "the calibrator of each fold was chosen on its own validation fold"


def pooled(runs: Sequence[RunResult], split: str, n_bootstrap: int = 1000) -> list[RunResult]:
    """The runs, in which the runs of a cross-validation are replaced by one result, at the place of the first of them.

    Runs that all have the same test fold, and evaluations on other shards, have the same samples and are not pooled.
    Raises UserError if a configuration has a test fold twice or lacks one, so that a sample would not count once.
    """
    own = [run for run in runs if run.fold is not None and not run.evaluation.get("external")]
    if len({run.fold for run in own}) < 2:
        return list(runs)
    groups = [_pool(group, split, n_bootstrap) for group in _configurations(own)]
    names = _unique([group.name for group in groups])
    named = [dataclasses.replace(group, name=name) for group, name in zip(groups, names, strict=True)]
    owner = {run.name: group for group in named for run in group.folds}
    results = [owner.get(run.name, run) for run in runs]
    return list({result.name: result for result in results}.values())


def same_but(allowed: set[str], a: RunResult, b: RunResult) -> bool:
    """Whether two runs have the same training data and differ in no setting except the `allowed` ones."""
    names = {line.split(":")[0] for line in training_differences(a.config, b.config)}
    return names <= allowed and a.environment.get("manifest_sha256") == b.environment.get("manifest_sha256")


def _configurations(runs: Sequence[RunResult]) -> list[list[RunResult]]:
    """The runs that differ in nothing but their fold, each group in the order of the folds."""
    groups: list[list[RunResult]] = []
    for run in runs:
        group = next((group for group in groups if same_but({"data.fold"}, group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [sorted(group, key=lambda run: run.fold or 0) for group in groups]


def _pool(runs: Sequence[RunResult], split: str, n_bootstrap: int) -> RunResult:
    """One configuration's runs, in the order of their folds, as one result."""
    first, name = runs[0], _name(runs)
    _require_all_folds(runs, split, name)
    predictions = _concatenated([run.predictions for run in runs])
    _require_each_sample_once(runs, predictions, name)
    in_training = [run.evaluation["patients_in_training"] for run in runs]
    member = {key: value for key, value in first.members[0].items() if key != "fold"}
    # Blocks that belong to one model, such as an audit or prediction sets, stay with the run of the fold (`folds`).
    evaluation: dict[str, Any] = {name: first.evaluation[name] for name in FIELDS} | {
        "labels_in_reports": first.evaluation.get("labels_in_reports", ""),
        "external": None,
        "members": [member],
        "patients_in_training": None if None in in_training else sum(in_training),
        "checkpoint_step": max(run.evaluation["checkpoint_step"] for run in runs),
        "population": population(predictions),
        "out_of_fold": {"folds": len(runs), "runs": [run.name for run in runs]},
        **assess(predictions, None, n_bootstrap=n_bootstrap),
    }
    return RunResult(
        name=name,
        config=_without_fold(first.config),
        evaluation=evaluation
        | {"calibration": _calibration(runs, predictions), "operating_points": _operating_points(runs, predictions)},
        predictions=predictions,
        history=[],
        environment=first.environment,
        manifest=_of_all_folds(runs),
        unfinished=", ".join(f"{run.name} ({run.unfinished})" for run in runs if run.unfinished),
        folders=tuple(folder for run in runs for folder in run.folders),
        folds=tuple(runs),
    )


def _require_all_folds(runs: Sequence[RunResult], split: str, name: str) -> None:
    manifest = runs[0].manifest
    if manifest is None or not manifest.folds:
        raise UserError(
            f"the number of folds of {name} is not known, because its shards and the copy of their manifest are gone: "
            "put the shards back, or give their folder with --shards"
        )
    require(split != "train", "each sample is in the training split of several folds: compare --split test or val")
    owners: dict[int, list[str]] = {}
    for run in runs:
        owners.setdefault(run.fold or 0, []).append(run.name)
    twice = {fold: names for fold, names in owners.items() if len(names) > 1}
    for fold, names in twice.items():
        raise UserError(
            f"{' and '.join(names)} are runs of one configuration with the same test fold {fold}, so its samples would "
            "count twice: name one of them, or give the runs different seeds"
        )
    missing = [str(fold) for fold in range(manifest.folds) if fold not in owners]
    require(
        not missing,
        f"{name} has runs for {len(owners)} of {manifest.folds} folds, so the samples of test fold "
        f"{', '.join(missing)} would have no prediction: train and evaluate with --data.fold {' and '.join(missing)}, "
        "or compare runs of one fold",
    )


def _require_each_sample_once(runs: Sequence[RunResult], predictions: Predictions, name: str) -> None:
    repeated = sum(count > 1 for count in Counter(predictions.keys).values())
    require(not repeated, f"{repeated} samples of {name} were predicted by more than one run: evaluate all runs again")
    assert runs[0].manifest is not None
    expected = sum(split.samples for split in runs[0].manifest.splits.values())
    require(
        len(predictions) == expected,
        f"the runs of {name} predict {len(predictions)} of the {expected} samples of their shards: evaluate all runs "
        "again",
    )


def _concatenated(parts: Sequence[Predictions]) -> Predictions:
    """The samples of all parts, in order. Stochastic passes are kept if each part has the same number of them."""
    first, summaries = parts[0], [part.mc for part in parts if part.mc is not None]
    same_passes = len(summaries) == len(parts) and len({mc.passes for mc in summaries}) == 1
    calibrated = any(part.uncalibrated is not None for part in parts)
    attributes = dict.fromkeys(name for part in parts for name in part.attributes)
    return Predictions(
        task=first.task,
        classes=first.classes,
        keys=[key for part in parts for key in part.keys],
        patients=[patient for part in parts for patient in part.patients],
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        uncalibrated=np.concatenate([part.raw for part in parts]) if calibrated else None,
        mc=_concatenated_passes(summaries) if same_passes else None,
        attributes={
            name: [value for part in parts for value in part.attributes.get(name, [""] * len(part))]
            for name in attributes
        },
    )


def _concatenated_passes(parts: Sequence[McSummary]) -> McSummary:
    names = ("mean", "variance", "predictive_entropy", "expected_entropy")
    values = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return McSummary(**values, passes=parts[0].passes)


def _calibration(runs: Sequence[RunResult], predictions: Predictions) -> dict[str, Any] | None:
    """The block `calibration`: the effect of the calibrators of all folds; None if no fold has one."""
    blocks = [run.evaluation["calibration"] for run in runs]
    if None in blocks:
        return None
    p, changed = predictions, predictions.uncalibrated is not None
    chosen_on = {name: sum(block["chosen_on"][name] for block in blocks) for name in ("n", "patients")}
    return {
        "chosen_on": blocks[0]["chosen_on"] | chosen_on,
        "method": "by fold",
        "temperature": None,
        "candidates": {},
        "before": scores(p.raw, p.labels, p.task),
        "after": scores(p.probabilities, p.labels, p.task) if changed else None,
        "reason": OWN_CALIBRATION,
    }


def _operating_points(runs: Sequence[RunResult], predictions: Predictions) -> dict[str, Any] | None:
    """The block `operating_points`: each sample is judged at the threshold of its own fold. None if a fold has none."""
    blocks = [run.evaluation["operating_points"] for run in runs]
    if None in blocks:
        return None
    thresholds = [{name: point["threshold"] for name, point in block["per_class"].items()} for block in blocks]
    chosen_on = {name: sum(block["chosen_on"][name] for block in blocks) for name in ("n", "patients")}
    rules = list(dict.fromkeys(block["rule"] for block in blocks))
    return {
        "chosen_on": blocks[0]["chosen_on"] | chosen_on,
        "rule": f"{'; '.join(rules)}; by each run for its own test fold",
        "per_class": at_own_thresholds([run.predictions for run in runs], thresholds, predictions),
    }


def _of_all_folds(runs: Sequence[RunResult]) -> Manifest | None:
    """The manifest of the folder, with the folds as its splits: each run's test split is a fold."""
    manifest = runs[0].manifest
    if manifest is None or any(run.manifest is None for run in runs):
        return manifest
    splits = {
        name: run.manifest.splits["test"]
        for run in runs
        if run.manifest is not None
        for name in parts_of_fold(run.fold or 0, len(runs))["test"]
    }
    return dataclasses.replace(manifest, splits=splits, fold=None)


def all_samples(manifest: Manifest, split: str) -> Manifest:
    """The manifest of a folder of folds with all its samples as one split."""
    return dataclasses.replace(manifest, splits={split: joined(list(manifest.splits.values()))})


def _without_fold(config: Config) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=None))


def _name(runs: Sequence[RunResult]) -> str:
    """`NAME (5 folds)`, where NAME is what the runs' names have in common without the fold, or their named run."""
    return f"{common_name(runs) or runs[0].config.run} ({len(runs)} fold{'s' * (len(runs) > 1)})"


def common_name(runs: Sequence[RunResult]) -> str:
    """What the names of the runs have in common without their fold and, if they differ in it, their seed; else "".

    It is `cv` for `cv/data.fold=0`, `cv/data.fold=1`, ….
    """
    names = [_without_number(run.name, r"(data\.)?fold", run.fold) for run in runs]
    if len({run.config.seed for run in runs}) > 1:
        names = [_without_number(name, "s(eed)?", run.config.seed) for name, run in zip(names, runs, strict=True)]
    return names[0] if len(set(names)) == 1 else ""


def _without_number(name: str, word: str, number: int | None) -> str:
    return re.sub(rf"(^|[,_.\-/ ]+){word}[=_-]?{number}(?!\d)", "", name).strip(",_.-/ ")


def _unique(names: Sequence[str]) -> Iterator[str]:
    """The names, with a number after each that was met before."""
    met: Counter[str] = Counter()
    for name in names:
        met[name] += 1
        yield name if met[name] == 1 else f"{name} [{met[name]}]"
