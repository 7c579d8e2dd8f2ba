"""What `cxr-dist plan` says of memory: engines against each other, and a line for each way to run it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.named import named_run
from cxr_dist.doctor.dry_run import describe
from cxr_dist.train.memory.footprint import Footprint
from cxr_dist.train.memory.needs import peak

MIB = 2**20
# Enhanced, fp32, micro-batch 2, two micro-batches a step, 2 ranks on the CPU; MEASURED by torch's allocator.
SMALL = Footprint(weights=448 * MIB, gradients=447 * MIB, first=700 * MIB, later=477 * MIB)
MEASURED = {"ddp": 2_842_966_384, "zero1": 2_245_444_436, "zero2": 2_098_583_360, "zero3": 2_726_043_913}

sizes = st.integers(0, 10**9)


@pytest.mark.parametrize("engine", MEASURED)
def test_engines_need_what_was_measured(engine):
    predicted = peak(SMALL, engine, ranks=2, several=True, averaged=False)
    assert predicted == pytest.approx(MEASURED[engine], rel=0.08)


@given(weights=sizes, share=st.floats(0, 1), later=sizes, ranks=st.integers(2, 1024), averaged=st.booleans())
def test_more_stages_and_more_ranks_never_keep_more_of_the_state(weights, share, later, ranks, averaged):
    found = Footprint(weights=weights, gradients=int(share * weights), first=later, later=later)

    def need(engine, ranks, offload=False):
        return peak(found, engine, ranks=ranks, several=True, averaged=averaged, offload=offload)

    for engine in ("zero1", "zero2", "zero3"):
        assert need(engine, 2 * ranks) <= need(engine, ranks)
    for engine in ("zero2", "zero3"):
        assert need(engine, ranks, offload=True) <= need(engine, ranks)
    assert need("ddp", 1) <= need("ddp", ranks) == need("ddp", 2)


def test_a_single_micro_batch_needs_less_than_the_second_of_two():
    found = dataclasses.replace(SMALL, first=SMALL.later + SMALL.gradients // 2)
    for ranks in (1, 2):
        alone = peak(found, "ddp", ranks=ranks, several=False, averaged=False)
        assert alone < peak(found, "ddp", ranks=ranks, several=True, averaged=False)


def test_averaged_weights_are_one_more_copy():
    plain, averaged = (peak(SMALL, "ddp", ranks=1, several=True, averaged=on) for on in (False, True))
    assert averaged - plain == SMALL.gradients


def test_a_plan_has_a_line_for_each_way_to_run(tiny_shards, tmp_path):
    config = named_run("demo-baseline")
    data = dataclasses.replace(
        config.data, shards=str(tiny_shards), global_batch=8, micro_batch=4, image_size=32
    )
    facts = describe(dataclasses.replace(config, data=data, out=str(tmp_path)))
    assert "micro-batch 4" in facts["memory of a rank"]
    lines = {name.strip(): value for name, value in facts.items() if name.startswith("  ")}
    assert list(lines) == ["fp32, checkpointing off", "fp32, checkpointing image"]
    for line in lines.values():
        assert line.startswith("1 rank: ddp 0.")
        assert "; 2 ranks: ddp 0." in line
        assert "; with offload zero2 0." in line


def test_a_text_encoder_of_unknown_size_leaves_the_memory_out(tiny_config):
    assert "memory of a rank" not in describe(tiny_config)
