"""DDP's bucket size and gradient compression on three ranks, where the order of a sum affects its last bits."""

from pathlib import Path

import forked_ranks
import pytest

pytestmark = pytest.mark.multiprocess


def test_gradients_under_each_setting():
    """The default equals plain DDP bit for bit, no step depends on earlier ones, and bf16 is within its rounding."""
    assert forked_ranks.run(3, Path(__file__).with_name("ddp_ranks.py"), seconds=580).count("agrees") == 3
