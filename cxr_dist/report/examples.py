"""Examples for the page: the most uncertain and the most wrong cases of a run, with image and report.

Unless the data set is synthetic, the result is patient data, so this module runs only when the user asks for
examples. Images and reports are read from the shards that the run was evaluated on.
"""

import base64
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import at, open_store, shards_folder
from cxr_dist.data.store import ShardStore
from cxr_dist.errors import UserError
from cxr_dist.evaluate.out_of_fold import all_samples
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.evaluate.uncertainty import entropy
from cxr_dist.files import sha256_of
from cxr_dist.format.folds import of_fold
from cxr_dist.format.image import encode_jpeg
from cxr_dist.format.manifest import UNKNOWN, Manifest, load_manifest
from cxr_dist.format.stored_sample import image_names

_MOST_CLASSES = 20  # of a case; a longer table would hide the next case
_LONGEST_SIDE = 320  # of an image on the page, in pixels
_QUALITY = 80  # of its JPEG


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """The label and the predicted probability of one class of a case."""

    name: str
    label: str
    """`yes`, `no` or `unknown`."""
    probability: float
    spread: tuple[float, float] | None
    """Mean and standard deviation over the stochastic passes; None without passes."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One case, as shown on the page."""

    key: str
    """The sample's key in the shards."""
    images: tuple[str, ...]
    """Data URIs of greyscale JPEGs of at most 320 pixels a side; several if the sample is a study of several images."""
    sections: dict[str, str]
    """Name -> text of the report sections that the model reads, in the order in which it reads them."""
    truth: str
    prediction: str
    correct: bool
    classes: tuple[ClassRow, ...]
    """In the order of the task; of more than 20, the most probable ones, and in a multiclass task that of the label."""
    num_classes: int
    """How many classes the task has."""
    entropy: float
    """Predictive entropy in nats; of the mean over the stochastic passes if there are any."""


@dataclass(frozen=True, kw_only=True)
class RunExamples:
    """The examples of one run."""

    most_uncertain: tuple[Example, ...]
    """In decreasing order of uncertainty."""
    most_wrong: tuple[Example, ...]
    """In increasing order of the probability of the label; empty if every prediction is correct."""


def examples_of(run: RunResult, count: int, shards: str | None = None) -> RunExamples:
    """Return up to `count` cases of each kind; `shards` is the folder of the shards if they have moved.

    Raises UserError if the shards are not those of the evaluation or if a sample is damaged.
    """
    data = at(run.config.data, shards)
    manifest = _evaluated_shards(run, data)
    with contextlib.closing(open_store(data, manifest, str(run.evaluation["split"]))) as store:
        return RunExamples(
            most_uncertain=_read(run, store, most_uncertain(run.predictions, count)),
            most_wrong=_read(run, store, most_wrong(run.predictions, count)),
        )


def most_uncertain(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` most uncertain samples; ties keep the order of the split."""
    return np.argsort(-_entropy(predictions), kind="stable")[:count]


def most_wrong(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Return the indices of at most `count` wrongly predicted samples, those with the largest error first.

    The error is 1 minus the probability of the label; for multilabel tasks, the largest error among the known labels.
    Ties keep the order of the split.
    """
    order = np.argsort(-_error(predictions), kind="stable")
    return order[_wrong(predictions)[order]][:count]


def _entropy(p: Predictions) -> NDArray[np.float64]:
    return entropy(p.probabilities, p.task) if p.mc is None else p.mc.predictive_entropy


def _error(p: Predictions) -> NDArray[np.float64]:
    """[n] the largest |label - probability| over the known labels; for multiclass, that of the true class."""
    if p.task == "multiclass":
        error = 1.0 - np.take_along_axis(p.probabilities, p.labels.astype(np.int64), axis=1)
    else:
        error = np.where(p.labels == UNKNOWN, 0.0, np.abs(p.labels - p.probabilities))
    return np.asarray(error.max(axis=1))


def _wrong(p: Predictions) -> NDArray[np.bool_]:
    if p.task == "multiclass":
        return np.asarray(p.predicted != p.labels[:, 0])
    return np.asarray(((p.predicted != p.labels) & (p.labels != UNKNOWN)).any(axis=1))


def _evaluated_shards(run: RunResult, data: DataConfig) -> Manifest:
    path = shards_folder(data) / "manifest.json"
    if not path.is_file() or sha256_of(path) != run.evaluation["manifest_sha256"]:
        problem = "a different manifest.json" if path.is_file() else "no manifest.json"
        raise UserError(
            f"the shard folder of {run.name} contains {problem}: examples are read from the shards that the run was "
            "evaluated on. Give their folder with --shards, or evaluate the run again on the present shards"
        )
    manifest = load_manifest(path.parent)
    if run.folds:
        return all_samples(manifest, str(run.evaluation["split"]))
    return of_fold(manifest, data.fold if manifest.folds else None)  # other shards than the run's have no folds


def _read(run: RunResult, store: ShardStore, rows: NDArray[np.int64]) -> tuple[Example, ...]:
    places = _places(store, [run.predictions.keys[row] for row in rows])
    return tuple(_example(run, int(row), store.read(*place)) for row, place in zip(rows, places, strict=True))


def _places(store: ShardStore, keys: Sequence[str]) -> list[tuple[int, int]]:
    """Return (shard, index in the shard) of each key."""
    wanted, found = np.array(keys, dtype="S32"), dict[bytes, tuple[int, int]]()
    for shard in range(len(store.shards)):
        stored = store.index(shard)["key"]
        found |= {stored[i]: (shard, int(i)) for i in np.flatnonzero(np.isin(stored, wanted))}
    return [found[key] for key in wanted]


def _example(run: RunResult, row: int, sample: dict[str, Any]) -> Example:
    predictions, text = run.predictions, json.loads(sample["json"])["text"]
    case = predictions.select(np.array([row]))
    classes = tuple(_class_row(case, c) for c in range(len(case.classes)))
    return Example(
        key=case.keys[0],
        images=tuple(_data_uri(sample[name]) for name in image_names(sample)),
        sections={name: text[name] for name in run.evaluation["text_sections"] if text.get(name)},
        truth=_listed([each.name for each in classes if each.label == "yes"]),
        prediction=_prediction(case),
        correct=not _wrong(case)[0],
        classes=_shown(case, classes),
        num_classes=len(classes),
        entropy=float(_entropy(case)[0]),
    )


def _prediction(case: Predictions) -> str:
    if case.task == "multiclass":
        return case.classes[int(case.predicted[0])]
    return _listed([name for c, name in enumerate(case.classes) if case.predicted[0, c]])


def _listed(names: Sequence[str]) -> str:
    further = len(names) - _MOST_CLASSES
    return (", ".join(names[:_MOST_CLASSES]) or "none") + (f" and {further} more" if further > 0 else "")


def _shown(case: Predictions, rows: tuple[ClassRow, ...]) -> tuple[ClassRow, ...]:
    chosen = set(np.argsort(-case.probabilities[0], kind="stable")[:_MOST_CLASSES].tolist())
    chosen |= {int(case.labels[0, 0])} if case.task == "multiclass" else set()
    return tuple(row for c, row in enumerate(rows) if c in chosen)


def _class_row(case: Predictions, c: int) -> ClassRow:
    label = int(case.labels[0, 0] == c) if case.task == "multiclass" else int(case.labels[0, c])
    mc = case.mc
    return ClassRow(
        name=case.classes[c],
        label={1: "yes", 0: "no", UNKNOWN: "unknown"}[label],
        probability=float(case.probabilities[0, c]),
        spread=None if mc is None else (float(mc.mean[0, c]), float(np.sqrt(mc.variance[0, c]))),
    )


def _data_uri(jpeg: bytes) -> str:
    """Return the stored image as the data URI of a smaller JPEG."""
    grey = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey is not None  # the store has checked the bytes
    scale = min(1.0, _LONGEST_SIDE / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small, _QUALITY)).decode("ascii")
