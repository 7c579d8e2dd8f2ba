"""What TensorBoard itself reads back from the event files."""

import time
from pathlib import Path

import pytest
from made_runs import CLASSES, make_predictions
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.report.tensorboard import TensorBoardSink


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_scalars_figures_and_draws(tmp_path: Path) -> None:
    made = make_predictions(passes=3)
    metrics = compute_metrics(made)
    sink = TensorBoardSink(tmp_path)
    sink.step({"loss": 0.5, "samples_per_second": 100}, 1)
    sink.validation(metrics, made, 2)
    sink.draws(dict.fromkeys(CLASSES, 7), 2)
    sink.close()
    found = read(tmp_path)
    [event] = found.Scalars("validation/macro/roc_auc")
    assert (event.step, event.value) == (2, pytest.approx(metrics["macro"]["roc_auc"], abs=1e-6))
    assert found.Scalars("train/loss")[0].value == 0.5
    assert found.Scalars("draws/nodule")[0].value == 7
    assert "validation/per_class/nodule/roc_auc" in found.Tags()["scalars"]
    assert not [tag for tag in found.Tags()["scalars"] if tag.endswith(("/positive", "/n"))]
    assert set(found.Tags()["images"]) == {"validation/roc", "validation/confusion_matrix"}
    assert found.Images("validation/roc")[0].width > 300


def test_undefined_values_leave_a_gap_and_multilabel_has_no_confusion_matrix(tmp_path: Path) -> None:
    made = make_predictions(task="multilabel", passes=0)
    made.labels[:, 1] = -1
    sink = TensorBoardSink(tmp_path)
    sink.validation(compute_metrics(made), made, 1)
    sink.close()
    tags = read(tmp_path).Tags()
    assert "validation/per_class/cardiomegaly/roc_auc" not in tags["scalars"]
    assert "validation/per_class/nodule/roc_auc" in tags["scalars"]
    assert tags["images"] == ["validation/roc"]


def test_a_resumed_run_replaces_what_it_writes_again(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    for step in (1, 2, 3):
        first.step({"loss": 1.0}, step)
    first.close()
    time.sleep(1.1)  # event files are read in the order of their names, which have the second of their making
    second = TensorBoardSink(tmp_path, purge_step=3)
    for step in (3, 4):
        second.step({"loss": 2.0}, step)
    second.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("train/loss")] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
    ]
