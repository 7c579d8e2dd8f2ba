"""The vectorised bootstrap agrees with scikit-learn on repeated rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn import metrics as sk

from cxr_dist.evaluate import bootstrap
from cxr_dist.evaluate.bootstrap import interval, patient_weights, weighted_areas


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60))
def test_weighted_areas_equal_scikit_learn_on_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    """There are few distinct scores, so ties are common."""
    truth, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    weights = weight[None].astype(np.float64)
    auc, precision = (area[0] for area in weighted_areas(truth, score / 6, weights))
    repeated, scores = np.repeat(truth, weight), np.repeat(score, weight)
    if len(set(repeated.tolist())) < 2:
        assert np.isnan(auc)
        assert np.isnan(precision)
    else:
        assert auc == pytest.approx(sk.roc_auc_score(repeated, scores), abs=1e-12)
        assert precision == pytest.approx(sk.average_precision_score(repeated, scores), abs=1e-12)


def test_the_area_of_no_samples_is_nan() -> None:
    areas = weighted_areas(np.zeros(0, dtype=bool), np.zeros(0), np.zeros((3, 0)))
    assert np.isnan(areas).tolist() == [[True] * 3] * 2


def test_all_samples_of_a_patient_are_drawn_together() -> None:
    predictions = make_predictions(n=60, passes=0)
    [weights] = patient_weights(predictions.patients, 50, seed=0)
    patients = np.array(predictions.patients)
    for patient in set(predictions.patients):
        assert (weights[:, patients == patient].std(axis=1) == 0).all()
    first = [predictions.patients.index(patient) for patient in sorted(set(predictions.patients))]
    assert (weights[:, first].sum(axis=1) == len(first)).all()


def test_chunk_size_does_not_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = make_predictions(n=60, passes=0).patients
    [whole] = patient_weights(patients, 64, seed=1)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * len(patients))
    chunks = list(patient_weights(patients, 64, seed=1))
    assert len(chunks) == 10
    assert np.array_equal(np.concatenate(chunks), whole)


def test_weights_do_not_depend_on_the_order_of_samples() -> None:
    """Otherwise differences of two runs would not be paired."""
    patients = make_predictions(n=60, passes=0).patients
    [weights], [reverse] = patient_weights(patients, 20, seed=1), patient_weights(patients[::-1], 20, seed=1)
    assert np.array_equal(weights, reverse[:, ::-1])


def test_the_percentile_interval_leaves_out_undefined_resamples_and_counts_them() -> None:
    values = np.random.default_rng(0).permutation(np.r_[np.arange(1001.0), [np.nan] * 3])
    assert interval(values) == {"low": pytest.approx(25), "high": pytest.approx(975), "skipped": 3}
    assert interval(np.full(2, np.nan)) == {"low": None, "high": None, "skipped": 2}


def test_another_seed_draws_other_resamples() -> None:
    patients = make_predictions(n=60, passes=0).patients
    [first], [second] = patient_weights(patients, 20, seed=1), patient_weights(patients, 20, seed=2)
    assert not (first == second).all(axis=1).any()
