"""The modality audit: how far each metric falls if samples get the images, or the reports, of other patients.

A model that does not use an input predicts the same with another patient's. Inputs of patients with the same label
show what the model takes from an input beyond the label; those of other labels show what it takes from it at all. This
is permutation importance (Breiman, Machine Learning 2001) of whole inputs, within and between labels. A fall is paired:
both values are computed from the same samples, and resampled over the same patients.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.swap import Modality
from cxr_dist.evaluate.ablation import MAIN, interval_text
from cxr_dist.evaluate.arrays import Bools
from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER
from cxr_dist.evaluate.donors import NO_DONOR, Kind
from cxr_dist.evaluate.intervals import MetricPath, Resampled, resampled
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.paired import Difference, bootstrap_difference
from cxr_dist.evaluate.predictions import Predictions

MODALITIES: tuple[Modality, ...] = ("image", "report")
SEED = 0
"""Of the swaps and of the bootstrap: the same swaps for every run on the same samples."""
_PATHS: dict[str, MetricPath] = HEADLINE | LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """The predictions of a split for swapped images or reports, calibrated like those for its own."""

    predictions: Predictions
    donors: NDArray[np.int64]
    """[n], see `donors`; a sample without a donor is not part of the comparison."""


def audit(
    own: Predictions, swapped: Mapping[tuple[Modality, Kind], Swapped], n_bootstrap: int = 1000
) -> dict[str, Any]:
    """The block `audit` of metrics.json.

    Args:
        own: The predictions for the samples' own images and reports.
        swapped: Those after each swap, of the same samples in the same order. A modality without an entry is not read.
        n_bootstrap: Number of resamples of the patients.

    Returns `image` and `report`, each {"same_label", "other_labels"} or {"reason"}; the paired difference of the two
    falls for swaps with other labels; and the `statement` in words. A fall is the value before minus the value after
    the swap, so it is negative for a loss that rises.
    """
    own = replace(own, mc=None)
    fallen = _Falls(own, n_bootstrap)
    block: dict[str, Any] = {"seed": SEED, "n_bootstrap": n_bootstrap}
    for modality in MODALITIES:
        block[modality] = {kind: fallen.of(each) for (name, kind), each in swapped.items() if name == modality}
        if not block[modality]:
            block[modality] = {"reason": f"the model reads no {modality}, so a swap of {modality}s changes nothing"}
    block["report_minus_image"] = None
    if ("image", "other_labels") in swapped and ("report", "other_labels") in swapped:
        # (own - report swapped) - (own - image swapped) = image swapped - report swapped
        difference = fallen.between(swapped["image", "other_labels"], swapped["report", "other_labels"])
        block["report_minus_image"] = {key: asdict(difference)[key] for key in ("value", "low", "high", "p")}
    return block | {"statement": statement(block)}


class _Falls:
    """Falls from one set of predictions, whose resamples are computed once for each choice of samples."""

    def __init__(self, own: Predictions, n_bootstrap: int) -> None:
        self.own, self.n_bootstrap = own, n_bootstrap
        self.paths = _PATHS | {f"roc_auc/{name}": ("per_class", name, "roc_auc") for name in own.classes}
        self._known: dict[bytes, tuple[dict[str, Any], Resampled]] = {}

    def of(self, swapped: Swapped) -> dict[str, Any]:
        """One swap: who was swapped, and for each metric the value before and after it, the fall, and its interval."""
        kept = swapped.donors != NO_DONOR
        patients = np.array(self.own.patients)
        block: dict[str, Any] = {
            "n": int(kept.sum()),
            "patients": len(np.unique(patients[kept])),
            "without_donor": {"n": int((~kept).sum()), "patients": len(np.unique(patients[~kept]))},
        }
        if not kept.any():
            return block | {"metrics": {}, "reason": "no two patients have such labels"}
        before, after = self._own(kept), self._measured(swapped.predictions, kept)
        falls = {name: self._difference(before, after, path) for name, path in self.paths.items()}
        values = {name: (_at(before[0], path), _at(after[0], path)) for name, path in self.paths.items()}
        return block | {"metrics": {name: _row(*values[name], fall) for name, fall in falls.items()}}

    def between(self, first: Swapped, second: Swapped) -> Difference:
        """The main metric after the first swap minus that after the second, for the samples that both swapped."""
        kept = (first.donors != NO_DONOR) & (second.donors != NO_DONOR)
        if not kept.any():
            return Difference(method="paired bootstrap")
        pair = self._measured(first.predictions, kept), self._measured(second.predictions, kept)
        return self._difference(*pair, self.paths[MAIN])

    def _own(self, kept: Bools) -> tuple[dict[str, Any], Resampled]:
        if kept.tobytes() not in self._known:
            self._known[kept.tobytes()] = self._measured(self.own, kept)
        return self._known[kept.tobytes()]

    def _measured(self, predictions: Predictions, kept: Bools) -> tuple[dict[str, Any], Resampled]:
        chosen = replace(predictions, mc=None).select(np.flatnonzero(kept))
        return compute_metrics(chosen), resampled(chosen, self.n_bootstrap, SEED)

    @staticmethod
    def _difference(
        first: tuple[dict[str, Any], Resampled], second: tuple[dict[str, Any], Resampled], path: MetricPath
    ) -> Difference:
        return bootstrap_difference((_at(first[0], path), _at(second[0], path)), (first[1], second[1]), path)


def _at(metrics: Mapping[str, Any], path: MetricPath) -> float | None:
    value: Any = metrics
    for key in path:
        value = value[key]
    return None if value is None else float(value)


def _row(before: float | None, after: float | None, fall: Difference) -> dict[str, Any]:
    return {"before": before, "after": after, "fall": fall.value, "low": fall.low, "high": fall.high, "p": fall.p}


def fall_of(block: Mapping[str, Any], modality: str, kind: Kind = "other_labels", metric: str = MAIN) -> Difference:
    """The fall of a metric in the block `audit`; its value is None if it is undefined or the modality is not read."""
    row = block[modality].get(kind, {}).get("metrics", {}).get(metric, {})
    fall = {"value": row.get("fall"), "low": row.get("low"), "high": row.get("high"), "p": row.get("p")}
    return Difference(method="paired bootstrap", **fall)


def statement(block: Mapping[str, Any]) -> str:
    """What the model uses, in words that follow from the intervals for swaps with other labels."""
    read = [modality for modality in reversed(MODALITIES) if "reason" not in block[modality]]
    costs = [f"Swapping {each}s with those of other labels costs {_cost(block, each)} macro ROC AUC" for each in read]
    if len(read) == 1:
        return f"{costs[0]}; the model reads no {'image' if read == ['report'] else 'report'}."
    return f"{costs[0]}, swapping images {_cost(block, 'image')}: {_conclusion(block)}."


def _cost(block: Mapping[str, Any], modality: Modality) -> str:
    return interval_text(fall_of(block, modality)).replace("not defined", "an undefined amount of")


def _conclusion(block: Mapping[str, Any]) -> str:
    used = [each for each in reversed(MODALITIES) if (fall_of(block, each).low or 0.0) > 0]
    if not used:
        return "no use of either is shown"
    if len(used) == 1:
        return f"the model uses the {used[0]}; no use of the {'image' if used == ['report'] else 'report'} is shown"
    difference = block["report_minus_image"]
    if (difference["low"] or 0.0) > 0:
        return "the model uses both, the report more"
    if (difference["high"] or 0.0) < 0:
        return "the model uses both, the image more"
    return "the model uses both"
