"""After a strongly weighted training, calibrated probabilities agree with how often each class occurs."""

import json

import numpy as np
import pytest
from made_shards import write_imbalanced_shards

from cxr_dist.evaluate.predictions import Predictions

SETTINGS = "--model.mode image --data.image-size 32 --data.global-batch 32 --data.micro-batch 16 --train.epochs 5"
SETTINGS += " --data.sampling weighted --loss.name cross_entropy --optim.lr 0.002 --train.mixup-alpha 0"


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_mean_calibrated_probability_of_each_class_is_its_prevalence(cxr_dist, tmp_path, task):
    """Class weights on top of weighted sampling compensate the imbalance twice. Takes about 10 s to train and judge."""
    shards = write_imbalanced_shards(tmp_path, task, num_images=1600)
    run = tmp_path / "run"
    weighted = [*SETTINGS.split(), "--loss.class-weights", "original", "--data.shards", shards, "--out", run]
    assert cxr_dist("train", "demo", *weighted)[0] == 0
    assert cxr_dist("evaluate", run, "--mc-samples", "0")[0] == 0
    predictions = Predictions.read_csv(run / "evaluation" / "test" / "predictions.csv")
    calibration = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["calibration"]
    for mean, raw, low, high in _prevalences(predictions):
        assert low < mean < high
        assert not low < raw < high
    assert "prior shift" in calibration["method"]
    assert calibration["after"]["log_loss"] < calibration["candidates"]["temperature"]
    assert calibration["after"]["ece"] < calibration["before"]["ece"] / 3


def _prevalences(predictions: Predictions) -> list[tuple[float, float, float, float]]:
    """Of each class: mean calibrated and raw probability, and the prevalence's 95% interval over patients."""
    random, rows = np.random.default_rng(0), []
    _, patient = np.unique(predictions.patients, return_inverse=True)
    for c, one in enumerate(predictions.each_class()):
        of = patient[one.known]
        positive, number = np.bincount(of, one.truth), np.bincount(of)
        draws = random.integers(0, len(number), (2000, len(number)))
        shares = positive[draws].sum(axis=1) / number[draws].sum(axis=1)
        low, high = np.quantile(shares, [0.025, 0.975])
        rows.append((one.score.mean(), predictions.raw[one.known, c].mean(), low, high))
    return rows
