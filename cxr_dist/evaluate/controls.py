"""Shortcut controls: what logistic regressions reach on view, age and sex alone, and on thumbnails, without a network.

A network that is no better than these may have learned how the images were made, or who was imaged, rather than the
finding (Zech et al., PLOS Medicine 2018; Degrave et al., Nature Machine Intelligence 2021). The controls are trained on
the training split of the runs' shards and judged on the same samples, by the same metrics and intervals, as the runs.
Those of a cross-validation are trained anew for each test fold, and their predictions are pooled as the runs' are.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from cxr_dist import __version__
from cxr_dist.data.origin import is_remote
from cxr_dist.data.place import at
from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.control_features import SIDE, ControlFeatures, read_control_features
from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import compute_metrics, strict_json
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import Estimate, RunResult, estimate_in
from cxr_dist.files import write_whole
from cxr_dist.format.manifest import UNKNOWN, Manifest

CACHE = "controls.json"
"""The file beside a run's metrics.json that keeps the controls of its shards; it holds metrics only."""
MOST_TRAINED = 20_000
"""A larger training split is sampled, so that `compare` stays quick."""
_ORDER = ("view", "age", "sex")
_ITERATIONS = 2000
_Part = tuple[ControlFeatures, ControlFeatures]
"""The features of training samples, and of the samples to predict."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A logistic regression on one kind of feature, judged on the test samples of the runs."""

    features: str
    """What it sees, in words."""
    trained_on: int
    """Number of training samples; in a cross-validation, the smallest."""
    evaluation: dict[str, Any]
    """`metrics` and `intervals`, as in metrics.json."""

    def estimate(self, *path: str) -> Estimate:
        """The metric at a path of keys, such as ("macro", "f1"), with its interval."""
        return estimate_in(self.evaluation, *path)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The controls of a comparison."""

    rows: tuple[Control, ...] = ()
    reason: str = ""
    """Why controls are missing; empty if none is, or if none was asked for."""


def shortcut_controls(
    run_dirs: Sequence[Path], runs: Sequence[RunResult], split: str, shards: str | None, n_bootstrap: int = 1000
) -> Controls:
    """Train and judge the controls of compared runs, or read them from the folder of a run that keeps them.

    `shards` is the folder of the shards if they have moved since training. Nothing is raised if shards are missing or
    damaged: the reason is part of the result.
    """
    if split not in ("val", "test") or runs[0].evaluation.get("external"):
        return Controls(reason="controls are trained on the runs' own training split and judged on its val or test")
    own, folders = [run for run in runs if _own(run)], [folder / "evaluation" / split for folder in run_dirs]
    for key in (_key(run, split, n_bootstrap) for run in own):
        kept = next(filter(None, (_kept(folder / CACHE, key) for folder in folders)), None)
        if kept is not None:
            return kept
    chosen = next((run for run in own if _shards_of(run, split)), None)
    if chosen is None or chosen.manifest is None:
        return Controls(reason="the shards that the runs were trained on are not at hand: give their folder (--shards)")
    if is_remote(at(chosen.config.data, shards).shards):
        return Controls(reason="the shards are at a URL: give a local copy with --shards")
    try:
        parts = [_features(run, split, shards) for run in chosen.folds or (chosen,)]
    except UserError as error:
        return Controls(reason=str(error))
    if sorted(key for _, test in parts for key in test.keys) != sorted(runs[0].predictions.keys):
        return Controls(reason="the shards hold other samples than those that the runs were evaluated on")
    controls = train_controls(parts, chosen.manifest, n_bootstrap)
    with suppress(OSError):  # a run folder that may only be read
        write_whole(folders[0] / CACHE, strict_json({"key": _key(chosen, split, n_bootstrap), **asdict(controls)}))
    return controls


def _features(run: RunResult, split: str, shards: str | None) -> _Part:
    assert run.manifest is not None
    data = at(run.config.data, shards)
    training = read_control_features(data, run.manifest, "train", MOST_TRAINED)
    return training, read_control_features(data, run.manifest, split)


def train_controls(parts: Sequence[_Part], manifest: Manifest, n_bootstrap: int = 1000) -> Controls:
    """Fit both controls on the training features of each part, and judge them on the test features of all parts.

    There is one part, (training features, test features), or one for each test fold of a cross-validation.
    """
    # Imported here because it is slow, and a comparison with kept controls fits nothing.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    known = [name for name in _ORDER if any(any(training.attributes[name]) for training, _ in parts)]
    reason = "" if known else "view, age and sex are not recorded in the shards"
    regression, rows = LogisticRegression(max_iter=_ITERATIONS), dict[str, list[Floats]]()
    if known:
        model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), regression)
        rows[_in_words(known)] = [
            _predict(model, _columns(training, known), _columns(test, known), training, manifest)
            for training, test in parts
        ]
    model = make_pipeline(StandardScaler(), regression)
    rows[f"thumbnails of {SIDE}×{SIDE} pixels"] = [
        _predict(model, training.thumbnails, test.thumbnails, training, manifest) for training, test in parts
    ]
    tests = [test for _, test in parts]
    judged = tuple(
        Control(
            features=features,
            trained_on=min(len(training.keys) for training, _ in parts),
            evaluation=_judge(tests, np.concatenate(probabilities), manifest, n_bootstrap),
        )
        for features, probabilities in rows.items()
    )
    return Controls(rows=judged, reason=reason)


def _predict(
    model: Any, columns: NDArray[Any], test_columns: NDArray[Any], training: ControlFeatures, manifest: Manifest
) -> Floats:
    """The probabilities [n, C] of test samples; multilabel: of one regression for each label, on its known labels."""
    labels, number = training.labels, len(manifest.classes)
    probabilities = np.zeros((len(test_columns), number))
    if manifest.task == "multiclass":
        found = np.unique(labels[:, 0])
        probabilities[:, found] = _fitted(model, columns, labels[:, 0], test_columns)
        return probabilities
    for label in range(number):
        known = labels[:, label] != UNKNOWN
        found = np.unique(labels[known, label])
        if 1 in found:
            of_label = _fitted(model, columns[known], labels[known, label], test_columns)
            probabilities[:, label] = of_label[:, found.tolist().index(1)]
    return probabilities


def _fitted(model: Any, columns: NDArray[Any], truth: NDArray[np.int16], test_columns: NDArray[Any]) -> Floats:
    """The probabilities of the classes that occur in training, in their order; 1 for a single one."""
    if len(np.unique(truth)) < 2:
        return np.ones((len(test_columns), 1))
    return np.asarray(model.fit(columns, truth).predict_proba(test_columns), dtype=np.float64)


def _judge(
    tests: Sequence[ControlFeatures], probabilities: Floats, manifest: Manifest, n_bootstrap: int
) -> dict[str, Any]:
    predictions = Predictions(
        task=manifest.task,
        classes=manifest.classes,
        keys=[key for test in tests for key in test.keys],
        patients=[patient for test in tests for patient in test.patients],
        labels=np.concatenate([test.labels for test in tests]),
        probabilities=probabilities,
    )
    return {"metrics": compute_metrics(predictions), "intervals": intervals(predictions, n_bootstrap)}


def _columns(features: ControlFeatures, names: Sequence[str]) -> NDArray[Any]:
    """[n, len(names)] values; "" for an attribute that is not recorded, which is a category of its own."""
    return np.array([features.attributes[name] for name in names], dtype=object).T


def _in_words(names: Sequence[str]) -> str:
    """`view, age and sex`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _own(run: RunResult) -> bool:
    """Whether the run was evaluated on the shards that it was trained on."""
    return bool(run.evaluation["manifest_sha256"] == run.environment.get("manifest_sha256"))


def _shards_of(run: RunResult, split: str) -> bool:
    """Whether the manifest, of each fold, lists the shards of the training split and of this one."""
    if run.folds:
        return all(_shards_of(fold, split) for fold in run.folds)
    splits = {} if run.manifest is None else run.manifest.splits
    return all(name in splits and len(splits[name].shards) for name in ("train", split))


def _key(run: RunResult, split: str, n_bootstrap: int) -> dict[str, Any]:
    """What the controls depend on."""
    return {
        "manifest_sha256": run.evaluation["manifest_sha256"],
        "fold": "each" if run.folds else run.config.data.fold,
        "split": split,
        "n_bootstrap": n_bootstrap,
        "versions": {"cxr_dist": __version__, "scikit-learn": sklearn.__version__},
    }


def _kept(path: Path, key: Mapping[str, Any]) -> Controls | None:
    """The controls in a file that an earlier comparison wrote; None for those of other shards or versions."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            return None
        return replace(Controls(reason=kept["reason"]), rows=tuple(Control(**row) for row in kept["rows"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
