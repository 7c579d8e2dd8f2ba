"""A run resumes from its checkpoint alone, and ends if it cannot save one."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.config.file import to_plain, to_yaml
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome

LAST, RESUMED = 6, 3


@pytest.fixture
def finished(tiny_config: Config) -> Config:
    """An uninterrupted run of six steps with mixup and dropout, validated and saved after each step."""
    settings = dataclasses.replace(
        tiny_config.train,
        max_steps=LAST,
        save_every=1,
        eval_every=1,
        keep_checkpoints=LAST,
        mixup_alpha=0.4,
        mixup_from_epoch=1,
    )
    config = dataclasses.replace(tiny_config, train=settings)
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    return config


def cut_back(config: Config, out: Path) -> Config:
    """A copy of the run as if it had been killed after step `RESUMED`."""
    shutil.copytree(config.out, out, symlinks=True)
    for step in range(RESUMED + 1, LAST + 1):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    return dataclasses.replace(config, out=str(out))


def scramble_generators() -> None:
    """Seed all global random generators from the operating system."""
    random.seed()
    np.random.seed()
    torch.seed()


def test_a_resumed_run_does_not_depend_on_global_random_generators(finished, tmp_path):
    scramble_generators()
    resumed = cut_back(finished, tmp_path / "resumed")
    assert train(resumed, StopRequest(0)) is Outcome.FINISHED
    assert losses(Path(resumed.out)) == losses(Path(finished.out))
    last = Path("checkpoints") / f"step-{LAST:08d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = load_file(Path(finished.out) / last / name)
        for tensor, value in load_file(Path(resumed.out) / last / name).items():
            assert value.equal(expected[tensor]), tensor
    expected = json.loads((Path(finished.out) / last / "state.json").read_text())
    state = json.loads((Path(resumed.out) / last / "state.json").read_text())
    assert state["progress"] == expected["progress"]
    assert state["config"] == to_plain(resumed)
    assert (Path(resumed.out) / "best").resolve().name == (Path(finished.out) / "best").resolve().name


def test_a_full_disk_ends_the_run_with_an_explanation(tiny_config, full_disk):
    run_dir = Path(tiny_config.out)
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(full_disk)
    settings = dataclasses.replace(tiny_config.train, save_every=1)
    config = dataclasses.replace(tiny_config, train=settings)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(UserError, match=r"no space left for the checkpoint of step 1: .* start the same command"):
        train(config, StopRequest(0))
    assert max(losses(run_dir)) < 5
