"""Reads a finished run folder: configuration, metrics, predictions, training history, environment and manifest.

All values are those that the run recorded; nothing is recomputed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.config.decode import parse_record
from cxr_dist.config.file import load_config
from cxr_dist.config.run import Config
from cxr_dist.data.place import at
from cxr_dist.errors import UserError
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.files import json_lines
from cxr_dist.format.manifest import SPLITS, Manifest
from cxr_dist.run.folder import is_finished
from cxr_dist.run.image_weights import StartedFrom, read_image_weights
from cxr_dist.run.trained_on import training_manifest

FIELDS = (
    "run",
    "mode",
    "split",
    "text_sections",
    "split_by",
    "made_data",
    "label_source",
    "label_terms_redacted",
    "patients_in_training",
    "manifest_sha256",
    "checkpoint_step",
    "members",
    "mc_scope",
)
"""Fields of metrics.json, apart from the blocks of `assess`."""
BLOCKS = ("metrics", "intervals", "calibration", "operating_points", "subgroups")
_METRICS: dict[str, type] = {"task": str, "n": int, "macro": dict, "per_class": dict}
"""What is read of the block `metrics` without a check of its own."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric with its 95% interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The records of a finished run."""

    name: str
    """Name of the run folder, unique within a comparison."""
    config: Config
    evaluation: dict[str, Any]
    """Content of metrics.json for the split."""
    predictions: Predictions
    history: list[dict[str, Any]]
    """Lines of metrics.jsonl."""
    environment: dict[str, Any]
    manifest: Manifest | None
    """Of the shards that the run was trained on; lists no shards if they are gone. None if nothing is known."""
    unfinished: str
    """That training had not finished, and at which step it was; empty if it had."""
    folders: tuple[Path, ...] = ()
    """The run folder; those of all folds for pooled runs."""
    folds: tuple["RunResult", ...] = ()
    """The runs of a cross-validation, by fold, whose out-of-fold predictions these are; see out_of_fold.py."""
    image_weights: StartedFrom | None = None
    """The file from which the image encoder started; None without one."""

    @property
    def fold(self) -> int | None:
        """The test fold of a run on shards with folds."""
        return self.config.data.fold

    @property
    def models(self) -> tuple["RunResult", ...]:
        """The run, or the runs of all folds: each has an audit and scores against boxes of its own."""
        return self.folds or (self,)

    @property
    def mode(self) -> str:
        """`image`, `text` or `fused`."""
        return str(self.evaluation["mode"])

    @property
    def members(self) -> list[dict[str, Any]]:
        """The `member_of` entry of each run that was averaged; a single run has one."""
        return list(self.evaluation["members"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The result of `compute_metrics`."""
        return dict(self.evaluation["metrics"])

    def estimate(self, *path: str) -> Estimate:
        """The metric at a path of keys, such as ("macro", "f1"), with its interval."""
        return estimate_in(self.evaluation, *path)


def estimate_in(evaluation: Mapping[str, Any], *path: str) -> Estimate:
    """The metric at a path of keys in the content of a metrics.json, with its interval."""
    value, interval = evaluation["metrics"], evaluation["intervals"]
    for key in path:
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"metrics.json lacks {'/'.join(path)} in its metrics: run `cxr-dist evaluate` again")
        value, interval = value[key], interval.get(key, {})
        if not isinstance(interval, dict):
            raise UserError(f"metrics.json lacks {'/'.join(path)} in its intervals: run `cxr-dist evaluate` again")
    return Estimate(value=value, low=interval.get("low"), high=interval.get("high"))


def read_run(folder: Path, name: str, split: str, shards: str | None = None) -> RunResult:
    """Read a run folder; raises UserError, with the command to run, if it or its evaluation is incomplete.

    `split` may also be the name of an evaluation of other shards.
    `shards` is the folder of the shards if they have moved since training.
    """
    config = load_config(folder / "config.yaml")
    evaluated = folder / "evaluation" / split
    asked = f"--split {split}" if split in SPLITS else f"--shards OTHER --name {split}"
    again = f"run `cxr-dist evaluate {folder} {asked}`"
    if not (evaluated / "metrics.json").is_file():
        raise UserError(f"{name} has no evaluation on split {split!r}: {again}")
    evaluation = read_record(evaluated / "metrics.json")
    lacking = [field for field in (*FIELDS, *BLOCKS) if field not in evaluation]
    lacking += [field for field in ("metrics", "intervals") if not isinstance(evaluation.get(field, {}), dict)]
    metrics = {} if lacking else evaluation["metrics"]
    lacking = lacking or [f"metrics.{key}" for key, kind in _METRICS.items() if not isinstance(metrics.get(key), kind)]
    if lacking:
        raise UserError(f"metrics.json of {name} lacks {', '.join(lacking)}: {again} again")
    predictions = Predictions.read_csv(evaluated / "predictions.csv")
    if len(predictions) != evaluation["metrics"]["n"]:
        raise UserError(
            f"predictions.csv of {name} has {len(predictions)} rows, but its metrics.json says "
            f"{evaluation['metrics']['n']}: {again} again"
        )
    not_evaluated = (evaluation.get("external") or {}).get("classes_not_evaluated", ())
    predictions = dataclasses.replace(predictions, not_evaluated=tuple(not_evaluated))
    environment = read_record(folder / "environment.json")
    placed = dataclasses.replace(config, data=at(config.data, shards))
    manifest = training_manifest(folder, placed, environment.get("manifest_sha256", ""))
    return RunResult(
        name=name,
        config=config,
        evaluation=evaluation,
        predictions=predictions,
        history=_read_history(folder / "metrics.jsonl"),
        environment=environment,
        manifest=manifest,
        unfinished=unfinished(folder, config, manifest),
        folders=(folder,),
        image_weights=read_image_weights(folder),
    )


def unfinished(folder: Path, config: Config, manifest: Manifest | None) -> str:
    """`step 180 of 240` if the run in this folder has not finished training, or which members have not; else empty."""
    ensemble = folder / "ensemble.json"
    if ensemble.is_file():
        return ", ".join(read_record(ensemble).get("unfinished", []))
    if is_finished(folder):
        return ""
    history = _read_history(folder / "metrics.jsonl")
    step = f"step {history[-1]['step'] if history else 0}"
    epochs, most = config.train.epochs, config.train.max_steps
    if manifest is None:
        return f"{step} of {f'at most {most}' if most else f'{epochs} epochs'}"
    total = epochs * (manifest.splits["train"].samples // config.data.global_batch)
    return f"{step} of {min(total, most) if most else total}"


def finished_predictions(
    folder: Path, split: str, members: list[dict[str, Any]], manifest_sha256: str
) -> Predictions | None:
    """The predictions of an earlier evaluation of these checkpoints on these shards; None if there is none."""
    evaluated = folder / "evaluation" / split
    if not (evaluated / "metrics.json").is_file():
        return None
    evaluation = read_record(evaluated / "metrics.json")
    same = (evaluation.get("members"), evaluation.get("manifest_sha256")) == (members, manifest_sha256)
    return Predictions.read_csv(evaluated / "predictions.csv") if same else None


def aligned(run: RunResult, keys: Sequence[str]) -> RunResult:
    """The run with its predictions in the order of `keys`, a permutation of its own."""
    row_of = {key: row for row, key in enumerate(run.predictions.keys)}
    rows = np.array([row_of[key] for key in keys])
    return dataclasses.replace(run, predictions=run.predictions.select(rows))


def read_record(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder; raises UserError if it is missing or broken."""
    if not path.exists():
        raise UserError(f"no {path.name} in {path.parent}: that is not a complete run folder")
    return parse_record(path, str(path))


def _read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have a step."""
    return [line for line in json_lines(path) if isinstance(line.get("step"), int)]
