"""Staged shards are copied once, completely, checked and within a limit, and do not influence training."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shard_server import serving

from cxr_dist.config.data import DataConfig
from cxr_dist.data.origin import fetch_file
from cxr_dist.data.place import open_store, shards_folder
from cxr_dist.data.stage import StagedShards
from cxr_dist.data.stage_space import StageSpace
from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest

fork = multiprocessing.get_context("fork")


@pytest.fixture
def server(tiny_shards):
    with serving(tiny_shards) as running:
        yield running


@pytest.fixture
def at_server(server, tmp_path):
    return DataConfig(shards=server.http, stage_dir=str(tmp_path / "disk"))


def read_split(data: DataConfig, split: str = "train"):
    """All samples of a split, read as a process of a job reads them."""
    store = open_store(data, load_manifest(shards_folder(data)), split)
    read = [store.read(s, i) for s, entry in enumerate(store.shards) for i in range(entry.samples)]
    store.close()
    return [(sample["__key__"], sample["jpg"], sample["json"]) for sample in read]


def stage_of(shards: str, folder: Path, limit_bytes: int = 0) -> StagedShards:
    folder.mkdir(parents=True, exist_ok=True)
    return StagedShards(shards, folder, StageSpace(root=folder.parent, limit_bytes=limit_bytes))


def names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.rglob(pattern)}


def in_new_process(work, *arguments):
    process = fork.Process(target=work, args=arguments)
    process.start()
    return process


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met within 10 s"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [4])
def test_processes_that_start_at_once_copy_each_file_once(server, at_server, tiny_shards, workers):
    expected = read_split(DataConfig(shards=str(tiny_shards)))

    def work(barrier, same):
        manifest = load_manifest(shards_folder(at_server))
        barrier.wait()
        store = open_store(at_server, manifest, "train")
        read = [store.read(s, i) for s, entry in enumerate(store.shards) for i in range(entry.samples)]
        same.put([(s["__key__"], s["jpg"], s["json"]) for s in read] == expected)

    barrier, same = fork.Barrier(workers), fork.Queue()
    processes = [in_new_process(work, barrier, same) for _ in range(workers)]
    assert [same.get(timeout=20) for _ in processes] == [True] * workers
    for process in processes:
        process.join()
    copied = {name: count for name, count in server.requests.items() if name != "manifest.json"}
    train = load_manifest(tiny_shards).split("train").shards
    assert copied == {name: 1 for shard in train for name in (shard.file, shard.index)}


def test_when_the_copying_process_is_killed_a_waiting_process_takes_over(server, tiny_shards, tmp_path):
    shard = load_manifest(tiny_shards).split("train").shards[0]
    stage = stage_of(server.http, tmp_path / "d/x")
    server.stalled[shard.file] = fork.Event()
    copying = in_new_process(stage.open_tar, shard)
    assert server.half_sent.wait(10)
    wait_until(lambda: names(tmp_path, "*.partial") == {f"{shard.file}.partial"})
    waiting = in_new_process(stage.open_tar, shard)
    assert not names(tmp_path, "*.tar")
    del server.stalled[shard.file]
    os.kill(copying.pid, signal.SIGKILL)
    waiting.join(10)
    assert waiting.exitcode == 0
    assert (tmp_path / "d/x" / shard.file).read_bytes() == (tiny_shards / shard.file).read_bytes()
    assert not names(tmp_path, "*.partial") | names(tmp_path, "*.reserved")


def test_a_file_that_is_damaged_in_transfer_is_fetched_again(server, at_server, tiny_shards):
    server.damaged.update(["train-00001.tar", "train-00002.index.npy"])
    assert read_split(at_server) == read_split(DataConfig(shards=str(tiny_shards)))
    assert server.requests["train-00001.tar"] == server.requests["train-00002.index.npy"] == 2
    assert server.requests["train-00000.tar"] == 1


def test_damage_at_the_source_is_an_error_that_contains_only_the_file_name(server, at_server, tmp_path):
    server.damaged["train-00001.tar"] = 9
    message = r"^train-00001\.tar was fetched twice and does not have the manifest's sha256"
    with pytest.raises(ShardError, match=message):
        read_split(at_server)
    assert server.requests["train-00001.tar"] == 2
    assert not names(tmp_path, "train-00001.tar") | names(tmp_path, "train-00001.tar.*partial")


def test_the_error_for_a_missing_file_or_server_does_not_contain_the_url(server, tiny_shards, tmp_path):
    with pytest.raises(ShardError, match=r"^absent\.tar cannot be fetched \(FileNotFoundError\)") as caught:
        fetch_file(server.http, "absent.tar", tmp_path / "x")
    assert "127.0.0.1" not in str(caught.value)
    data = DataConfig(shards="http://127.0.0.1:9/secret-place", stage_dir=str(tmp_path))
    with pytest.raises(ShardError, match=r"^manifest\.json cannot be fetched \(ClientConnector") as caught:
        shards_folder(data)
    assert "secret-place" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_second_run_uses_the_existing_copies(server, at_server, tmp_path):
    first = read_split(at_server)
    before = dict(server.requests)
    assert read_split(at_server) == first
    assert dict(server.requests) == before


def test_a_copy_without_a_recorded_sha256_is_checked_before_use(server, at_server, tmp_path):
    first = read_split(at_server)
    for lock in tmp_path.rglob("*.tar.lock"):
        lock.write_bytes(b"")
    (bad,) = tmp_path.rglob("train-00001.tar")
    flip_a_byte(bad)
    assert read_split(at_server) == first
    assert (server.requests["train-00000.tar"], server.requests["train-00001.tar"]) == (1, 2)


def test_a_copy_that_is_damaged_on_the_disk_is_replaced(server, at_server, tmp_path):
    first = read_split(at_server)
    (bad,) = tmp_path.rglob("train-00001.tar")
    flip_a_byte(bad)
    assert read_split(at_server) == first
    assert server.requests["train-00001.tar"] == 2


def flip_a_byte(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 255
    tar.write_bytes(data)


def test_the_least_recently_used_shard_is_deleted_first_and_stays_readable(tiny_shards, tmp_path):
    shards = load_manifest(tiny_shards).split("train").shards[:4]
    size = max(shard.bytes for shard in shards)
    stage = stage_of(str(tiny_shards), tmp_path / "d/x", 2 * size)
    first, second = (stage.open_tar(shard) for shard in shards[:2])
    os.close(stage.open_tar(shards[0]))
    os.close(first)
    os.close(second)
    os.close(stage.open_tar(shards[2]))
    assert names(tmp_path, "*.tar") == {shards[0].file, shards[2].file}
    # A shard that is being read is kept although another one was used more recently.
    third, _ = stage.open_tar(shards[0]), os.close(stage.open_tar(shards[2]))
    os.close(stage.open_tar(shards[1]))
    assert names(tmp_path, "*.tar") == {shards[0].file, shards[1].file}
    kept = [third, stage.open_tar(shards[1]), stage.open_tar(shards[2]), stage.open_tar(shards[3])]
    assert names(tmp_path, "*.tar") == {shards[2].file, shards[3].file}
    for descriptor, shard in zip(kept, (shards[0], *shards[1:]), strict=True):
        assert os.pread(descriptor, shard.bytes, 0) == (tiny_shards / shard.file).read_bytes()


def test_the_limit_holds_for_all_data_sets_and_processes_together(server, tiny_shards, tmp_path):
    shards = load_manifest(tiny_shards).split("train").shards
    size = max(shard.bytes for shard in shards)

    def read_all(stage, order):
        for shard in order:
            os.close(stage.open_tar(shard))

    stages = [stage_of(server.http, tmp_path / "d" / name, 2 * size) for name in ("one", "two")]
    orders = (shards, tuple(reversed(shards)))
    processes = [in_new_process(read_all, stage, order) for stage in stages for order in orders]
    while any(process.is_alive() for process in processes):
        assert len(list((tmp_path / "d").rglob("*.tar"))) <= 2
    assert [process.exitcode for process in processes] == [0] * 4
    assert 1 <= len(list((tmp_path / "d").rglob("*.tar"))) <= 2


def test_prefetching_copies_the_next_shards_and_deletes_none_that_is_read(server, tiny_shards, tmp_path):
    manifest = load_manifest(tiny_shards)
    shards = manifest.split("train").shards
    size, folder = max(shard.bytes for shard in shards), tmp_path / "d/x"
    store = ShardStore(folder, manifest, "train", stage_of(server.http, folder, 3 * size))
    store.read(0, 0)
    store.read(1, 0)
    store.expect({1}, [2, 3, 4])
    wait_until(lambda: names(folder, "*.index.npy") >= {shards[i].index for i in (2, 3, 4)})
    wait_until(lambda: names(folder, "*.tar") == {shards[i].file for i in (1, 2, 3)})
    store.expect({1, 2, 3}, [2, 3])
    store.read(2, 0)
    store.read(3, 0)
    assert server.requests[shards[2].file] == server.requests[shards[3].file] == 1
    store.close()


def test_a_shard_that_was_used_in_the_future_is_deleted_first(tiny_shards, tmp_path):
    """The clock was set back by a day since. Prefetching would delete no such shard for a day, and so copy none."""
    shards = load_manifest(tiny_shards).split("train").shards[:3]
    stage = stage_of(str(tiny_shards), tmp_path / "d/x", 2 * max(shard.bytes for shard in shards))
    for shard in shards[:2]:
        os.close(stage.open_tar(shard))
    tomorrow = time.time_ns() + 86_400 * 10**9
    os.utime(tmp_path / "d/x" / f"{shards[1].file}.lock", ns=(tomorrow, tomorrow))
    stage.prefetch(shards[2:])
    wait_until(lambda: names(tmp_path, "*.tar") == {shards[0].file, shards[2].file})
    stage.close()


def test_a_full_disk_is_reported_and_leaves_no_unfinished_copy(tiny_shards, tmp_path, full_disk):
    shards = load_manifest(tiny_shards).split("train").shards
    stage = stage_of(str(tiny_shards), full_disk / "d/x")
    (full_disk / "other").write_bytes(bytes(256 * 1024 - 3 * shards[0].bytes))
    for shard in shards:  # there is space for two of them
        os.close(stage.open_tar(shard))
        assert 1 <= len(names(full_disk, "*.tar")) <= 2
    for tar in full_disk.rglob("*.tar"):
        tar.unlink()
    with (full_disk / "other").open("ab") as other:
        other.write(bytes(2 * shards[0].bytes))
    with pytest.raises(UserError, match=r"^no space left to stage train-00000\.tar: free some space, choose"):
        stage.open_tar(shards[0])
    assert not names(full_disk, "*.partial") | names(full_disk, "*.reserved") | names(full_disk, "*.tar")


def test_a_limit_below_one_shard_is_refused(tiny_shards, tmp_path):
    data = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path), stage_gib=1e-6)
    with pytest.raises(UserError, match=r"data\.stage_gib 1e-06 does not hold one shard: train-\d+\.tar has"):
        read_split(data)


def test_a_manifest_cannot_name_files_outside_its_folder(tiny_shards, tmp_path):
    shard = dataclasses.replace(load_manifest(tiny_shards).split("train").shards[0], file="../elsewhere.tar")
    with pytest.raises(ShardError, match="names a shard outside its folder"):
        stage_of(str(tiny_shards), tmp_path / "d/x").open_tar(shard)


SMALL = "--data.global-batch 16 --data.micro-batch 4 --data.image-size 48 --data.max-tokens 32 --train.max-steps 6"
SMALL += " --train.log-every 1 --train.eval-every 6 --data.shuffle-shards 2"
TIMES = ("samples_per_second", "data_wait_share", "model_tflops_per_second", "seconds")


def logged(run_dir: Path) -> list[dict]:
    """The metrics that the run logged, without those that depend on time."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def test_training_from_a_folder_http_and_s3_logs_the_same_metrics(server, tiny_shards, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | server.s3_environment
    command = [sys.executable, "-m", "cxr_dist", "train", "demo-baseline", *SMALL.split()]

    def start(name, *more):
        whole = [*command, "--out", str(tmp_path / name), "--data.shards", *map(str, more)]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    limit = ("--data.stage-gib", "0.0002", "--data.stage-dir", tmp_path / "disk")
    runs = [
        start("local", tiny_shards, "--data.workers", 0),
        start("http", server.http, "--data.workers", 1),
        start("s3", "s3://bucket/shards", "--data.workers", 0, *limit),
    ]
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output
    local = logged(tmp_path / "local")
    assert len(local) >= 6
    assert logged(tmp_path / "http") == logged(tmp_path / "s3") == local
    assert sum(tar.stat().st_size for tar in (tmp_path / "disk").rglob("*.tar")) <= 0.0002 * 2**30
