"""Validation during training: the score that selects the best checkpoint, and values and figures for the trackers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.retrieval import embed_split, retrieve
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.classifier import Classifier, Encoders
from cxr_dist.model.contrastive import Contrastive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES_TRACKED = 50
"""With more classes no values of single ones are tracked, because TensorBoard is slow with thousands of charts."""
Draw = Callable[[], Mapping[str, "Figure"]]
"""Draws figures by name. It is called when the checkpoint is being written, and an error in it does not end a run."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The results of one validation."""

    score: float | None
    """Mean ROC AUC over the classes, or mean recall of retrieval, by which checkpoints are compared; None if undefined.
    The same on all ranks."""
    values: dict[str, float] = field(default_factory=dict)
    """validation/NAME -> value of every defined metric that `described` logs (rank 0; empty on other ranks)."""
    draw: Draw = dict
    """Draws validation/NAME -> figure (rank 0; none on other ranks)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Callable that evaluates a model on the validation split (all ranks)."""

    config: Config
    manifest: Manifest
    world: World
    tokenizer: ReportTokenizer | None

    def __call__(self, model: Encoders) -> Validated:
        """Predict the split on all ranks, compute metrics on rank 0, and broadcast the score."""
        assert isinstance(model, Classifier)
        config, manifest, world = self.config, self.manifest, self.world
        predictions = predict_split(model, config, manifest, "val", tokenizer=self.tokenizer, world=world)
        values, draw = described(predictions) if world.is_main else ({}, dict)
        return Validated(score=_from_main(values.get("validation/macro/roc_auc"), world), values=values, draw=draw)


@dataclass(frozen=True, kw_only=True)
class RetrievalValidation:
    """Callable that evaluates a contrastive model by retrieval on the validation split (all ranks)."""

    config: Config
    manifest: Manifest
    world: World
    tokenizer: ReportTokenizer | None

    def __call__(self, model: Encoders) -> Validated:
        """Embed the split on all ranks. The score is the mean recall; None without a sample that has a report."""
        assert isinstance(model, Contrastive)
        embedded = embed_split(model, self.config, self.manifest, "val", tokenizer=self.tokenizer, world=self.world)
        values = retrieve(embedded).values if self.world.is_main else {}
        logged = {f"validation/retrieval/{name}": value for name, value in values.items()}
        return Validated(score=_from_main(values.get("mean_recall"), self.world), values=logged)


def _from_main(score: float | None, world: World) -> float | None:
    """Rank 0's score on every rank (all ranks); None if it is undefined."""
    known = torch.tensor(torch.nan if score is None else score, dtype=torch.float64, device=world.device)
    value = float(from_main(known))
    return None if value != value else value


def described(predictions: Predictions) -> tuple[dict[str, float], Draw]:
    """All defined metrics as validation/PATH; a function that draws ROC and, if multiclass, confusion matrix.

    With more than 50 classes the values of each class are left out: `cxr-dist evaluate` has them.
    """
    # Imported here because matplotlib and scikit-learn take seconds, which would delay the first step.
    from cxr_dist.evaluate.metrics import compute_metrics, confusion_matrix, curves

    metrics = compute_metrics(predictions)

    def draw() -> dict[str, "Figure"]:
        from cxr_dist.report import plots
        from cxr_dist.report.confusion_plot import confusion

        aucs = {name: values["roc_auc"] for name, values in metrics["per_class"].items()}
        figures = {"validation/roc": plots.roc(curves(predictions), aucs)}
        if predictions.task == "multiclass":
            matrix = confusion_matrix(predictions)
            figures["validation/confusion_matrix"] = confusion(matrix, predictions.classes)
        return figures

    many = len(predictions.classes) > MOST_CLASSES_TRACKED
    logged = {name: value for name, value in metrics.items() if not (many and name == "per_class")}
    return dict(_scalars(logged, "validation/")), draw


def _scalars(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The defined values of nested metrics by path, without counts and matrices."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value
