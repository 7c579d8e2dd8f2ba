"""An operation without a deterministic kernel is refused by its name."""

import forked_ranks
import pytest

PROGRAM = """
import torch
from cxr_dist.distributed.deterministic import make_deterministic, nondeterminism_explained
from cxr_dist.errors import UserError

make_deterministic(torch.device("cpu"))
assert torch.get_num_threads() == 1
try:
    with nondeterminism_explained():
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
except UserError as error:
    print(error)
try:
    with nondeterminism_explained():
        raise RuntimeError("another error")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.multiprocess
def test_an_operation_without_a_deterministic_kernel_is_named(tmp_path):
    """In a process of its own, because torch keeps the setting."""
    (tmp_path / "program.py").write_text(PROGRAM)
    printed = forked_ranks.run(1, tmp_path / "program.py")
    assert "the loss uses put_, which has no deterministic kernel on this device" in printed
    assert "leave --exact-sums off" in printed
    assert "another error" in printed
