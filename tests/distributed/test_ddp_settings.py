"""DDP's bucket size and gradient compression at three ranks, where the order of a sum shows in its last bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.multiprocess


def test_gradients_under_each_setting():
    """The default is plain DDP bit for bit; no step depends on those before; bf16 is within its rounding."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [*launcher, Path(__file__).with_name("ddp_ranks.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 3
