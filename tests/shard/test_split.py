"""No group is in two splits, the shares are met, and the split does not depend on the order of the rows."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import SPLITS
from cxr_dist.shard.recipe import Split
from cxr_dist.shard.split import assign_folds, assign_splits, checked_official, shuffled

groups_and_strata = st.lists(st.tuples(st.integers(0, 60).map(str), st.integers(0, 3)), min_size=1, max_size=300)
seeds = st.integers(0, 1000)


@given(groups_and_strata, seeds, st.randoms())
def test_no_group_is_divided_and_row_order_does_not_matter(rows, seed, chance):
    split = Split(by="patient", seed=seed)
    names = assign_splits([group for group, _ in rows], [stratum for _, stratum in rows], split)
    split_of = dict(zip((group for group, _ in rows), names, strict=True))
    assert names == [split_of[group] for group, _ in rows]
    moved = chance.sample(rows, len(rows))
    again = assign_splits([group for group, _ in moved], [stratum for _, stratum in moved], split)
    assert again == [split_of[group] for group, _ in moved]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=300), seeds)
def test_groups_of_one_sample_meet_the_shares_of_each_class_within_one_sample(strata, seed):
    split = Split(by="study", train=0.6, val=0.25, test=0.15, seed=seed)
    names = assign_splits([f"study{i}" for i in range(len(strata))], strata, split)
    for value in set(strata):
        counts = Counter(name for name, stratum in zip(names, strata, strict=True) if stratum == value)
        for name in ("train", "val", "test"):
            assert abs(counts[name] - strata.count(value) * getattr(split, name)) <= 1 + 1e-9


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.6, 0.25, 0.15), (0.5, 0.3, 0.2)])
def test_few_groups_are_apportioned_by_the_divisors_of_webster(shares):
    """The n largest of share / 1, share / 3, share / 5, … are the seats (Sainte-Laguë, Webster)."""
    split = Split(by="patient", train=shares[0], val=shares[1], test=shares[2])
    for n in range(1, 12):
        names = assign_splits([f"p{i}" for i in range(n)], [0] * n, split)
        quotients = [(share / (2 * i + 1), name) for share, name in zip(shares, SPLITS, strict=True) for i in range(n)]
        expected = Counter(name for _, name in sorted(quotients, reverse=True)[:n])
        tied = len({round(q, 9) for q, _ in sorted(quotients, reverse=True)[n - 1 : n + 1]}) == 1
        assert tied or Counter(names) == expected


def test_large_groups_are_not_all_assigned_to_the_large_split():
    groups = [f"p{i}" for i in range(1000) for _ in range(1 + 9 * (i % 4 == 0))]
    names = assign_splits(groups, [0] * len(groups), Split(by="patient"))
    per_split = {name: [g for g, n in zip(groups, names, strict=True) if n == name] for name in set(names)}
    means = {name: len(members) / len(set(members)) for name, members in per_split.items()}
    assert max(means.values()) < 1.25 * min(means.values())


def test_another_seed_gives_another_split():
    groups, strata = [str(i) for i in range(100)], [0] * 100
    assert assign_splits(groups, strata, Split(seed=1)) != assign_splits(groups, strata, Split(seed=2))
    assert shuffled(groups, 1) != shuffled(groups, 2)
    assert sorted(shuffled(groups, 1)) == sorted(groups)


def test_the_split_by_image_equals_two_stratified_splits_of_scikit_learn():
    images = sorted(f"{i:05d}" for i in range(1000))
    strata = [int(i % 7 == 0) for i in range(1000)]
    train, rest, _, rest_strata = train_test_split(images, strata, test_size=0.3, stratify=strata, random_state=42)
    val, test = train_test_split(rest, test_size=0.5, stratify=rest_strata, random_state=42)
    order = random.Random(0).sample(range(1000), 1000)
    names = assign_splits([images[i] for i in order], [strata[i] for i in order], Split(by="image", seed=42))
    split = {name: {images[i] for i, n in zip(order, names, strict=True) if n == name} for name in set(names)}
    assert split == {"train": set(train), "val": set(val), "test": set(test)}


def test_too_few_images_of_a_class_are_refused():
    with pytest.raises(UserError, match="too few images to split by image: 21 in 2 classes, the smallest of 1"):
        assign_splits([str(i) for i in range(21)], [0] * 20 + [1], Split(by="image"))


def test_an_official_split_is_unchanged_and_refused_if_it_divides_a_group():
    split = Split(by="study", official=True)
    assert checked_official(["a", "b", "a"], ["val", "test", "val"], split) == ["val", "test", "val"]
    message = r"the official split divides 1 of 2 units \(split by study\): check that the split file"
    with pytest.raises(UserError, match=message):
        checked_official(["a", "b", "a"], ["val", "test", "train"], split)


def test_a_split_into_folds_divides_the_samples_as_assign_folds_does():
    groups, strata = [f"p{i // 2}" for i in range(60)], [i // 2 % 3 for i in range(60)]
    names = assign_splits(groups, strata, Split(by="patient", folds=4, seed=5))
    assert names == assign_folds(groups, strata, 4, 5)
    assert names != assign_folds(groups, strata, 4, 6)
    assert len(set(names)) == 4
