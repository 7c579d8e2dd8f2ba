"""The class weights of the loss, and the shift of the classes' odds that they and weighted sampling cause.

Weighting a sample in the loss and drawing it more often have the same effect: the model learns the posterior of a
population in which that sample is more common (Elkan, IJCAI 2001). Multiclass, with class weight w and sampling weight
s, it learns p'(c | x) ∝ w_c s_c p(c | x). Multilabel, the odds of a label are multiplied by w E[s | positive] /
E[s | negative]. This is exact for cross-entropy; the focal loss changes probabilities beyond it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import group_weights
from cxr_dist.format.manifest import Manifest, Task
from cxr_dist.format.shard_list import column
from cxr_dist.model.losses import balanced_class_weights, balanced_positive_weights

_Floats = NDArray[np.float64]
ClassWeights = Literal["none", "balanced", "original"]


@dataclass(frozen=True, kw_only=True)
class ClassBalance:
    """How many samples of the training split each class has, and how often training draws them."""

    task: Task
    positives: _Floats
    """[C], number of samples in which the class is present."""
    negatives: _Floats
    """[C], number of samples in which the class is known to be absent."""
    drawn_positives: _Floats
    """[C], expected number of draws of such samples, where a draw of the most common sampling group counts 1."""
    drawn_negatives: _Floats
    """[C], the same for `negatives`."""

    def class_weights(self, kind: ClassWeights) -> _Floats | None:
        """The weights [C] of the loss (see `ClassificationLoss.class_weights`); None for "none".

        Raises UserError for a class without a sample of a kind, which has no finite weight.
        """
        if kind == "none":
            return None
        drawn = kind == "balanced"
        positives = self.drawn_positives if drawn else self.positives
        if self.task == "multiclass":
            weights = balanced_class_weights(positives)
        else:
            weights = balanced_positive_weights(positives, self.drawn_negatives if drawn else self.negatives)
        return np.asarray(weights.double().numpy())

    @property
    def sampling_factors(self) -> _Floats:
        """[C], by how much sampling multiplies the share of a class (multiclass) or its odds (multilabel)."""
        factors = _ratio(self.drawn_positives, self.positives)
        return factors if self.task == "multiclass" else factors / _ratio(self.drawn_negatives, self.negatives)

    def prior_shift(self, class_weights: _Floats | None) -> _Floats:
        """[C], the shift of a class's log-odds (multilabel), or log-probability with mean 0 (multiclass)."""
        shift = np.log(self.sampling_factors * (1.0 if class_weights is None else class_weights))
        if self.task == "multilabel":
            return np.asarray(shift)
        return np.asarray(np.where(np.ptp(shift) < 1e-12, 0.0, shift - shift.mean()))

    def in_words(self, kind: ClassWeights, classes: Sequence[str]) -> dict[str, str]:
        """`weight of CLASS` -> how much sampling and class weights together raise it, beside what would balance it."""
        weights = self.class_weights(kind)
        weight = np.ones(len(classes)) if weights is None else weights
        sampled, balanced, other = self.sampling_factors, _ratio(self.negatives, self.positives), "its negatives"
        if self.task == "multiclass":
            common = int(self.positives.argmax())
            weight, sampled, other = weight / weight[common], sampled / sampled[common], classes[common]
            balanced = _ratio(self.positives[common] + 0 * self.positives, self.positives)
        return {
            f"weight of {name}": f"{s:.2f} by sampling × {w:.2f} in the loss = {s * w:.2f} times that of {other} "
            f"({b:.2f} would balance them)"
            for name, s, w, b in zip(classes, sampled, weight, balanced, strict=True)
        }


def _ratio(numbers: _Floats, samples: _Floats) -> _Floats:
    """Numbers per sample; 1 where one of them is 0."""
    return np.where((samples > 0) & (numbers > 0), numbers / np.maximum(samples, 1), 1.0)


def class_balance(data: DataConfig, manifest: Manifest) -> ClassBalance:
    """The balance of a run's training split. Only weighted sampling of a multilabel task reads the shards' indices."""
    counts = manifest.split("train").label_counts
    positives, negatives = (
        np.array([counts[name][kind] for name in manifest.classes], np.float64) for kind in ("positive", "negative")
    )
    groups = column(manifest.split("train").shards, "group_counts").sum(axis=0)
    temper = data.sampling_temper if data.sampling == "weighted" else 0.0
    weights = group_weights(groups, temper)
    unit = weights[groups.argmax()]
    if manifest.task == "multiclass":
        drawn = groups[: len(positives)] * weights[: len(positives)] / unit
        drawn_negatives = drawn.sum() - drawn
    elif (weights[groups > 0] == unit).all():
        drawn, drawn_negatives = positives, negatives
    else:
        drawn, drawn_negatives = (total / unit for total in _drawn_labels(data, manifest, weights))
    return ClassBalance(
        task=manifest.task,
        positives=positives,
        negatives=negatives,
        drawn_positives=drawn,
        drawn_negatives=drawn_negatives,
    )


def _drawn_labels(data: DataConfig, manifest: Manifest, weights: NDArray[np.int64]) -> tuple[_Floats, _Floats]:
    """The sums [C] of the sampling weights of each label's positive and of its negative samples."""
    sums = np.zeros((2, len(manifest.classes)), np.int64)
    with contextlib.closing(open_store(data, manifest, "train")) as store:
        for shard in range(len(store.shards)):
            index = store.index(shard)
            weight = weights[index["group"]][:, None]
            sums += [(weight * (index["label"] == value)).sum(axis=0) for value in (1, 0)]
    return sums[0].astype(np.float64), sums[1].astype(np.float64)
