"""What `cxr-dist plan` says of memory: engines against each other, and a line for each way to run it."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_losses import losses

from cxr_dist.config.named import named_run
from cxr_dist.distributed.world import World
from cxr_dist.doctor.dry_run import describe
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.memory.footprint import Footprint, footprint
from cxr_dist.train.memory.needs import peak, with_settled_checkpointing

CPU = torch.device("cpu")
SHARE = 0.8  # of a device, that the choice of the gradient checkpointing counts on
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


@pytest.fixture
def auto(tiny_config):
    """`tiny_config` with gradient checkpointing `auto`; its run folder is there."""
    tiny_config.run_dir.mkdir()
    return with_checkpointing(tiny_config, "auto")


@pytest.fixture
def settle(auto, small_bert, monkeypatch):
    """settle(bytes that may be used) -> the setting that is chosen."""

    def choose(room):
        monkeypatch.setattr("cxr_dist.train.memory.needs.total_memory", lambda *_: math.ceil(room / SHARE))
        return with_settled_checkpointing(auto, 3, small_bert, World(), CPU, 1).model.gradient_checkpointing

    return choose


@pytest.fixture
def needs(auto, small_bert):
    """Predicted bytes by setting."""
    found = {}
    for setting in (False, "image", "text", "all"):
        one = footprint(with_checkpointing(auto, setting), 3, small_bert, "cpu")
        found[setting] = peak(one, "ddp", ranks=1, several=True, averaged=False)
    return found


def test_auto_is_the_least_recomputation_that_fits(needs, settle, capsys):
    assert needs["all"] < min(needs["image"], needs["text"])
    assert max(needs["image"], needs["text"]) < needs[False]
    for room in (*needs.values(), needs["all"] - 1):
        expected = next((setting for setting in needs if needs[setting] <= room), "all")
        assert settle(room) == expected
        name = expected or "off"
        assert f"model.gradient_checkpointing auto: {name} on CPU" in capsys.readouterr().err


def test_a_footprint_is_found_once_and_again_for_other_software(needs, settle, auto, monkeypatch):
    assert settle(needs["text"]) == "text"
    path = auto.run_dir / "footprints.json"
    assert set(json.loads(path.read_text())["bytes"]) == {"off", "image", "text"}
    monkeypatch.setattr("cxr_dist.train.memory.needs.footprint", None)
    assert settle(needs["text"]) == "text"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "1.'))
    with pytest.raises(TypeError):
        settle(needs["text"])
    path.write_text(path.read_text()[:-9])  # cut by a full disk
    with pytest.raises(TypeError):
        settle(needs["text"])


def test_auto_in_one_encoder_is_all_of_it_or_nothing(auto, monkeypatch):
    config = dataclasses.replace(auto, model=dataclasses.replace(auto.model, mode="image"))
    for room, expected in ((2**40, False), (1, "image")):
        monkeypatch.setattr("cxr_dist.train.memory.needs.total_memory", lambda *_, size=room: size)
        assert (
            with_settled_checkpointing(config, 3, None, World(), CPU, 1).model.gradient_checkpointing
            == expected
        )


def test_a_run_resumes_with_another_gradient_checkpointing(tiny_config, tmp_path):
    """`auto` finds room here; the second half recomputes everything. What it costs is rounding at most."""
    steps = dataclasses.replace(tiny_config.train, max_steps=4, save_every=2)
    config = dataclasses.replace(with_checkpointing(tiny_config, "auto"), train=steps)
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    copy = tmp_path / "resumed"
    shutil.copytree(config.out, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "finished.json").unlink()
    resumed = dataclasses.replace(with_checkpointing(config, "all"), out=str(copy))
    assert train(resumed, StopRequest(0)) is Outcome.FINISHED
    assert losses(copy) == pytest.approx(losses(Path(config.out)), rel=1e-4)


def with_checkpointing(config, setting):
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, gradient_checkpointing=setting)
    )
