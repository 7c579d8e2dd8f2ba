"""Low-rank adapters on several ranks: the same bits on one and two, also after a kill, and the same under ZeRO."""

from pathlib import Path

import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file
from test_same_bits import bits, kill_when_logged

pytestmark = pytest.mark.multiprocess
pytest.importorskip("peft", reason="needs the extra adapters")

SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 64 --data.workers 0 "
    "--train.epochs 4 --train.log-every 1 --train.freeze-epochs 1 --train.save-every 2 --train.max-steps 14 "
    "--model.adapt lora --model.lora-rank 2 --seed 3"
).split()


def test_one_and_two_ranks_have_the_same_bits_also_after_a_kill(
    tiny_shards: Path, tmp_path: Path, run_ranks, start_ranks
) -> None:
    """Takes half a minute: an undisturbed run, and one that is killed on two ranks and goes on with one."""
    command = ("train", "demo", *SETTINGS, "--exact-sums", "true", "--data.shards", tiny_shards, "--out")
    run_ranks(1, *command, tmp_path / "one")
    kill_when_logged(start_ranks(2, *command, tmp_path / "two"), tmp_path / "two" / "metrics.jsonl", 8)
    run_ranks(2, *command, tmp_path / "two")
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    assert len(bits(tmp_path / "one")[1]) == 14


def test_zero_trains_the_same_adapters_as_ddp(tiny_shards: Path, tmp_path: Path, run_ranks) -> None:
    found = {}
    for engine in ("ddp", "zero2"):
        out = tmp_path / engine
        run_ranks(2, "train", "demo", *SETTINGS, "--parallel", engine, "--data.shards", tiny_shards, "--out", out)
        found[engine] = load_file(out / "checkpoints" / "step-00000014" / "model.safetensors")
    assert losses(tmp_path / "zero2") == pytest.approx(losses(tmp_path / "ddp"), rel=1e-3)
    for name, value in found["ddp"].items():
        torch.testing.assert_close(found["zero2"][name], value, rtol=1e-2, atol=1e-3, msg=name)
