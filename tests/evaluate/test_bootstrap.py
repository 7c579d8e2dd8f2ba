"""The vectorised resampling against scikit-learn on repeated rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn import metrics as sk

from cxr_dist.evaluate import bootstrap
from cxr_dist.evaluate.bootstrap import patient_weights, weighted_areas


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60))
def test_weighted_areas_are_scikit_learns_on_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    """Few distinct scores, so that ties are common."""
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


def test_no_sample_has_no_area() -> None:
    areas = weighted_areas(np.zeros(0, dtype=bool), np.zeros(0), np.zeros((3, 0)))
    assert np.isnan(areas).tolist() == [[True] * 3] * 2


def test_patients_are_drawn_whole() -> None:
    made = make_predictions(n=60, passes=0)
    [weights] = patient_weights(made.patients, 50, seed=0)
    patients = np.array(made.patients)
    for patient in set(made.patients):
        assert (weights[:, patients == patient].std(axis=1) == 0).all()
    first = [made.patients.index(patient) for patient in sorted(set(made.patients))]
    assert (weights[:, first].sum(axis=1) == len(first)).all()


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = make_predictions(n=60, passes=0).patients
    [whole] = patient_weights(patients, 64, seed=1)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * len(patients))
    chunks = list(patient_weights(patients, 64, seed=1))
    assert len(chunks) == 10
    assert np.array_equal(np.concatenate(chunks), whole)


def test_draws_depend_on_the_patients_and_not_on_the_order_of_their_samples() -> None:
    """What makes the difference of two runs a paired one."""
    patients = make_predictions(n=60, passes=0).patients
    [weights], [turned] = patient_weights(patients, 20, seed=1), patient_weights(patients[::-1], 20, seed=1)
    assert np.array_equal(weights, turned[:, ::-1])
