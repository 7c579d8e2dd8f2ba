"""Checks that stop `cxr-dist shard` before it completes a bad folder: failed images, empty splits, missing classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cxr_dist.errors import UserError
from cxr_dist.format.folds import parts_of_fold
from cxr_dist.format.left_out import FAILURES, MISSING_IMAGE, failures
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.select import Sample, Selection


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """The number of images that may fail."""

    wanted: int
    """Number of images that the recipe selects."""
    allowed: float
    """Share of them that may fail, 0 to 1."""

    @classmethod
    def of(cls, selection: Selection, allowed: float) -> "FailureLimit":
        """The limit for a selection of which no image has been read yet."""
        if not 0 <= allowed <= 1:
            raise UserError(f"the share of images that may be left out is {allowed}; expected 0 to 1")
        images = sum(len(sample.images) for sample in selection.samples)
        return cls(wanted=images + failures(selection.left_out), allowed=allowed)

    def check(self, left_out: Counter[str]) -> None:
        """Raise UserError if too many images have failed already."""
        failed = failures(left_out)
        if failed <= self.allowed * self.wanted:
            return
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(left_out.items()) if reason in FAILURES)
        raise UserError(
            f"at least {failed} of {self.wanted} images failed ({reasons}); {self.allowed:.2%} may be left out: "
            "repair the source, or allow more with --allow-left-out"
        )


def check_any_image(samples: Sequence[Sample], left_out: Counter[str]) -> None:
    """Raise UserError if no image exists at all: the folder or the file ending is wrong."""
    images = [image for sample in samples for image in sample.images]
    expected = len(images) + left_out[MISSING_IMAGE]
    if expected and not any(image.pixels.exists() for image in images):
        raise UserError(
            f"no image found: none of {expected} images exists; check --source, the recipe's images folder, and the "
            "endings of the file names"
        )


def check_splits(recipe: Recipe, classes: Sequence[str], samples: Sequence[Sample]) -> None:
    """Raise UserError if a split or a fold has no sample, or a class has no sample in train, of any test fold."""
    sizes = Counter(sample.split for sample in samples)
    empty = [name for name in recipe.split.names if not sizes[name]]
    if empty:
        remedy = "remove split.official from" if recipe.split.official else "enlarge its share in"
        if recipe.split.folds is not None:
            remedy = "choose fewer folds in"
        raise UserError(
            f"split {empty[0]} is empty: {len(samples)} images in all, split by {recipe.split.by}; add rows to the "
            f"source, or {remedy} the recipe"
        )
    for train, names in _training_parts(recipe).items():
        present = _positives(recipe, [sample.label for sample in samples if sample.split in names])
        for index, name in enumerate(classes):
            if not present[index]:
                raise UserError(
                    f"class {name!r} is missing from {train} ({sum(s.label[0] == index for s in samples)} images in "
                    "all): merge it into another class or drop its values in the recipe's labels"
                    if recipe.labels.task == "multiclass"
                    else f"class {name!r} has no positive image in {train}: remove it from the recipe's classes"
                )


def _training_parts(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """What a run can be trained on, in words -> the names of its parts."""
    folds = recipe.split.folds
    if folds is None:
        return {"train": ("train",)}
    return {f"train of test fold {fold}": parts_of_fold(fold, folds)["train"] for fold in range(folds)}


def _positives(recipe: Recipe, labels: Sequence[tuple[int, ...]]) -> Counter[int]:
    if recipe.labels.task == "multiclass":
        return Counter(label[0] for label in labels)
    return Counter(index for label in labels for index, value in enumerate(label) if value == 1)
