"""Fixtures: a real SLURM, and a small enhanced run in one process and on two nodes through submitit."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing, running_cluster
from small_run import FLAGS, submit_py


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes that claim four cores each; skips if SLURM or root rights are missing."""
    if lacks := missing():
        pytest.skip(lacks)
    with running_cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that uses the cluster, no command or job of it is left for the next, also if it failed."""
    shared = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if shared is not None:
        shared.end_what_is_left()


@pytest.fixture(scope="session")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted run in a single process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "cxr_dist", "train", "enhanced", *FLAGS]
    command += ["--data.shards", str(tiny_shards), "--out", str(out)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=200)
    return out


@pytest.fixture(scope="session")
def two_nodes(cluster: Cluster, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same run, uninterrupted, with four ranks on two nodes through submitit."""
    folder = tmp_path_factory.mktemp("submitit")
    submit_py(cluster, folder, tiny_shards, "--wait-minutes", "5")
    return folder / "run"
