"""The folds of a cross-validation, from the manifest of a folder to the train, val and test of one run.

    SHARDS/fold0-00000.tar  fold0-00000.index.npy  fold1-00000.tar  ...

Each fold has shards of its own, and a split is a list of folds. So all runs of a cross-validation read one folder, in
which each sample is stored once, and everything after this module knows only train, val and test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, SplitEntry
from cxr_dist.format.shard_list import JoinedShards, ShardEntry

FOLD_NAMES = r"fold\d+"
"""Regular expression of what `fold_name` returns."""


def fold_name(fold: int) -> str:
    """Return the name of a fold in a manifest and in the names of its shards."""
    return f"fold{fold}"


def parts_of_fold(fold: int, folds: int) -> dict[str, tuple[str, ...]]:
    """Return split -> its folds: `fold` is test, the next one (after the last, fold 0) is val, the others are train."""
    validation = (fold + 1) % folds
    rest = [other for other in range(folds) if other not in (fold, validation)]
    return {"train": tuple(map(fold_name, rest)), "val": (fold_name(validation),), "test": (fold_name(fold),)}


def of_fold(manifest: Manifest, fold: int | None) -> Manifest:
    """Return the manifest with the splits train, val and test of the test fold `fold`; unchanged without folds.

    Raises UserError, with the legal values, if there are folds and `fold` is none of them, or if there are no folds and
    `fold` is not None.
    """
    folds = manifest.folds
    if not folds:
        if fold is not None:
            raise UserError(
                f"data.fold is {fold}, but the shards have no folds: leave out --data.fold, or shard the source again "
                "with, for example, split: {by: patient, folds: 5} in the recipe"
            )
        return manifest
    if fold is None or not 0 <= fold < folds:
        given = "which one is to be tested is not given" if fold is None else f"data.fold is {fold}"
        raise UserError(
            f"the shards have {folds} folds, and {given}: add --data.fold with one of "
            f"{', '.join(map(str, range(folds)))}"
        )
    parts = parts_of_fold(fold, folds)
    splits = {split: joined([manifest.splits[name] for name in names]) for split, names in parts.items()}
    return replace(manifest, splits=splits, fold=fold, boxes=_joined_boxes(manifest.boxes, parts))


def joined(folds: Sequence[SplitEntry]) -> SplitEntry:
    """Return several folds, which have no patient in common, as one split."""
    counts = {
        name: {kind: sum(fold.label_counts[name][kind] for fold in folds) for kind in of_class}
        for name, of_class in folds[0].label_counts.items()
    }
    return SplitEntry(
        samples=sum(fold.samples for fold in folds),
        patients=sum(fold.patients for fold in folds),
        label_counts=counts,
        shards=_joined_shards([fold.shards for fold in folds]),
    )


def _joined_boxes(boxes: Mapping[str, Any], parts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The manifest's `boxes`, with the numbers of each split instead of those of each fold."""
    if not boxes:
        return {}
    counts = {split: [boxes["stored"][name] for name in names] for split, names in parts.items()}
    stored = {split: {name: sum(of[name] for of in folds) for name in folds[0]} for split, folds in counts.items()}
    return {**boxes, "stored": stored}


def _joined_shards(parts: Sequence[Sequence[ShardEntry]]) -> Sequence[ShardEntry]:
    if all(isinstance(part, tuple) for part in parts):
        return tuple(shard for part in parts for shard in part)
    return JoinedShards(parts)
