"""TensorBoard's own reader finds few scalars, the loss in one chart, hyperparameters with results, and the settings."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from made_runs import make_predictions
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from cxr_dist.config.file import to_plain
from cxr_dist.distributed.world import World
from cxr_dist.train.tensorboard_tags import settings_of
from cxr_dist.train.trackers import Trackers
from cxr_dist.train.validation import described

STEP = {
    "epoch": 0.5,
    "train/loss": 0.7,
    "train/learning_rate": 1e-4,
    "train/gradient_norm": 1.0,
    "train/samples_per_second": 100.0,
    "train/data_wait_share": 0.0,
    "train/model_tflops_per_second": 0.1,
    "train/model_flops_utilisation": 0.2,
}


@pytest.fixture(scope="module")
def validation() -> dict[str, float]:
    return described(make_predictions(passes=0))[0]


def written(config, folder: Path, validation: dict[str, float], scalars: str = "main") -> EventAccumulator:
    """Train three validations, of which the second is the best, and read the folder back."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, tensorboard_scalars=scalars))
    folder.mkdir(exist_ok=True)
    trackers = Trackers(config, folder, World())
    trackers.open(0, 6)
    for step, auc in ((2, 0.6), (4, 0.8), (6, 0.7)):
        trackers.log(STEP, step)
        changed = {"validation/macro/roc_auc": auc, "validation/log_loss": 1 - auc, "draws/nodule": 3}
        trackers.log({"epoch": step / 2, **validation, **changed}, step)
    trackers.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_five_classes_have_at_most_thirty_scalars_and_all_of_them_on_request(tiny_config, tmp_path, validation):
    few = written(tiny_config, tmp_path / "few", validation).Tags()["scalars"]
    assert len(few) <= 30
    assert sorted(few)[:3] == ["auc/validation", "loss/train", "loss/validation"]
    assert {"train/loss", "validation/macro/roc_auc", "validation/per_class/nodule/roc_auc"} <= set(few)
    every = written(tiny_config, tmp_path / "all", validation, "all").Tags()["scalars"]
    assert {*few, *validation, "draws/nodule"} <= set(every)
    assert len(every) > 50


def test_training_and_validation_loss_are_in_one_chart_and_have_the_values_of_the_run(
    tiny_config, tmp_path, validation
):
    events = written(tiny_config, tmp_path, validation)
    assert [event.value for event in events.Scalars("loss/train")] == pytest.approx([0.7] * 3)
    assert [event.value for event in events.Scalars("loss/validation")] == pytest.approx([0.4, 0.2, 0.3])
    [event] = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
    chart = layout.category[0].chart[0]
    assert list(chart.multiline.tag) == ["^loss/train$", "^loss/validation$"]


def test_hyperparameters_come_with_the_best_validation_and_settings_as_text(tiny_config, tmp_path, validation):
    events = written(tiny_config, tmp_path, validation)
    [event] = events.Scalars("validation/best/roc_auc")
    assert (event.step, event.value) == (4, pytest.approx(0.8))
    contents = events.summary_metadata
    start = plugin_data_pb2.HParamsPluginData.FromString(
        contents["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert start["seed"].number_value == tiny_config.seed
    assert start["model.mode"].string_value == tiny_config.model.mode
    assert "_hparams_/session_end_info" in contents
    [text] = events.Tensors("configuration/text_summary")
    shown = tensor_util.make_ndarray(text.tensor_proto)[0].decode()
    assert yaml.safe_load(shown)["data"]["global_batch"] == tiny_config.data.global_batch


def test_settings_have_no_folder_of_this_machine(tiny_config):
    data = dataclasses.replace(tiny_config.data, stages=("/home/someone/secret/mine.py:part",))
    config = dataclasses.replace(tiny_config, data=data, out="/home/someone/run", deepspeed="")
    settings = settings_of(to_plain(config))
    assert settings["data.stages"] == "mine.py:part"
    assert not [name for name, value in settings.items() if str(value).startswith("/")]
