"""Commands as a user runs them in a folder outside the repository."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def at_site(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`at_site(*arguments)` runs `cxr-dist` as a process in tmp_path; returns its exit status and its output."""

    def run(*arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cxr_dist", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        return done.returncode, done.stdout + done.stderr

    return run
