"""What stops `cxr-dist shard` before a bad shard folder exists: failed images, empty splits, missing classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cxr_dist.errors import UserError
from cxr_dist.format.left_out import FAILURES, MISSING_IMAGE, failures
from cxr_dist.format.manifest import SPLITS
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.select import Sample, Selection


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """How many of the wanted images may fail."""

    wanted: int
    """Images that the recipe asks for."""
    allowed: float
    """Share of them that may be left out, 0 to 1."""

    @classmethod
    def of(cls, selection: Selection, allowed: float) -> "FailureLimit":
        """The limit for a selection of which no film has been read yet."""
        if not 0 <= allowed <= 1:
            raise UserError(f"the share of images that may be left out is {allowed}; expected 0 to 1")
        films = sum(len(sample.images) for sample in selection.samples)
        return cls(wanted=films + failures(selection.left_out), allowed=allowed)

    def check(self, left_out: Counter[str]) -> None:
        """Raise UserError as soon as it is certain that too many failed."""
        failed = failures(left_out)
        if failed <= self.allowed * self.wanted:
            return
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(left_out.items()) if reason in FAILURES)
        raise UserError(
            f"at least {failed} of {self.wanted} images failed ({reasons}); {self.allowed:.2%} may be left out: "
            "mend the source, or allow more with --allow-left-out"
        )


def check_any_film(samples: Sequence[Sample], left_out: Counter[str]) -> None:
    """Raise UserError where not one film is there: a wrong folder or file ending, not a gap in the data."""
    films = [film for sample in samples for film in sample.images]
    if any(film.pixels.exists() for film in films) or not (films or left_out[MISSING_IMAGE]):
        return
    raise UserError(
        f"no image matched: none of {len(films) + left_out[MISSING_IMAGE]} images is there; check --source, the "
        "recipe's images folder, and the endings of the file names"
    )


def check_splits(recipe: Recipe, classes: Sequence[str], samples: Sequence[Sample]) -> None:
    """Raise UserError where a split has no sample, or train lacks a class."""
    sizes = Counter(sample.split for sample in samples)
    empty = [name for name in SPLITS if not sizes[name]]
    if empty:
        mend = "leave split.official out" if recipe.split.official else "a larger share in the recipe's split"
        raise UserError(
            f"split {empty[0]} is empty: {len(samples)} images in all, split by {recipe.split.by}; a split needs more "
            f"rows, or {mend}"
        )
    present = _positives(recipe, [sample.label for sample in samples if sample.split == "train"])
    for index, name in enumerate(classes):
        if not present[index]:
            raise UserError(
                f"class {name!r} is missing from train ({sum(s.label[0] == index for s in samples)} images in all): "
                "merge it into another or drop its values in the recipe's labels"
                if recipe.labels.task == "multiclass"
                else f"class {name!r} has no positive image in train: leave it out of the recipe's classes"
            )


def _positives(recipe: Recipe, labels: Sequence[tuple[int, ...]]) -> Counter[int]:
    if recipe.labels.task == "multiclass":
        return Counter(label[0] for label in labels)
    return Counter(index for label in labels for index, value in enumerate(label) if value == 1)
