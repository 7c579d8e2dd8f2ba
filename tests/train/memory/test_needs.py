"""Predicted memory by engine, and its lines in `cxr-dist plan`."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.named import named_run
from cxr_dist.doctor.dry_run import describe
from cxr_dist.train.memory.footprint import Footprint
from cxr_dist.train.memory.needs import peak

MIB = 2**20
# The `enhanced` run in fp32 with micro-batch 2, two micro-batches per step and 2 ranks on the CPU; MEASURED is the peak
# of torch's allocator.
SMALL = Footprint(weights=448 * MIB, gradients=447 * MIB, first=700 * MIB, later=477 * MIB)
MEASURED = {"ddp": 2_842_966_384, "zero1": 2_245_444_436, "zero2": 2_098_583_360, "zero3": 2_726_043_913}

sizes = st.integers(0, 10**9)


@pytest.mark.parametrize("engine", MEASURED)
def test_the_predictions_agree_with_measurements(engine):
    predicted = peak(SMALL, engine, ranks=2, several=True, averaged=False)
    assert predicted == pytest.approx(MEASURED[engine], rel=0.08)


@given(weights=sizes, share=st.floats(0, 1), later=sizes, ranks=st.integers(2, 1024), averaged=st.booleans())
def test_more_ranks_and_offloading_never_need_more_memory(weights, share, later, ranks, averaged):
    footprint = Footprint(weights=weights, gradients=int(share * weights), first=later, later=later)

    def need(engine, ranks, offload=False):
        return peak(footprint, engine, ranks=ranks, several=True, averaged=averaged, offload=offload)

    for engine in ("zero1", "zero2", "zero3"):
        assert need(engine, 2 * ranks) <= need(engine, ranks)
    for engine in ("zero2", "zero3"):
        assert need(engine, ranks, offload=True) <= need(engine, ranks)
    assert need("ddp", 1) <= need("ddp", ranks) == need("ddp", 2)


def test_a_single_micro_batch_per_step_needs_less_than_two():
    footprint = dataclasses.replace(SMALL, first=SMALL.later + SMALL.gradients // 2)
    for ranks in (1, 2):
        alone = peak(footprint, "ddp", ranks=ranks, several=False, averaged=False)
        assert alone < peak(footprint, "ddp", ranks=ranks, several=True, averaged=False)


def test_averaged_weights_need_one_more_copy():
    plain, averaged = (peak(SMALL, "ddp", ranks=1, several=True, averaged=on) for on in (False, True))
    assert averaged - plain == SMALL.gradients


@pytest.mark.parametrize("ranks", [1, 2])
def test_exact_sums_need_one_more_gradient_for_each_doubling_of_the_lanes(ranks):
    needs = [
        peak(SMALL, "ddp", ranks=ranks, several=lanes > 1, averaged=False, exact_lanes=lanes) for lanes in (1, 2, 4, 8)
    ]
    assert [after - before for before, after in itertools.pairwise(needs)] == [SMALL.gradients] * 3
    if ranks == 1:  # a single lane is not added to anything
        assert needs[0] == peak(SMALL, "ddp", ranks=1, several=False, averaged=False)


def test_a_plan_has_a_line_for_each_gradient_checkpointing(tiny_shards, tmp_path):
    config = named_run("demo-baseline")
    data = dataclasses.replace(config.data, shards=str(tiny_shards), global_batch=8, micro_batch=4, image_size=32)
    facts = describe(dataclasses.replace(config, data=data, out=str(tmp_path)))
    assert "micro-batch 4" in facts["memory of a rank"]
    lines = {name.strip(): value for name, value in facts.items() if name.startswith("  ")}
    assert list(lines) == ["fp32, checkpointing off", "fp32, checkpointing image"]
    for line in lines.values():
        assert line.startswith("1 rank: ddp 0.")
        assert "; 2 ranks: ddp 0." in line
        assert "; with offload zero2 0." in line


def test_memory_is_not_shown_if_the_size_of_the_text_encoder_is_unknown(tiny_config):
    assert "memory of a rank" not in describe(tiny_config)
