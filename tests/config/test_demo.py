"""`make demo` changes one thing at a time: its runs of the enhanced recipe differ only in their input."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cxr_dist.config.flags import config_of
from cxr_dist.run.folder import training_differences

ROOT = Path(__file__).parents[2]


def test_the_runs_of_the_enhanced_recipe_differ_only_in_their_input() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = [line.partition(" train ")[2].split() for line in said.stdout.splitlines() if " train demo " in line]
    configs = [config_of(run, flags, "cxr-dist train") for run, *flags in commands]
    assert [config.model.mode for config in configs] == ["image", "text", "fused"]
    for config in configs:
        changed = [line.split(":")[0] for line in training_differences(configs[-1], config)]
        assert set(changed) <= {"model.mode"}
