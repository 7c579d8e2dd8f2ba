"""Data sets whose true metrics are known: patients with one to three images, and binormal scores.

The score of an image is d times its label plus standard normal noise, half of whose variance the images of a patient
share. A probability is the true one given the score, so the true metrics are integrals over the normal distribution.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.intervals import MetricPath
from cxr_dist.evaluate.predictions import Predictions

SHARED = 0.5
"""Correlation of the noise of two images of a patient."""
_GRID = np.linspace(-9, 9, 36_001)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Classes that are alike, each of which has its own positive images."""

    positives: int
    images: int
    auc: float
    classes: int = 3
    recall: float | None = None
    """The true recall at a probability of 0.5; None: that of true probabilities."""
    random: bool = False
    """Whether each label is drawn by itself, so that the number of positives varies; otherwise it is exact."""

    @property
    def name(self) -> str:
        """For the table and the result file."""
        about = f"{'about ' if self.random else ''}{self.positives} positives of {self.images} images, AUC {self.auc:g}"
        return about if self.recall is None else f"{about}, recall {self.recall:g}"

    @property
    def share(self) -> float:
        """The true prevalence."""
        return self.positives / self.images

    @property
    def shift(self) -> float:
        """d, the mean score of positive images."""
        return float(np.sqrt(2) * norm.ppf(self.auc))

    def probability(self, score: Floats) -> Floats:
        """The probability of a positive label given the score, or one that is 0.5 at the given recall."""
        if self.recall is not None:
            return np.asarray(expit(score - self.shift + norm.ppf(self.recall)))
        return np.asarray(expit(self.shift * score - self.shift**2 / 2 + logit(self.share)))

    def draw(self, random: np.random.Generator) -> Predictions:
        """One data set."""
        patient = np.repeat(np.arange(self.images), random.integers(1, 4, self.images))[: self.images]
        shape = (self.images, self.classes)
        truth = np.zeros(shape, dtype=np.int16)
        for column in truth.T:
            positives = max(1, random.binomial(self.images, self.share)) if self.random else self.positives
            column[random.choice(self.images, positives, replace=False)] = 1
        own, common = random.normal(size=shape), random.normal(size=shape)[patient]
        score = self.shift * truth + np.sqrt(1 - SHARED) * own + np.sqrt(SHARED) * common
        return Predictions(
            task="multilabel",
            classes=tuple(f"class {each}" for each in range(self.classes)),
            keys=[str(image) for image in range(self.images)],
            patients=[str(each) for each in patient],
            labels=truth,
            probabilities=self.probability(score),
        )

    def truths(self) -> dict[MetricPath, float]:
        """The true value of each metric."""
        share, density = self.share, norm.pdf(_GRID)
        positive, negative = self.probability(_GRID + self.shift), self.probability(_GRID)
        cut = _GRID[np.argmax(negative >= 0.5)]
        recall, specificity = float(norm.sf(cut - self.shift)), float(norm.cdf(cut))
        hits, false = share * recall, (1 - share) * (1 - specificity)
        # At the score of a positive image: the positives above it, and the negatives above it.
        above = share * norm.sf(_GRID), (1 - share) * norm.sf(_GRID + self.shift)
        values = {
            "roc_auc": self.auc,
            "average_precision": float(np.trapezoid(above[0] / (above[0] + above[1]) * density, _GRID)),
            "recall": recall,
            "specificity": specificity,
            "precision": hits / (hits + false),
            "accuracy": hits + (1 - share) * specificity,
            "balanced_accuracy": (recall + specificity) / 2,
            "f1": 2 * hits / (hits + false + share),
        }

        def mean(of_positive: Floats, of_negative: Floats) -> float:
            return float(np.trapezoid((share * of_positive + (1 - share) * of_negative) * density, _GRID))

        whole: dict[MetricPath, float] = {
            ("log_loss",): mean(-np.log(positive), -np.log1p(-negative)),
            ("brier",): mean((1 - positive) ** 2, negative**2),
        }
        first = {("per_class", "class 0", name): value for name, value in values.items()}
        return whole | first | {("macro", name): value for name, value in values.items()}
