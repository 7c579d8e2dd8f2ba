"""Sharding that is killed or runs out of disk at any moment leaves only whole files, and can be continued."""

import multiprocessing
import os
import random
import subprocess
import sys
import time

import pytest
from table_source import make_source, table_recipe

from cxr_dist.errors import UserError
from cxr_dist.shard.recipe import ShardSize
from cxr_dist.shard.write import write_shards

RECIPE = table_recipe(shard=ShardSize(samples=4))
KILLS = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "films", patients=16)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The {name: bytes} of the shards of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    write_shards(RECIPE, source, out, workers=0)
    return contents(out)


def contents(out):
    """Return {name: bytes} of the files that have their final names."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and not p.name.startswith(".")}


def check_whole_or_absent(out, whole):
    found = contents(out) if out.exists() else {}
    assert {name: whole.get(name) for name in found} == found
    assert "manifest.json" not in found or found == whole


def sharding(source, out):
    """Start a process that shards, forked from a server with all imports done, so that a kill hits the sharding."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cxr_dist.shard.write", "cxr_dist.shard.readers.table"])
    process = context.Process(target=write_shards, args=(RECIPE, source, out), kwargs={"workers": 0})
    process.start()
    return process


@pytest.fixture(scope="module")
def seconds(source, tmp_path_factory):
    """The duration of such a process without a kill."""
    times = []
    for number in range(2):  # the first also starts the server
        begin = time.monotonic()
        process = sharding(source, tmp_path_factory.mktemp("uninterrupted") / str(number))
        process.join(60)
        assert process.exitcode == 0
        times.append(time.monotonic() - begin)
    return times[1]


@pytest.mark.parametrize("kept", [False, True], ids=["a new folder after each kill", "the same folder after each kill"])
def test_kill_9_at_any_moment_leaves_whole_files_and_the_same_command_finishes(source, whole, seconds, tmp_path, kept):
    chance, interrupted = random.Random(kept), 0
    for number in range(KILLS // 2):
        out = tmp_path / ("shards" if kept else str(number))
        process = sharding(source, out)
        time.sleep(chance.uniform(0, 1) * seconds)
        process.kill()
        process.join()
        interrupted += not (out / "manifest.json").exists()
        check_whole_or_absent(out, whole)
        if not kept:
            write_shards(RECIPE, source, out, workers=0)
            assert contents(out) == whole
            assert sorted(path.name for path in out.iterdir()) == sorted(whole)
    write_shards(RECIPE, source, out, workers=0)
    assert contents(out) == whole
    assert interrupted > 0


def test_the_worker_processes_of_a_killed_command_end(source, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from cxr_dist.shard.processes import in_order\n"
        "if __name__ == '__main__':\n"
        "    stream = in_order(time.sleep, [0.05] * 10000, 2, 1); next(stream); print('up', flush=True); list(stream)\n"
    )
    (tmp_path / "pool.py").write_text(code)
    command = subprocess.Popen([sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, text=True)
    assert command.stdout.readline() == "up\n"
    with open(f"/proc/{command.pid}/task/{command.pid}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    assert len(children) >= 2
    command.kill()
    command.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if alive(pid)]


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("free", range(0, 88, 4))
def test_a_disk_that_is_full_at_any_moment_leaves_whole_files_and_the_same_command_finishes(
    source, whole, full_disk, free
):
    (full_disk / "filler").write_bytes(b"x" * (256 - free) * 1024)
    out = full_disk / "shards"
    assert sum(map(len, whole.values())) > 88 * 1024
    with pytest.raises(UserError, match=r"no space left to write .*: free some, or choose another folder"):
        write_shards(RECIPE, source, out, workers=0)
    check_whole_or_absent(out, whole)
    assert "manifest.json" not in (contents(out) if out.exists() else {})
    assert not (out.exists() and [p for p in out.rglob("*") if p.name.endswith(".partial")])
    (full_disk / "filler").unlink()
    write_shards(RECIPE, source, out, workers=0)
    assert contents(out) == whole
