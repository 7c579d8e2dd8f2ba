"""data.micro_batch auto: the sizes that are tried, the limit on memory, the advice, and runs that exceed the limit."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import load_config
from cxr_dist.distributed.world import World, lanes_of, micro_batches_for
from cxr_dist.doctor.dry_run import describe
from cxr_dist.errors import UserError
from cxr_dist.train.memory import micro_batch
from cxr_dist.train.memory.limits import advice, is_out_of_memory, limited
from cxr_dist.train.memory.micro_batch import (
    check_world_size,
    largest_batch,
    largest_that_fits,
)

CPU = torch.device("cpu")


def auto(config):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch="auto"))


@given(st.integers(1, 512), st.integers(1, 64))
def test_all_micro_batches_that_fit_the_global_batch_and_the_world_size_are_tried(global_batch, world_size):
    def serves(size):
        return global_batch % size == 0 and (global_batch // size) % world_size == 0

    expected = [size for size in range(global_batch, 0, -1) if serves(size)]
    assert micro_batches_for(global_batch, world_size) == expected


def test_the_configuration_has_no_lanes_while_the_micro_batch_is_auto():
    data = DataConfig(micro_batch="auto", global_batch=24)
    with pytest.raises(AssertionError):
        _ = data.num_lanes
    assert dataclasses.replace(data, micro_batch=6).num_lanes == 4


@pytest.mark.parametrize(("limit", "largest"), [(0, 0), (1, 1), (7, 6), (24, 24)])
def test_the_largest_that_fits_is_found_and_only_one_trial_runs_out_of_memory(tiny_config, monkeypatch, limit, largest):
    config = dataclasses.replace(tiny_config, data=DataConfig(micro_batch="auto", global_batch=48))
    tried = []

    def steps(trial, lanes, num_labels, new_step):
        tried.append(trial.data.micro_batch)
        assert trial.parallel == "ddp"
        assert not trial.model.pretrained
        assert len(lanes) == min(2, 48 // trial.data.micro_batch // 2)
        if trial.data.micro_batch > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_batch, "_steps", steps)
    assert largest_that_fits(config, World(world_size=2), 1, None) == largest
    sizes = [1, 2, 3, 4, 6, 8, 12, 24]
    assert tried == [size for size in sizes if size <= limit] + [size for size in sizes if size > limit][:1]


def test_a_trial_that_fails_for_another_reason_raises_its_error(tiny_config):
    def new_step(trial, lanes):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        largest_that_fits(auto(tiny_config), World(), 1, new_step)


def test_a_world_size_for_which_there_is_no_micro_batch_is_refused(tiny_config):
    check_world_size(auto(tiny_config), World(world_size=16))
    with pytest.raises(UserError, match=r"world size 3 does not divide data.global_batch 16, .*use 1, 2, 4, 8, 16"):
        check_world_size(auto(tiny_config), World(world_size=3))
    # As for a run that is resumed with more ranks.
    with pytest.raises(UserError, match=r"world size 8 does not divide 4 lanes"):
        check_world_size(tiny_config, World(world_size=8))


def test_the_dry_run_shows_what_is_known_without_the_micro_batch(tiny_config):
    facts = describe(auto(tiny_config))
    assert facts["legal world sizes"] == "1, 2, 4, 8, 16"
    assert "determined on the device" in facts["lanes"]
    assert facts["steps in all"] == describe(tiny_config)["steps in all"]


def test_the_batch_of_a_trial_has_the_maximal_size(tiny_config):
    batch = largest_batch(tiny_config, 3, num_labels=1)
    assert batch.images.shape == (3, 1, 64, 64)
    assert batch.tokens.shape == batch.attention_mask.shape == (3, 32)
    assert int(batch.attention_mask.sum()) == 3 * 32


def test_a_limit_on_memory_is_enforced_only_inside_its_block():
    with limited(CPU, 1e-6, processes=1), pytest.raises(RuntimeError) as refused:
        torch.ones(2**27)
    assert is_out_of_memory(refused.value)
    assert float(torch.ones(2**27)[-1]) == 1.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_advice_names_only_options_that_are_not_in_use(tiny_config):
    first, *rest = advice(tiny_config, world_size=2)
    assert first.startswith("--data.micro-batch 2, or auto, and another --out")
    assert lanes_of(World(world_size=2), 16 // 2)
    assert [line.split()[0] for line in rest] == [
        "--model.gradient-checkpointing", "--precision", "--parallel", "--parallel",
    ]  # fmt: skip
    saving = dataclasses.replace(
        tiny_config,
        parallel="zero3",
        deepspeed="offload.json",
        precision="bf16",
        data=dataclasses.replace(tiny_config.data, micro_batch=1),
        model=dataclasses.replace(tiny_config.model, gradient_checkpointing="all"),
    )
    assert advice(saving, world_size=2) == ["a device with more memory: all other options are in use"]
    of_text = dataclasses.replace(saving.model, gradient_checkpointing="text")
    more = advice(dataclasses.replace(saving, model=of_text), world_size=2)
    assert [line.split(",")[0] for line in more] == ["--model.gradient-checkpointing all"]
    of_text = dataclasses.replace(of_text, mode="text")
    assert "more memory" in advice(dataclasses.replace(saving, model=of_text), world_size=2)[0]


# The imports come first, so that they do not count against the limit.
_LIMITED = """
import resource, sys
import cxr_dist.train.assembly, cxr_dist.evaluate.metrics, matplotlib.pyplot
from cxr_dist.cli.main import main
from cxr_dist.train.memory.limits import _bytes_of
used = _bytes_of("/proc/self/status", "VmSize")
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv.pop(1)) * 2**20,) * 2)
main()
"""


def train_in(mebibytes, shards, out, micro_batch, expected=0):
    """Train on images of 224 pixels in a process that may allocate this much memory after its imports."""
    flags = (
        "--data.image-size 224 --data.global-batch 64 --data.workers 0 --train.max-steps 1 --model.mode image "
        f"--data.evaluation-batch 2 --data.micro-batch {micro_batch}"
    ).split()
    command = [sys.executable, "-c", _LIMITED, str(mebibytes), "train", "demo", *flags]
    done = subprocess.run(
        [*command, "--data.shards", str(shards), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == expected, done.stderr
    return done.stderr


def test_a_run_chooses_what_fits_and_a_resumed_run_keeps_it_with_more_memory(tiny_shards, tmp_path):
    printed = train_in(1000, tiny_shards, tmp_path / "run", "auto")
    chosen = load_config(tmp_path / "run" / "config.yaml").data.micro_batch
    assert chosen in (8, 16, 32)
    assert f"data.micro_batch auto: {chosen} on CPU" in printed
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    assert f"auto: {chosen} on CPU" in train_in(9000, tiny_shards, tmp_path / "run", "auto")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_run_with_too_little_memory_explains_what_to_do(tiny_shards, tmp_path):
    printed = train_in(250, tiny_shards, tmp_path / "run", "64", expected=2)
    assert "Traceback" not in printed
    assert "cxr-dist: out of memory on rank 0 of 1 on " in printed
    settings = "after step 0, with micro-batch 64, fp32, ddp. Try, in this order:"
    assert f"{settings}\n  --data.micro-batch 32, or auto, and another --out" in printed
