"""The run `pretrain`: what it logs, chooses and refuses, and that a resumed run is the uninterrupted one."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Contrastive pretraining for eight steps on `tiny_shards`, with encoders that are frozen in the first epoch."""
    run = named_run("demo-pretrain")
    settings = dataclasses.replace(
        run.train, epochs=2, log_every=1, freeze_epochs=1, max_steps=8, save_every=1, eval_every=2, keep_checkpoints=8
    )
    data = dataclasses.replace(tiny_config.data, text_sections=("findings", "impression"))
    sampled = dataclasses.replace(run.pretrain, sentences=1)
    return dataclasses.replace(run, data=data, train=settings, pretrain=sampled, seed=1, out=tiny_config.out)


def test_a_killed_run_resumes_bit_for_bit(config: Config, tmp_path: Path) -> None:
    """Takes more than five seconds: it trains two runs with both encoders."""
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    out = tmp_path / "resumed"
    shutil.copytree(config.out, out, symlinks=True)
    for step in range(4, 9):  # as if it had been killed in the frozen epoch, which has five steps
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    assert train(dataclasses.replace(config, out=str(out)), StopRequest(0)) is Outcome.FINISHED
    assert losses(out) == losses(Path(config.out))
    last = "checkpoints/step-00000008"
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = load_file(Path(config.out) / last / name)
        for tensor, value in load_file(out / last / name).items():
            assert value.equal(expected[tensor]), tensor
    assert (out / "best").resolve().name == (Path(config.out) / "best").resolve().name

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert all(0.01 <= line["temperature"] <= 1 and line["masked_pairs"] >= 0 for line in steps)
    assert any(line["masked_pairs"] > 0 for line in steps), "the synthetic reports are templates"
    recalls = {line["step"]: line["validation"]["mean_recall"] for line in lines if "validation" in line}
    assert list(recalls) == [2, 4, 6, 8]
    best = int((out / "best").resolve().name.removeprefix("step-"))
    assert recalls[best] == max(recalls.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"mixup_alpha": 0.2}}, r"mode is contrastive, but --train.mixup-alpha mixes labels.*use 0"),
        ({"data": {"global_batch": 1, "micro_batch": 1}}, r"global-batch 1 has no other report.*at least 2"),
        ({"data": {"text_sections": ()}}, r"mode contrastive reads the report, but data.text_sections is empty"),
        ({"pretrain": {"temperature": 2.0}}, r"pretrain.temperature is 2.0; expected 0.01 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Config, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(
            config, **{name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items()}
        )


def test_compiling_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"--compile compiles the forward pass .* leave it off"):
        dataclasses.replace(config, compile=True)
