"""Assign samples to train, val and test, or to folds, by group and class.

A group (the images of a patient or study, or one image) is never divided. The split depends on the groups and the seed,
not on the order of the rows. With large groups the shares are only approximate.
"""

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from cxr_dist.errors import UserError
from cxr_dist.format.folds import fold_name
from cxr_dist.format.manifest import SPLITS
from cxr_dist.shard import recipe


def assign_splits(groups: Sequence[str], strata: Sequence[int], split: recipe.Split) -> list[str]:
    """The split of each sample, shape [samples]; raises UserError if there are too few images to stratify.

    `strata` has a small integer per sample, usually its class. A group of several strata belongs to its rarest.
    """
    if split.folds is not None:
        return assign_folds(groups, strata, split.folds, split.seed)
    sizes = Counter(groups)
    stratum = _rarest(groups, strata)
    ordered = sorted(sizes)
    if split.by == "image":
        split_of = _by_image(ordered, [stratum[group] for group in ordered], split)
    else:
        split_of = {}
        for value in sorted(set(stratum.values())):
            members = [group for group in ordered if stratum[group] == value]
            split_of |= _by_group(members, sizes, split)
    return [split_of[group] for group in groups]


def assign_folds(groups: Sequence[str], strata: Sequence[int], folds: int, seed: int) -> list[str]:
    """The fold of each sample, shape [samples], by scikit-learn's StratifiedGroupKFold on the samples sorted by group.

    `strata` is as for `assign_splits`; a group of several strata counts for each of them. Raises UserError if there are
    fewer groups than folds, or no stratum with as many samples as folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    order = sorted(range(len(groups)), key=lambda row: (groups[row], strata[row]))
    number = {group: place for place, group in enumerate(sorted(set(groups)))}  # for names that NumPy cannot hold
    sizes = Counter(strata)
    if len(number) < folds or max(sizes.values()) < folds:
        raise UserError(
            f"too few patients for {folds} folds: {len(groups)} samples of {len(number)} patients, at most "
            f"{max(sizes.values())} of one class: choose fewer folds, or add rows to the source"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # checks.py judges classes
        parts = splitter.split(order, [strata[row] for row in order], [number[groups[row]] for row in order])
        names = [""] * len(groups)
        for fold, (_, members) in enumerate(parts):
            for place in members:
                names[order[place]] = fold_name(fold)
    return names


def checked_official(groups: Sequence[str], names: Sequence[str], split: recipe.Split) -> list[str]:
    """The published split of each sample, unchanged; raises UserError if it divides a group."""
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for group, name in zip(groups, names, strict=True):
        splits_of[group].add(name)
    divided = sum(len(splits) > 1 for splits in splits_of.values())
    if divided:
        raise UserError(
            f"the official split divides {divided} of {len(splits_of)} units (split by {split.by}): check that the "
            "split file is complete and belongs to this data set, or remove split.official from the recipe"
        )
    return list(names)


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in a pseudo-random order that depends only on the names and the seed."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())


def _rarest(groups: Sequence[str], strata: Sequence[int]) -> dict[str, int]:
    frequency = Counter(strata)
    chosen: dict[str, int] = {}
    for group, value in zip(groups, strata, strict=True):
        other = chosen.setdefault(group, value)
        chosen[group] = min(value, other, key=lambda v: (frequency[v], v))
    return chosen


def _by_group(members: Sequence[str], sizes: Counter[str], split: recipe.Split) -> dict[str, str]:
    """Assign the groups of one stratum in random order by Webster's method of apportionment.

    Each group goes to the split with the smallest (samples so far + half a mean group) / share. This keeps every split
    within about one group of its share and favours no split when there are few groups. With half of the current group
    in place of half a mean group, the large groups would all go to the largest split.
    """
    shares = {name: float(getattr(split, name)) for name in SPLITS}
    dealt = dict.fromkeys(SPLITS, 0)
    half = sum(sizes[group] for group in members) / len(members) / 2
    split_of = {}
    for group in shuffled(members, split.seed):
        name = min(SPLITS, key=lambda name: (dealt[name] + half) / shares[name])
        dealt[name] += sizes[group]
        split_of[group] = name
    return split_of


def _by_image(images: Sequence[str], strata: Sequence[int], split: recipe.Split) -> dict[str, str]:
    """Apply scikit-learn's stratified split twice: first train and the rest, then the rest into val and test."""
    from sklearn.model_selection import train_test_split

    # Rounded, because 1 - 0.7 is slightly more than 0.3 in floating point, and scikit-learn rounds the count up.
    rest_share = round(1 - split.train, 9)
    test_share = round(split.test / (split.val + split.test), 9)
    try:
        train, rest, _, rest_strata = train_test_split(
            images, strata, test_size=rest_share, stratify=strata, random_state=split.seed
        )
        val, test = train_test_split(rest, test_size=test_share, stratify=rest_strata, random_state=split.seed)
    except ValueError:
        counts = sorted(Counter(strata).values())
        raise UserError(
            f"too few images to split by image: {len(images)} in {len(counts)} classes, the smallest of "
            f"{counts[0]}; every class needs images in train, val and test: merge or drop some (labels.classes, drop)"
        ) from None
    named = {"train": train, "val": val, "test": test}
    return {image: name for name, members in named.items() for image in members}
