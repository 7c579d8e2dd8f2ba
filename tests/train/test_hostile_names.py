"""Names of classes and runs that are formulas, markup, too long or steer a terminal; and trackers that fail."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_shards import write_other_shards
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr_dist.distributed.world import World
from cxr_dist.errors import printable
from cxr_dist.report import plots
from cxr_dist.report.confusion_plot import confusion
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.trackers import Trackers
from cxr_dist.train.validation import Validation

LONG = "lung" * 40
NAMES = ("$\\foo$", LONG, "[/bold] =1+1", "_hidden", "<b>\x1b[31m red")
STEP = {"epoch": 0.5, "train/loss": 0.5, "train/samples_per_second": 9.0, "train/data_wait_share": 0.1}


def test_figures_take_every_name_and_keep_their_axes_large():
    line = (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0]))
    figures = [
        plots.roc(dict.fromkeys(NAMES, line), dict.fromkeys(NAMES, 0.5)),
        confusion(np.arange(25).reshape(5, 5), NAMES),
        plots.interval_plot({name: [] for name in NAMES}, [], []),
    ]
    for figure in figures:
        FigureCanvasAgg(figure).draw()
        assert figure.axes[0].get_window_extent().width > 0.35 * figure.bbox.width
    (legend,) = [axes.get_legend() for axes in figures[0].axes]
    assert len(legend.get_texts()) == len(NAMES)  # matplotlib leaves out labels that start with _
    assert legend.get_texts()[0].get_text() == "$\\foo$  0.50"


def test_a_run_of_such_classes_and_of_such_a_name_finishes(tiny_config, tmp_path, capfd):
    """Takes about 6 s: it writes shards and trains."""
    written = ("Normal: ", "Cardiomegaly: ", "Effusion: ", "Opacity: ", "Nodule: ")
    changes = [part for old, new in zip(written, NAMES, strict=True) for part in (old, f"{json.dumps(new)}: ")]
    shards = write_other_shards(tmp_path, *changes)
    settings = dataclasses.replace(tiny_config.train, max_steps=2, eval_every=1)
    data = dataclasses.replace(tiny_config.data, shards=str(shards))
    config = dataclasses.replace(tiny_config, data=data, train=settings, run="[/bold]\x1b[31m")
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    said = capfd.readouterr()
    assert "failed" not in said.err
    assert "\x1b" not in said.err + said.out


class Full:
    """A tracker of the package that fails in all its methods."""

    def log(self, values, step):
        raise OSError(28, "No space left on device")

    def figure(self, name, figure, step):
        raise RuntimeError("secret")

    def close(self):
        raise OSError(28, "No space left on device")


def test_a_failing_tracker_or_plot_is_reported_once_and_training_goes_on(tiny_config, tmp_path, capfd):
    trackers = Trackers(tiny_config, tmp_path, World())
    trackers.open(0, 9)
    trackers._trackers.insert(0, Full())
    for step in (1, 2):
        trackers.log(STEP, step)
        trackers.figure("validation/roc", Figure(), step)
        trackers.figures(lambda: {"validation/roc": 1 / 0}, step)
    trackers.close()
    said = capfd.readouterr().err
    assert said.count("Full failed (OSError No space left on device): training goes on") == 1
    assert said.count("drawing a figure failed (ZeroDivisionError): training goes on") == 1
    assert "secret" not in said
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_metrics_jsonl_catches_up_when_a_full_disk_has_room_again(tiny_config, full_disk, capfd):
    trackers = Trackers(tiny_config, full_disk, World())
    trackers.open(0, 9)
    filler = full_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1k"], capture_output=True, check=False)
    for step in range(1, 60):
        trackers.log(STEP, step)
    filler.unlink()
    trackers.log(STEP, 60)
    trackers.close()
    said = capfd.readouterr().err
    assert said.count("TensorBoard failed (OSError No space left on device): training goes on") == 1
    assert said.count("JsonLines failed (no space left to write metrics.jsonl: free some") == 1
    lines = (full_disk / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))


def test_the_checkpoint_is_being_written_before_figures_are_drawn(tiny_config, monkeypatch):
    """The run ends while it draws, as if a library had crashed the process, and has its best checkpoint."""
    measure = Validation.__call__

    def crashing(validation, model):
        def draw():
            raise KeyboardInterrupt

        return dataclasses.replace(measure(validation, model), draw=draw)

    monkeypatch.setattr(Validation, "__call__", crashing)
    settings = dataclasses.replace(tiny_config.train, max_steps=2, eval_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(tiny_config, train=settings), StopRequest(0))
    assert (Path(tiny_config.out) / "checkpoints" / "step-00000001" / "sha256.json").is_file()


def test_control_characters_are_printed_as_escapes():
    persian, hindi = "\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0915\u094d\u200d\u0937"
    assert printable(persian + hindi) == persian + hindi
    assert printable("pay\u200cpal \u200d \u0645\u200c\u200c") == "pay\\u200cpal \\u200d \u0645\u200c\\u200c"
    assert printable("a\x1b[31m\x7f\x9b\u202eb\n\tc é \udcff") == "a\\x1b[31m\\x7f\\x9b\\u202eb\n\tc é \\udcff"
