"""The population of an evaluation is described by shares."""

import dataclasses

import numpy as np
import pytest
from made_runs import make_predictions

from cxr_dist.evaluate.population import population


def test_shares_are_of_all_samples_and_unknown_values_come_last():
    predictions = dataclasses.replace(
        make_predictions(n=4, passes=0),
        attributes={"view": ["PA", "", "AP", "PA"], "sex": ["M", "F", "F", "F"]},
        labels=np.array([[0], [0], [0], [1]], dtype=np.int16),
    )
    described = population(predictions)
    assert (described["n"], described["patients"]) == (4, len(set(predictions.patients)))
    assert list(described["view"].items()) == [("AP", 0.25), ("PA", 0.5), ("not recorded", 0.25)]
    assert described["sex"] == {"F": 0.75, "M": 0.25}
    assert described["age_band"] == {}
    assert list(described["prevalence"].values()) == [0.75, 0.25, 0, 0, 0]


def test_prevalence_is_among_known_labels():
    predictions = make_predictions(n=3, task="multilabel", classes=("A", "B"), passes=0)
    labels = np.array([[1, -1], [0, -1], [-1, -1]], dtype=np.int16)
    described = population(dataclasses.replace(predictions, labels=labels))
    assert described["prevalence"] == {"A": pytest.approx(0.5), "B": None}
