"""exact_sums refuses what would make results depend on the number of ranks, and says which numbers are legal."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.data import DataConfig
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.world import World, lanes_of, micro_batches_for
from cxr_dist.errors import UserError
from cxr_dist.run.folder import training_differences
from cxr_dist.train.memory.micro_batch import check_world_size

DEMO = named_run("demo")
EXACT = dataclasses.replace(DEMO, exact_sums=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": "zero2"}, "parallel zero2: DeepSpeed adds .*use --parallel ddp"),
        ({"compile": True}, "leave --compile off"),
        ({"ddp": DdpConfig(comm_hook="bf16")}, "it rounds gradients"),
        ({"model": dataclasses.replace(DEMO.model, sync_batchnorm=True)}, "sync-batchnorm: .*leave it off"),
        ({"model": dataclasses.replace(DEMO.model, gradient_checkpointing="auto")}, "use off, image, text or all"),
        (
            {"data": DataConfig(global_batch=48, micro_batch=4)},
            "global_batch 48 / data.micro_batch 4 is 12: use a data.micro_batch of 3, 6, 12, 24, 48,",
        ),
    ],
)
def test_settings_that_depend_on_the_number_of_ranks_are_refused(changes, message):
    dataclasses.replace(DEMO, **changes)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(EXACT, **changes)


def test_a_number_of_ranks_that_is_no_power_of_two_is_refused_with_the_legal_ones():
    fixed = dataclasses.replace(EXACT.data, global_batch=32, micro_batch=8)
    auto = dataclasses.replace(EXACT.data, global_batch=48, micro_batch="auto")
    for data, legal in ((fixed, "1, 2, 4 ranks"), (auto, "1, 2, 4, 8, 16 ranks")):
        config = dataclasses.replace(EXACT, data=data)
        with pytest.raises(UserError, match=f"use {legal}"):
            check_world_size(config, World(world_size=3))
        check_world_size(config, World(world_size=4))


@given(st.integers(0, 6), st.integers(0, 6))
def test_ranks_have_consecutive_lanes(ranks, lanes_per_rank):
    world_size, num_lanes = 2**ranks, 2 ** (ranks + lanes_per_rank)
    shares = [lanes_of(World(rank=r, world_size=world_size), num_lanes, exact=True) for r in range(world_size)]
    assert [lane for share in shares for lane in share] == list(range(num_lanes))


@given(st.integers(1, 200), st.integers(1, 16))
def test_micro_batches_that_auto_may_choose_are_legal(global_batch, world_size):
    for size in micro_batches_for(global_batch, world_size, exact=True):
        data = dataclasses.replace(EXACT.data, global_batch=global_batch, micro_batch=size)
        lanes_of(World(world_size=world_size), dataclasses.replace(EXACT, data=data).data.num_lanes, exact=True)


def test_a_run_cannot_be_resumed_with_another_rounding():
    recomputed = dataclasses.replace(DEMO.model, gradient_checkpointing="image")
    assert training_differences(DEMO, dataclasses.replace(DEMO, model=recomputed)) == []
    assert len(training_differences(EXACT, dataclasses.replace(EXACT, model=recomputed))) == 1
    assert len(training_differences(DEMO, EXACT)) == 1
