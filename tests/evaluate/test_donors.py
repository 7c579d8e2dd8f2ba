"""Whose image or report a sample gets: another patient's, of the same label or of another one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.evaluate.donors import NO_DONOR, donors

ROWS = st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=30)


@given(rows=ROWS, same=st.booleans(), seed=st.integers(0, 5))
def test_a_donor_is_another_patient_of_the_label_asked_for_and_lacks_only_where_there_is_none(rows, same, seed) -> None:
    labels = np.array([[a, b] for a, b, _ in rows], dtype=np.int16)
    patients = [f"p{patient}" for _, _, patient in rows]
    found = donors(labels, patients, "same_label" if same else "other_labels", seed)
    for row, donor in enumerate(found.tolist()):
        candidates = [
            other
            for other in range(len(rows))
            if patients[other] != patients[row] and bool((labels[other] == labels[row]).all()) == same
        ]
        assert donor in candidates if candidates else donor == NO_DONOR


def test_labels_that_one_patient_alone_has_are_not_swapped_within_the_label() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, -1]], dtype=np.int16)
    patients = ["a", "b", "c", "c", "d"]
    assert donors(labels, patients, "same_label").tolist() == [1, 0, NO_DONOR, NO_DONOR, NO_DONOR]
    assert NO_DONOR not in donors(labels, patients, "other_labels")


@pytest.mark.parametrize("kind", ["same_label", "other_labels"])
def test_candidates_are_drawn_evenly_and_the_same_for_the_same_seed(kind: str) -> None:
    labels = np.array([[0]] * 4 + [[1]] * 3 + [[2]], dtype=np.int16)
    patients = ["a", "a", "b", "c", "a", "d", "e", "a"]
    draws = [donors(labels, patients, kind, seed) for seed in range(3000)]
    assert np.array_equal(draws[7], donors(labels, patients, kind, 7))
    counts = Counter(int(found[0]) for found in draws)
    assert set(counts) == ({2, 3} if kind == "same_label" else {5, 6})
    assert all(1350 < count < 1650 for count in counts.values())  # 5.5 standard deviations


def test_a_split_with_one_label_has_no_donors_of_others() -> None:
    assert donors(np.zeros((3, 1), np.int16), ["a", "b", "c"], "other_labels").tolist() == [NO_DONOR] * 3


def test_a_patient_with_nearly_all_other_labels_is_not_drawn_for_itself() -> None:
    labels = np.array([[0]] + [[1]] * 500, dtype=np.int16)
    assert donors(labels, ["a"] * 500 + ["b"], "other_labels")[0] == 500
