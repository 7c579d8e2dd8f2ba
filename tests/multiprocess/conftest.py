"""Fixtures that run the command line with several ranks (gloo on the CPU, one thread), forked or under torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked_ranks
import pytest
from ranks import SETTINGS

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def start_ranks() -> Start:
    """start_ranks(world_size, *arguments of cxr-dist) -> the process of torchrun."""

    def start(world_size: int, *arguments: str | Path) -> subprocess.Popen[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={world_size}", "-m", "cxr_dist", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(launcher, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., str]:
    """run_ranks(world_size, *arguments of cxr-dist, expected=0) -> the output of forked ranks, which have ended."""

    def run(world_size: int, *arguments: str | Path, expected: int = 0) -> str:
        return forked_ranks.run(world_size, "-m", "cxr_dist", *arguments, expected=expected)

    return run


@pytest.fixture(scope="session")
def finished_runs(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable[..., str]
) -> dict[int, Path]:
    """Folders of the same float64 run with 1, 2 and 4 ranks, trained without interruption."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {size: folder / f"ranks{size}" for size in (1, 2, 4)}
    for size, out in runs.items():
        arguments = ("--data.shards", tiny_shards, "--precision", "fp64", "--out", out)
        run_ranks(size, "train", "demo", *SETTINGS, *arguments)
    return runs
