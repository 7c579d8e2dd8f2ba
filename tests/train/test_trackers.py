"""Trackers: TensorBoard reads the values back, metrics.jsonl keeps its format, and trackers of users are isolated."""

import dataclasses
import io
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import CLASSES, make_predictions
from matplotlib.figure import Figure
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.train.terminal import Terminal, speed_in_words, speed_note
from cxr_dist.train.trackers import JsonLines, TensorBoard, Trackers, check_trackers
from cxr_dist.train.validation import described

STEP = {"epoch": 0.5, "train/loss": 0.5, "train/samples_per_second": 100.0, "train/data_wait_share": 0.0}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def show(folder: Path, predictions, step: int) -> None:
    """Write the values and figures of a validation to TensorBoard."""
    tracker = TensorBoard(folder)
    values, draw = described(predictions)
    tracker.log({"epoch": 1.0, **values, **{f"draws/{name}": 7 for name in CLASSES}}, step)
    for name, figure in draw().items():
        tracker.figure(name, figure, step)
    tracker.close()


def test_tensorboard_reads_scalars_figures_and_draws(tmp_path):
    made = make_predictions(passes=3)
    show(tmp_path, made, 2)
    tracker = TensorBoard(tmp_path)
    tracker.log(STEP, 1)
    tracker.close()
    shown = read(tmp_path)
    [event] = shown.Scalars("validation/macro/roc_auc")
    expected = compute_metrics(made)["macro"]["roc_auc"]
    assert (event.step, event.value) == (2, pytest.approx(expected, abs=1e-6))
    assert shown.Scalars("train/loss")[0].value == 0.5
    assert shown.Scalars("draws/nodule")[0].value == 7
    tags = shown.Tags()["scalars"]
    assert "validation/per_class/nodule/roc_auc" in tags
    assert "epoch" not in tags
    assert not [tag for tag in tags if tag.endswith(("/positive", "/n"))]
    assert set(shown.Tags()["images"]) == {"validation/roc", "validation/confusion_matrix"}
    assert shown.Images("validation/roc")[0].width > 300


def test_undefined_values_are_left_out_and_multilabel_has_no_confusion_matrix(tmp_path):
    made = make_predictions(task="multilabel", passes=0)
    made.labels[:, 1] = -1
    show(tmp_path, made, 1)
    tags = read(tmp_path).Tags()
    assert "validation/per_class/cardiomegaly/roc_auc" not in tags["scalars"]
    assert "validation/per_class/nodule/roc_auc" in tags["scalars"]
    assert tags["images"] == ["validation/roc"]


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    first = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first.log({"train/loss": 1.0}, step)
    first.close()
    time.sleep(1.1)  # event files are read in the order of their names, which contain the second of their creation
    second = TensorBoard(tmp_path, resumed_step=2)
    for step in (3, 4):
        second.log({"train/loss": 2.0}, step)
    second.close()
    written = [(event.step, event.value) for event in read(tmp_path).Scalars("train/loss")]
    assert written == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_lines_of_metrics_jsonl_keep_their_format(tmp_path):
    lines = JsonLines(tmp_path, 0)
    lines.log({"epoch": 0.5, "train/loss": 0.25, "train/learning_rate": 0.1}, 3)
    lines.log({"epoch": 1.0, "validation/accuracy": 0.5, "validation/macro/f1": 0.4, "draws/a": 7}, 4)
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 3, "epoch": 0.5, "loss": 0.25, "learning_rate": 0.1}',
        '{"step": 4, "epoch": 1.0, "validation": {"mean_auc": null, "accuracy": 0.5, "macro_f1": 0.4, "loss": null}}',
    ]


NAMES = st.from_regex(r"(train|validation|draws)/[a-z_/]{1,9}", fullmatch=True)


@given(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False)))
def test_every_line_of_metrics_jsonl_has_a_step_and_an_epoch(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("lines")
    lines = JsonLines(folder, 0)
    lines.log({"epoch": 2.0, **values}, 9)
    lines.close()
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(written) == len({name.split("/")[0] for name in values} - {"draws"})
    assert all((line["step"], line["epoch"]) == (9, 2.0) for line in written)


SPEED = {"train/samples_per_second": 2310.4, "train/data_wait_share": 0.004}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "2310 samples/s  data wait 0%"),
        ({"train/model_tflops_per_second": 0.0123}, "2310 samples/s  data wait 0%"),
        ({"train/model_flops_utilisation": 0.2005}, "2310 samples/s  data wait 0%  MFU 20%"),
    ],
)
def test_the_speed_is_formatted_for_a_line_and_for_the_bar(more, line):
    assert speed_in_words(SPEED | more) == line
    assert speed_note(SPEED | more) == "2310/s wait 0%"


def shown(*, terminal: bool, width: int = 80) -> str:
    """What is shown of three steps of a resumed run and a validation."""
    file = io.StringIO()
    tracker = Terminal(Console(file=file, force_terminal=terminal, width=width), 100, 1620, 12)
    for step in (110, 120, 130):
        train = {"train/loss": 0.5, "train/learning_rate": 2e-3, "train/model_tflops_per_second": 0.3}
        tracker.log({"epoch": step / 135, **SPEED, **train}, step)
        time.sleep(0.02)
    tracker.log({"epoch": 1.0, "validation/macro/roc_auc": 0.91, "validation/accuracy": 0.5}, 135)
    tracker.close()
    return file.getvalue()


def test_a_log_has_a_line_for_each_step_that_can_be_searched():
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "step 110 of 1620  epoch 0.81 of 12  loss 0.5000  lr 2.0e-03  2310 samples/s  data wait 0%"
    left = re.fullmatch(r"step 120 of 1620  epoch .*  data wait 0%  (\d+):(\d\d):(\d\d) left", lines[1])
    assert left is not None
    assert 3 <= int(left[3]) < 60  # 1500 steps of at least 2 ms
    assert lines[3:] == ["step 135  validation: mean AUC 0.910  accuracy 0.500"]
    assert not re.search(r"[\r\x1b]|FLOP", "\n".join(lines))


def test_the_bar_fits_into_80_columns():
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(terminal=True))
    bars = [line for line in re.split(r"[\r\n]", text) if "/1620" in line]
    assert "epoch 1/12 loss 0.5000 lr 2.0e-03  2310/s wait 0%" in bars[-1]
    assert max(map(len, bars)) <= 80


OWN = '''
class Lists:
    """Records its calls."""
    made = []
    def __init__(self, run_dir, config):
        self.calls, self.config = [], config
        Lists.made.append(self)
    def log(self, values, step):
        self.calls.append((values, step))
        values.clear()
    def figure(self, name, figure, step):
        self.calls.append((name, figure, step))
    def close(self):
        self.calls.append("closed")

class Breaks(Lists):
    def log(self, values, step):
        raise KeyError("secret")
    def close(self):
        raise KeyError("never called")

class NoLog:
    def __init__(self, run_dir, config): ...
    def figure(self, name, figure, step): ...
    def close(self): ...

def no_log(run_dir, config):
    return NoLog(run_dir, config)

def not_made(run_dir, config):
    raise ValueError("secret")

def takes_one(run_dir): ...
'''


@pytest.fixture
def own(tmp_path, tiny_config):
    """own(NAME, …) -> the configuration with these trackers, which are defined in a file in `tmp_path`."""
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return lambda *names: dataclasses.replace(tiny_config, trackers=tuple(f"{file}:{name}" for name in names))


def test_trackers_of_the_user_get_values_and_figures_only_on_rank_0(own, tmp_path):
    config = own("Lists")
    check_trackers(config.trackers)
    other = Trackers(config, tmp_path, World(rank=1, world_size=2))
    other.open(0, 9)
    other.log(STEP, 1)
    other.close()
    assert not (tmp_path / "metrics.jsonl").exists()
    trackers, figure = Trackers(config, tmp_path, World()), Figure()
    trackers.open(0, 9)
    trackers.log(values := dict(STEP), 1)
    trackers.figure("validation/roc", figure, 2)
    trackers.close()
    assert values == STEP  # although the tracker cleared its copy
    made = type(trackers._trackers[-1]._tracker).made
    assert len(made) == 1
    assert made[0].config["data"]["global_batch"] == config.data.global_batch
    assert made[0].calls == [({}, 1), ("validation/roc", figure, 2), "closed"]


def test_a_tracker_that_raises_is_reported_once_and_not_called_again(own, tmp_path, capfd):
    trackers = Trackers(own("Breaks", "Lists"), tmp_path, World())
    trackers.open(0, 9)
    trackers.log(STEP, 1)
    trackers.log(STEP, 2)
    trackers.close()
    said = capfd.readouterr().err
    line = OWN.splitlines().index('        raise KeyError("secret")') + 1
    assert said.count(f"raised KeyError in line {line} of own.py: it is not called again") == 1
    assert "secret" not in said
    assert "never called" not in said
    assert len(trackers._trackers[-1]._tracker.calls) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoLog", r"has no method 'log'; expected log\(values, step\)"),
        ("takes_one", r"cannot be called as NAME\(run_dir, config\)"),
        ("absent", "defines no 'absent'"),
    ],
)
def test_an_invalid_tracker_is_refused_before_it_is_made(own, name, message):
    with pytest.raises(UserError, match=message):
        check_trackers(own(name).trackers)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_log", "has no method 'log'"), ("not_made", r"raised ValueError in line \d+ of own.py$")],
)
def test_an_invalid_result_of_a_factory_is_refused_when_it_is_made(own, tmp_path, name, message):
    config = own(name)
    check_trackers(config.trackers)
    with pytest.raises(UserError, match=message):
        Trackers(config, tmp_path, World())


def test_an_unknown_name_is_refused_and_the_message_shows_the_valid_forms():
    with pytest.raises(UserError, match=r"unknown tracker 'wandbb'.*: mlflow, wandb, MODULE:NAME or FILE.py:NAME"):
        check_trackers(("wandbb",))
