"""Folds are those of scikit-learn, divide no patient, and do not depend on the order of the rows."""

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from table_source import table_recipe, write_image, write_rows

from cxr_dist.errors import UserError
from cxr_dist.shard.columns import Columns
from cxr_dist.shard.deal import plan_shards
from cxr_dist.shard.describe import plain_recipe
from cxr_dist.shard.recipe import Labels, Split, load_recipe
from cxr_dist.shard.split import assign_folds, assign_splits

rows_of_groups = st.lists(st.tuples(st.integers(0, 40).map(str), st.integers(0, 3)), min_size=60, max_size=200)


@settings(deadline=None, max_examples=40)
@given(rows_of_groups, st.integers(0, 1000), st.integers(3, 6), st.randoms())
def test_folds_are_those_of_scikit_learn_and_do_not_depend_on_the_order_of_rows(rows, seed, folds, chance):
    rows = [*rows, *((str(100 + i), 0) for i in range(6))]  # enough patients and samples for six folds
    names = assign_splits(*zip(*rows, strict=True), Split(folds=folds, seed=seed))
    fold_of = dict(zip((group for group, _ in rows), names, strict=True))
    assert names == [fold_of[group] for group, _ in rows]  # no group is divided
    moved = chance.sample(rows, len(rows))
    assert assign_folds(*zip(*moved, strict=True), folds, seed) == [fold_of[group] for group, _ in moved]

    groups, strata = zip(*sorted(rows), strict=True)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = list(splitter.split(strata, strata, groups))
    for fold, (_, test) in enumerate(parts):
        assert {fold_of[groups[row]] for row in test} <= {f"fold{fold}"}
        assert len(test) == names.count(f"fold{fold}")


def test_a_class_with_five_patients_has_one_in_each_of_five_folds():
    groups = [f"p{i}" for i in range(100)]
    strata = [int(i < 5) for i in range(100)]
    names = assign_folds(groups, strata, folds=5, seed=1)
    assert Counter(name for name, stratum in zip(names, strata, strict=True) if stratum) == Counter(
        f"fold{fold}" for fold in range(5)
    )
    assert set(Counter(names).values()) == {20}
    assert names != assign_folds(groups, strata, folds=5, seed=2)


def test_a_multilabel_sample_belongs_to_its_rarest_positive_class(tmp_path):
    """Six patients have both findings; by the common finding alone, they would not be spread evenly."""
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "x.png", seed=0)
    rows = [[f"{i}.png", f"P{i}", str(int(i % 2 == 0)), str(int(i < 12 and i % 2 == 0))] for i in range(60)]
    for row in rows:
        write_image(tmp_path / "images" / row[0], seed=int(row[0].removesuffix(".png")))
    write_rows(tmp_path / "films.csv", ["file", "mrn", "Common", "Rare"], rows)
    recipe = table_recipe(
        columns=Columns(image="file", patient="mrn", labels=("Common", "Rare")),
        labels=Labels(task="multilabel"),
        split=Split(folds=3, seed=5),
    )
    samples = plan_shards(recipe, tmp_path).selection.samples
    assert {sample.label for sample in samples} == {(0, 0), (1, 0), (1, 1)}
    for label in ((0, 0), (1, 0), (1, 1)):
        spread = Counter(sample.split for sample in samples if sample.label == label)
        assert spread == dict.fromkeys(("fold0", "fold1", "fold2"), sum(spread.values()) // 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{by: patient, folds: 2}", "split.folds is 2; expected 3 or more"),
        ("{by: study, folds: 5}", "split has folds: 5 and by: study; a fold never divides a patient"),
        ("{by: patient, folds: 5, train: 0.6, val: 0.2, test: 0.2}", "folds: 5 and also shares"),
        ("{by: patient, folds: 5, official: true}", "folds: 5 and also shares"),
        ("{by: patient, folds: five}", "split.folds"),
    ],
)
def test_a_split_with_folds_that_contradicts_itself_is_refused(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(f"reader: demo\nsplit: {text}\n")
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_too_few_patients_and_a_class_without_training_samples_are_refused():
    with pytest.raises(UserError, match="too few patients for 5 folds: 8 samples of 4 patients, at most 8 of one"):
        assign_folds([f"p{i % 4}" for i in range(8)], [0] * 8, folds=5, seed=0)
    with pytest.raises(UserError, match="at most 2 of one class: choose fewer folds"):
        assign_folds([f"p{i}" for i in range(8)], [0, 0, 1, 1, 2, 2, 3, 3], folds=3, seed=0)


def test_a_recipe_without_folds_is_recorded_as_before():
    assert plain_recipe(table_recipe())["split"].keys() == {"by", "train", "val", "test", "seed", "official"}
    with_folds = plain_recipe(table_recipe(split=Split(folds=4, seed=3)))["split"]
    assert with_folds == {"by": "patient", "seed": 3, "official": False, "folds": 4}


def test_names_that_numpy_cannot_hold_are_assigned():
    names = assign_folds([f"\udc80{i}\0" for i in range(30)], [0] * 30, folds=3, seed=0)
    assert np.unique(names).tolist() == ["fold0", "fold1", "fold2"]
