"""Class weights count what training draws, and the shift of the odds is exact for a model that fits its data."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_shards import write_imbalanced_shards
from sklearn.linear_model import LogisticRegression

from cxr_dist.config.data import DataConfig
from cxr_dist.data.draws import samples_of
from cxr_dist.data.loader import training_plan
from cxr_dist.data.place import open_store
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.format.manifest import load_manifest
from cxr_dist.model.class_balance import ClassBalance, class_balance

COUNTS = np.array([900.0, 90.0, 10.0])


def multiclass(drawn: np.ndarray) -> ClassBalance:
    return ClassBalance(
        task="multiclass",
        positives=COUNTS,
        negatives=COUNTS.sum() - COUNTS,
        drawn_positives=drawn,
        drawn_negatives=drawn.sum() - drawn,
    )


def test_balanced_weights_and_weighted_sampling_compensate_once_and_original_weights_twice():
    equal = multiclass(np.array([900.0, 900.0, 900.0]))
    np.testing.assert_allclose(equal.class_weights("balanced"), 1)
    np.testing.assert_allclose(equal.class_weights("original"), COUNTS.sum() / (3 * COUNTS), rtol=1e-6)
    once, twice = (equal.prior_shift(equal.class_weights(kind)) for kind in ("balanced", "original"))
    np.testing.assert_allclose(once - once[0], np.log(COUNTS[0] / COUNTS), rtol=1e-6)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    uniform = multiclass(COUNTS)
    np.testing.assert_array_equal(uniform.class_weights("balanced"), uniform.class_weights("original"))
    np.testing.assert_allclose(uniform.prior_shift(uniform.class_weights("balanced")), once, rtol=1e-6)
    assert uniform.prior_shift(uniform.class_weights("none")).tolist() == [0, 0, 0]


def test_the_product_of_sampling_and_weights_is_shown_for_each_class():
    equal = multiclass(np.array([900.0, 900.0, 900.0]))
    assert equal.in_words("original", ("a", "b", "c"))["weight of b"] == (
        "10.00 by sampling × 10.00 in the loss = 100.00 times that of a (10.00 would balance them)"
    )
    assert equal.in_words("balanced", ("a", "b", "c"))["weight of c"] == (
        "90.00 by sampling × 1.00 in the loss = 90.00 times that of a (90.00 would balance them)"
    )
    labels = dataclasses.replace(multiclass(COUNTS), task="multilabel")
    assert labels.in_words("none", ("a", "b", "c"))["weight of c"] == (
        "1.00 by sampling × 1.00 in the loss = 1.00 times that of its negatives (99.00 would balance them)"
    )


def test_a_multiclass_model_with_weights_gives_the_unweighted_probabilities_after_its_shift():
    """scikit-learn's logistic regression on three values, for which it fits the frequencies of each value exactly."""
    random = np.random.default_rng(0)
    y = random.choice(3, size=4000, p=[0.8, 0.15, 0.05])
    x = np.eye(3)[(y + random.choice(3, size=4000, p=[0.6, 0.3, 0.1])) % 3]
    sampling = np.array([1.0, 2.0, 3.0])
    balance = multiclass(COUNTS * sampling)
    weights = balance.class_weights("original")
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    weighted = model.fit(x, y, sample_weight=weights[y] * sampling[y]).predict_proba(x)
    plain = model.fit(x, y).predict_proba(x)
    assert np.abs(weighted - plain).max() > 0.5
    calibrator = Calibrator.of(3, prior_shift=tuple(balance.prior_shift(weights)))
    np.testing.assert_allclose(calibrator.apply(weighted, "multiclass"), plain, atol=1e-4)


@pytest.fixture(scope="module")
def multilabel_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imbalanced_shards(tmp_path_factory.mktemp("labels"), "multilabel", num_images=600)


def test_a_label_with_weights_gives_the_unweighted_probabilities_after_its_shift(multilabel_shards):
    """Labels and sampling weights of shards, and a feature of each label that has nothing to do with its group."""
    data = DataConfig(shards=str(multilabel_shards), sampling="weighted", global_batch=16, micro_batch=4)
    manifest = load_manifest(multilabel_shards)
    labels, groups = _labels_and_groups(data, manifest)
    weights = training_plan(data, manifest, seed=0).weights[groups]
    balance = class_balance(data, manifest)
    class_weights = balance.class_weights("original")
    shift, random = balance.prior_shift(class_weights), np.random.default_rng(0)
    for c in range(3):
        known = labels[:, c] >= 0
        y, weight = np.tile(labels[known, c], 100), np.tile(weights[known], 100)
        x = random.normal(y[:, None], 1.0)
        weighted = LogisticRegression(C=np.inf).fit(x, y, sample_weight=weight * np.where(y == 1, class_weights[c], 1))
        plain = LogisticRegression(C=np.inf).fit(x, y)
        assert weighted.coef_[0, 0] == pytest.approx(plain.coef_[0, 0], abs=0.1)
        middle = np.array([[0.5]])  # where both lines are determined best
        difference = weighted.decision_function(middle) - plain.decision_function(middle)
        assert difference[0] == pytest.approx(shift[c], abs=0.05)
        assert abs(shift[c]) > 1


def test_expected_draws_are_those_of_the_plan(multilabel_shards):
    """Counted over 50 epochs, in which each sample's draws differ from its expectation by less than one."""
    data = DataConfig(shards=str(multilabel_shards), sampling="weighted", global_batch=16, micro_batch=4)
    manifest = load_manifest(multilabel_shards)
    plan = training_plan(data, manifest, seed=0)
    labels, _ = _labels_and_groups(data, manifest)
    start = np.concatenate([[0], np.cumsum([shard.samples for shard in manifest.split("train").shards])])
    store, epochs = open_store(data, manifest, "train"), 50
    counts = np.zeros((2, 3))
    for epoch in range(epochs):
        shards, samples = samples_of(plan, store, epoch, np.arange(plan.num_draws))
        drawn = labels[start[shards] + samples]
        counts += [(drawn == value).sum(axis=0) for value in (1, 0)]
    store.close()
    balance = class_balance(data, manifest)
    unit = plan.num_draws * 2**16 / plan.shard_mass.sum()  # draws of a sample of the largest group
    expected = unit * np.array([balance.drawn_positives, balance.drawn_negatives])
    np.testing.assert_allclose(counts / epochs, expected, rtol=0.02)
    weights = balance.class_weights("balanced")
    np.testing.assert_allclose(weights, counts[1] / counts[0], rtol=0.04)


def test_uniform_sampling_needs_the_manifest_alone(multilabel_shards, tmp_path):
    (tmp_path / "manifest.json").write_bytes((multilabel_shards / "manifest.json").read_bytes())
    manifest = load_manifest(tmp_path)
    balance = class_balance(DataConfig(shards=str(tmp_path)), manifest)
    expected = [manifest.split("train").label_counts[name]["positive"] for name in manifest.classes]
    assert balance.drawn_positives.tolist() == balance.positives.tolist() == expected
    assert balance.sampling_factors.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(balance.prior_shift(None), 0)


def _labels_and_groups(data, manifest):
    store = open_store(data, manifest, "train")
    index = np.concatenate([store.index(shard) for shard in range(len(store.shards))])
    store.close()
    return index["label"].astype(int), index["group"]


def test_a_kind_of_label_that_does_not_occur_shifts_no_odds():
    balance = ClassBalance(
        task="multilabel",
        positives=np.array([10.0, 0.0, 8.0]),
        negatives=np.array([30.0, 20.0, 0.0]),
        drawn_positives=np.array([40.0, 0.0, 24.0]),
        drawn_negatives=np.array([60.0, 50.0, 0.0]),
    )
    np.testing.assert_allclose(balance.sampling_factors, [4 / 2, 1 / 2.5, 3 / 1])
    np.testing.assert_allclose(balance.prior_shift(None), np.log([2, 0.4, 3]))
