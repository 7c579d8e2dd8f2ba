"""Every engine beside plain torch: the same losses, norms, weights and moments, whatever the ranks do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.multiprocess

HERE = Path(__file__).resolve()
LAUNCH = HERE.parents[2] / "launch" / "deepspeed"


@pytest.mark.parametrize(
    ("parallel", "precision", "ranks", "settings"),
    [
        ("ddp", "bf16", 2, None),
        ("zero1", "fp32", 2, None),
        ("zero2", "bf16", 2, None),
        ("zero2", "fp32", 2, "offload_optimizer.json"),
        ("zero3", "fp32", 4, "partition all"),
        ("zero3", "bf16", 2, "offload_all.json"),
    ],
)
def test_steps_agree_with_plain_torch(parallel, precision, ranks, settings, tmp_path):
    arguments = [tmp_path, parallel, precision]
    if settings == "partition all":  # DeepSpeed leaves small tensors whole, and all of ours are small
        arguments.append(tmp_path / "all.json")
        arguments[-1].write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    elif settings:
        arguments.append(LAUNCH / settings)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    script = HERE.parent / "engine_ranks.py"
    done = subprocess.run(
        [*launcher, script, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
