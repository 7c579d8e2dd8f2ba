"""What training shows in TensorBoard (rank 0): scalars, ROC and confusion figures, samples drawn per class.

matplotlib and scikit-learn are imported at the first validation: a job's first step need not wait for them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from cxr_dist.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoardSink:
    """Writes event files into the run folder."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """A resumed run gives the first step that it will write anew: TensorBoard drops what was there."""
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)  # type: ignore[no-untyped-call]

    def step(self, scalars: Mapping[str, float], step: int) -> None:
        """One logged training step: train/NAME."""
        for name, value in scalars.items():
            self._scalar(f"train/{name}", value, step)

    def validation(self, metrics: Mapping[str, Any], predictions: Predictions, step: int) -> None:
        """What `compute_metrics` found, as validation/…, and the figures; undefined values leave a gap."""
        from cxr_dist.evaluate.metrics import confusion_matrix, curves
        from cxr_dist.report import plots

        for name, value in _scalars(metrics):
            self._scalar(f"validation/{name}", value, step)
        aucs = {name: values["roc_auc"] for name, values in metrics["per_class"].items()}
        self._figure("validation/roc", plots.roc(curves(predictions), aucs), step)
        if predictions.task == "multiclass":
            figure = plots.confusion(confusion_matrix(predictions), predictions.classes)
            self._figure("validation/confusion_matrix", figure, step)

    def draws(self, counts: Mapping[str, int], step: int) -> None:
        """Samples drawn per class since the last call: draws/CLASS."""
        for name, count in counts.items():
            self._scalar(f"draws/{name}", count, step)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._writer.close()  # type: ignore[no-untyped-call]

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)  # type: ignore[no-untyped-call]

    def _figure(self, tag: str, figure: "Figure", step: int) -> None:
        self._writer.add_figure(tag, figure, step)  # type: ignore[no-untyped-call]


def _scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The defined numbers of nested metrics, by path; counts and matrices are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value
