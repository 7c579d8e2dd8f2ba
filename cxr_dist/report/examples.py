"""Examples for the page, on request: a run's most uncertain and most wrong cases, with film and report.

What comes out is patient data (unless the data set is made): nothing here runs unless a person asked for it.
Films and reports are read from the very shards that the run was evaluated on.
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
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.evaluate.uncertainty import entropy
from cxr_dist.files import sha256_of
from cxr_dist.format.image import encode_jpeg
from cxr_dist.format.manifest import UNKNOWN, Manifest, load_manifest
from cxr_dist.format.stored_sample import image_names

_LONGEST_SIDE = 320  # pixels of a film on the page
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """What is true of one class of a case, and what the model said."""

    name: str
    label: str
    """`yes`, `no` or `unknown`."""
    probability: float
    spread: tuple[float, float] | None
    """Mean and standard deviation over the stochastic passes; None without passes."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One case as the page shows it."""

    key: str
    """The sample's key in the shards."""
    films: tuple[str, ...]
    """Data URIs of grey JPEGs, at most 320 pixels long; one, unless the sample is a study of several."""
    sections: dict[str, str]
    """The report's sections that the model was given, by name, in its order."""
    truth: str
    answer: str
    right: bool
    classes: tuple[ClassRow, ...]
    entropy: float
    """Predictive entropy, nats: of the mean over the passes where there are some."""


@dataclass(frozen=True, kw_only=True)
class RunExamples:
    """The cases of one run."""

    most_uncertain: tuple[Example, ...]
    """The most uncertain first."""
    most_wrong: tuple[Example, ...]
    """The lowest probability of the truth first; empty where no answer is wrong."""


def examples_of(run: RunResult, count: int, shards: str | None = None) -> RunExamples:
    """Up to `count` cases of each kind; `shards` says where the shards have moved.

    Raises UserError where the shards are not those of the evaluation, or a sample is damaged.
    """
    data = at(run.config.data, shards)
    manifest = _evaluated_shards(run, data)
    with contextlib.closing(open_store(data, manifest, str(run.evaluation["split"]))) as store:
        return RunExamples(
            most_uncertain=_read(run, store, most_uncertain(run.predictions, count)),
            most_wrong=_read(run, store, most_wrong(run.predictions, count)),
        )


def most_uncertain(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """[count or n] samples of the highest predictive entropy; the first of equals first."""
    return np.argsort(-_entropy(predictions), kind="stable")[:count]


def most_wrong(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """[count or fewer] samples with a wrong answer, by the probability that a label missed, the most first.

    For multilabel, by the known label that was missed the furthest. Equals are in the split's order.
    """
    order = np.argsort(-_missed(predictions), kind="stable")
    return order[_wrong(predictions)[order]][:count]


def _entropy(p: Predictions) -> NDArray[np.float64]:
    return entropy(p.probabilities, p.task) if p.mc is None else p.mc.predictive_entropy


def _missed(p: Predictions) -> NDArray[np.float64]:
    """[n] largest |label - probability| over the known labels; for multiclass 1 - the true class's probability."""
    if p.task == "multiclass":
        missed = 1.0 - np.take_along_axis(p.probabilities, p.labels.astype(np.int64), axis=1)
    else:
        missed = np.where(p.labels == UNKNOWN, 0.0, np.abs(p.labels - p.probabilities))
    return np.asarray(missed.max(axis=1))


def _wrong(p: Predictions) -> NDArray[np.bool_]:
    if p.task == "multiclass":
        return np.asarray(p.predicted != p.labels[:, 0])
    return np.asarray(((p.predicted != p.labels) & (p.labels != UNKNOWN)).any(axis=1))


def _evaluated_shards(run: RunResult, data: DataConfig) -> Manifest:
    path = shards_folder(data) / "manifest.json"
    if not path.is_file() or sha256_of(path) != run.evaluation["manifest_sha256"]:
        found = "another manifest.json is" if path.is_file() else "no manifest.json is"
        raise UserError(
            f"{found} where {run.name} should have its shards: examples are read from the shards that it was "
            "evaluated on. Name the right ones with --shards, or evaluate the run again on those at hand"
        )
    return load_manifest(path.parent)


def _read(run: RunResult, store: ShardStore, rows: NDArray[np.int64]) -> tuple[Example, ...]:
    places = _places(store, [run.predictions.keys[row] for row in rows])
    return tuple(_example(run, int(row), store.read(*place)) for row, place in zip(rows, places, strict=True))


def _places(store: ShardStore, keys: Sequence[str]) -> list[tuple[int, int]]:
    """(shard, sample) of each key."""
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
        films=tuple(_data_uri(sample[name]) for name in image_names(sample)),
        sections={name: text[name] for name in run.evaluation["text_sections"] if text.get(name)},
        truth=", ".join(each.name for each in classes if each.label == "yes") or "none",
        answer=_answer(case),
        right=not _wrong(case)[0],
        classes=classes,
        entropy=float(_entropy(case)[0]),
    )


def _answer(case: Predictions) -> str:
    if case.task == "multiclass":
        return case.classes[int(case.predicted[0])]
    return ", ".join(name for c, name in enumerate(case.classes) if case.predicted[0, c]) or "none"


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
    """The stored film as a small JPEG inside the page."""
    grey = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey is not None  # the store has checked the bytes
    scale = min(1.0, _LONGEST_SIDE / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small, _QUALITY)).decode("ascii")
