"""Validation: a model in; its score, which chooses the best checkpoint, and what trackers show out (all ranks)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.classifier import Classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Validated:
    """What one validation found."""

    score: float | None
    """Mean ROC AUC over the classes, by which checkpoints are compared; None where undefined; alike on all ranks."""
    values: dict[str, float] = field(default_factory=dict)
    """validation/NAME -> number, for every defined metric (rank 0; empty on the others)."""
    figures: dict[str, "Figure"] = field(default_factory=dict)
    """validation/NAME -> figure (rank 0; empty on the others)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Callable: evaluates a model on the validation split (all ranks)."""

    config: Config
    manifest: Manifest
    world: World
    device: torch.device
    tokenizer: ReportTokenizer | None

    def __call__(self, model: Classifier) -> Validated:
        """Predict the split on all ranks, compute metrics on rank 0, and tell all ranks the score."""
        predictions = predict_split(
            model,
            self.config,
            self.manifest,
            "val",
            tokenizer=self.tokenizer,
            world=self.world,
            device=self.device,
        )
        values, figures = described(predictions) if self.world.is_main else ({}, {})
        score = values.get("validation/macro/roc_auc", torch.nan)
        score = float(from_main(torch.tensor(score, dtype=torch.float64, device=self.device)))
        return Validated(score=None if score != score else score, values=values, figures=figures)


def described(predictions: Predictions) -> tuple[dict[str, float], dict[str, "Figure"]]:
    """All defined metrics as validation/PATH, and the ROC and, for multiclass tasks, confusion figures."""
    # Imported here: matplotlib and scikit-learn take seconds, and a job's first step need not wait for them.
    from cxr_dist.evaluate.metrics import compute_metrics, confusion_matrix, curves
    from cxr_dist.report import plots

    metrics = compute_metrics(predictions)
    aucs = {name: values["roc_auc"] for name, values in metrics["per_class"].items()}
    figures = {"validation/roc": plots.roc(curves(predictions), aucs)}
    if predictions.task == "multiclass":
        matrix = confusion_matrix(predictions)
        figures["validation/confusion_matrix"] = plots.confusion(matrix, predictions.classes)
    return dict(_scalars(metrics, "validation/")), figures


def _scalars(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The defined numbers of nested metrics, by path; counts and matrices are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value
