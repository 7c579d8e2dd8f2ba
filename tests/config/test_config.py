"""A configuration is valid when it is created, is saved and read back exactly, and reports differences."""

import dataclasses

import pytest

from cxr_dist.config.data import DataConfig
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.file import differences, load_config, to_yaml
from cxr_dist.config.flags import config_of
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import RUNS, named_run
from cxr_dist.config.optim import OptimConfig
from cxr_dist.config.run import Config
from cxr_dist.config.train import TrainConfig
from cxr_dist.errors import UserError


@pytest.mark.parametrize("name", RUNS)
def test_a_named_run_survives_the_round_trip(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(named_run(name)))
    assert load_config(path) == named_run(name)
    assert named_run(name).run == name


@pytest.mark.parametrize(("written", "meant"), [("true", "text"), ("false", "off"), ("off", "off"), ("all", "all")])
def test_gradient_checkpointing_of_older_run_folders_is_read(written, meant, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(named_run("demo")).replace("checkpointing: 'off'", f"checkpointing: {written}"))
    assert f"checkpointing: {written}\n" in path.read_text()
    assert load_config(path).model.gradient_checkpointing == meant


@pytest.mark.parametrize(("said", "meant"), [("true", "text"), ("False", "off"), ("image", "image")])
@pytest.mark.parametrize("flag", ["--model.gradient-checkpointing", "--model.gradient_checkpointing"])
def test_gradient_checkpointing_of_older_commands_is_understood(flag, said, meant):
    config = config_of("demo", ["--train.epochs", "2", flag, said, "--compile", "true"], "cxr-dist train demo")
    assert (config.model.gradient_checkpointing, config.compile) == (meant, True)


def test_differences_name_the_field_and_both_values():
    old = named_run("baseline")
    new = dataclasses.replace(old, seed=7, optim=dataclasses.replace(old.optim, lr=0.5), out="elsewhere")
    assert differences(old, new) == ["optim.lr: 0.0001 -> 0.5", "seed: 42 -> 7"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DataConfig(global_batch=30, micro_batch=8),
            r"global_batch 30 is not a multiple .* choose e.g. 32",
        ),
        (lambda: DataConfig(sampling_temper=1.5), r"sampling_temper is 1.5; expected 0 to 1"),
        (lambda: ModelConfig(fusion_dim=10, fusion_heads=4), "fusion_dim 10 is not a multiple"),
        (lambda: ModelConfig(fusion_heads=0), "model.fusion_heads is 0; expected 1 or more"),
        (
            lambda: ModelConfig(gradient_checkpointing="txt"),
            r"gradient_checkpointing 'txt' \(did you mean 'text'\?\); expected one of: off, text, image, all, auto",
        ),
        (lambda: ModelConfig(head_dropout=(0.5, 1.0)), r"model.head_dropout is \(0.5, 1.0\); expected 0 to below 1"),
        (lambda: OptimConfig(lr=0), "optim.lr is 0; expected above 0"),
        (lambda: Config(parallel="zero2", precision="fp64"), "DeepSpeed has no fp64"),
        (lambda: DdpConfig(bucket_cap_mb=0), "ddp.bucket_cap_mb is 0; expected 1 or more"),
        (
            lambda: Config(parallel="zero2", ddp=DdpConfig(comm_hook="bf16")),
            "ddp.… is set, but parallel is zero2",
        ),
        (
            lambda: Config(precision="fp64", ddp=DdpConfig(comm_hook="bf16")),
            "ddp.comm_hook bf16 rounds gradients",
        ),
        (lambda: TrainConfig(profile="20"), r"train.profile is '20'; expected START:STOP .* as 20:25"),
        (
            lambda: TrainConfig(profile="25:20"),
            "train.profile is '25:20'; expected START:STOP with START below",
        ),
        (lambda: Config(data=DataConfig(text_sections=())), "data.text_sections is empty"),
        (lambda: named_run("enhance"), r"unknown run 'enhance' \(did you mean 'enhanced'\?\); expected"),
    ],
)
def test_bad_values_are_refused_with_advice(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_folder_without_a_configuration_is_not_a_run_folder(tmp_path):
    with pytest.raises(UserError, match="that is not a run folder"):
        load_config(tmp_path / "nowhere" / "config.yaml")
