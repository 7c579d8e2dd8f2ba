"""A compiled run gives the results of the uncompiled run, and compiles once for reports of any length."""

import shutil
from pathlib import Path

import forked_ranks
import pytest
import torch
from compiled_run import assert_near, trained

from cxr_dist.config.run import Config
from cxr_dist.distributed.compiled import check_compiler
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError

needs_gpu = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.mark.parametrize("kind", [pytest.param("cpu", marks=needs_compiler), pytest.param("cuda", marks=needs_gpu)])
def test_a_compiled_run_equals_the_uncompiled_run_with_dropout_and_unfreezing(kind):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    device = torch.device(kind)
    assert_near(trained(World(), compiled=True, device=device), trained(World(), compiled=False, device=device))
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 2  # frozen and unfrozen, each for reports of three lengths
    assert not counted["graph_break"]


@needs_compiler
@pytest.mark.multiprocess
def test_two_compiled_ranks_equal_one_uncompiled_rank():
    output = forked_ranks.run(2, Path(__file__).with_name("compiled_run.py"), seconds=580)
    assert output.count("agrees") == 2


@pytest.mark.parametrize(("device", "wanted"), [("cpu", r"C\+\+ compiler"), ("cuda", "triton")])
def test_a_missing_compiler_is_named_before_the_first_step(monkeypatch, device, wanted):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"--compile needs .*{wanted}.*leave --compile off"):
        check_compiler(torch.device(device))


def test_zero3_cannot_be_compiled():
    with pytest.raises(UserError, match="zero3 gathers parameters layer by layer"):
        Config(parallel="zero3", compile=True)
