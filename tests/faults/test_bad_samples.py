"""Damaged samples within a budget are replaced in the same way at any world size and after a resume, and recorded."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked_ranks
import pytest
from lane_batches import lane_batches
from run_losses import losses

from cxr_dist.cli import main as cli
from cxr_dist.config.data import DataConfig
from cxr_dist.config.flags import config_of
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest

DAMAGED = {(0, 3), (1, 7), (2, 0), (2, 5)}


@pytest.fixture
def damaged(shards, flip_a_bit):
    for place in DAMAGED:
        flip_a_bit(shards, *place)
    return shards


def stream(config, shards, world_size=1, workers=0, steps=9, first_step=0):
    """Return {(step, lane): (images, labels, replaced samples)} of the micro-batches of all ranks."""
    data = dataclasses.replace(config.data, shards=str(shards), workers=workers)
    manifest = load_manifest(shards)
    batches = lane_batches(data, manifest, config.seed, steps=steps, first_step=first_step, world_size=world_size)
    return {place: (batch.images.numpy().tobytes(), batch.labels.tolist(), batch.replaced) for place, batch in batches}


@pytest.fixture
def tolerant(tiny_config):
    """A configuration with a budget of damaged samples."""
    data = dataclasses.replace(tiny_config.data, max_bad_samples=len(DAMAGED), sampling="uniform")
    return dataclasses.replace(tiny_config, data=data)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (4, 1)])
def test_replacements_are_the_same_at_any_number_of_ranks_and_workers(tolerant, damaged, world_size, workers):
    one_rank = stream(tolerant, damaged)
    assert {(row.shard, row.sample) for _, _, rows in one_rank.values() for row in rows} == DAMAGED
    assert stream(tolerant, damaged, world_size, workers) == one_rank
    later = stream(tolerant, damaged, world_size, workers, steps=6, first_step=3)
    assert later == {key: value for key, value in one_rank.items() if key[0] >= 3}


def test_a_replacement_changes_neither_the_class_nor_the_other_samples(tolerant, damaged, tiny_shards):
    undamaged, repaired = stream(tolerant, tiny_shards), stream(tolerant, damaged)
    size = tolerant.data.image_size**2
    for key, (images, labels, _) in undamaged.items():
        others, other_labels, replaced = repaired[key]
        assert labels == other_labels  # each of these shards has another sample of the class
        parts = zip(
            *([data[i : i + size] for i in range(0, len(data), size)] for data in (images, others)),
            strict=True,
        )
        assert sum(a != b for a, b in parts) == len(replaced)


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_budget_the_first_damaged_sample_ends_the_run(tolerant, damaged, workers):
    data = dataclasses.replace(tolerant.data, max_bad_samples=0)
    with pytest.raises(ShardError, match=r"^train-0000\d\.tar: sample \d does not have .* \(crc32\): .*all damage$"):
        stream(dataclasses.replace(tolerant, data=data), damaged, workers=workers)


def test_a_shard_without_any_whole_sample_is_an_error_despite_a_budget(tolerant, shards, flip_a_bit):
    for sample in range(load_manifest(shards).split("train").shards[1].samples):
        flip_a_bit(shards, 1, sample)
    with pytest.raises(ShardError, match=r"train-00001\.tar: sample \d+ does not have"):
        stream(tolerant, shards)


def cut(path):
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (Path.unlink, "train-00001.tar", r"cannot be opened \(No such file or directory\): copy it again"),
        (cut, "train-00001.tar", r"has \d+ bytes; the manifest says \d+: copy it again"),
        (Path.unlink, "train-00001.index.npy", r"is missing or not the one .* \(sha256\): copy it again"),
        (
            cut,
            "train-00001.index.npy",
            r"is missing or not the one that was written \(sha256\): copy it again",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_or_truncated_shard_is_never_replaced(tolerant, shards, damage, file, reason, workers):
    damage(shards / file)
    with pytest.raises(ShardError, match=f"^{re.escape(file)} {reason}"):
        stream(tolerant, shards, workers=workers)


def test_evaluation_never_replaces(tolerant, damaged):
    manifest = load_manifest(damaged)
    data = dataclasses.replace(tolerant.data, shards=str(damaged))
    options = {"rank": 0, "world_size": 1, "tokenizer": None, "with_images": True}
    with pytest.raises(ShardError, match=r"train-00000\.tar: sample 3 does not have"):
        list(evaluation_loader(data, manifest, "train", **options))


def test_a_negative_budget_is_refused():
    with pytest.raises(UserError, match=r"data\.max_bad_samples is -1; expected 0 or more"):
        DataConfig(max_bad_samples=-1)


SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--model.mode image --data.global-batch 16 --data.micro-batch 4 --data.image-size 32 --train.log-every 1 "
    "--train.epochs 2 --train.save-every 2 --train.keep-checkpoints 9 --data.evaluation-batch 8 --precision fp64 "
    "--seed 3 --data.sampling uniform"
).split()


def flags(shards, out, budget, workers=0):
    more = (
        "--data.shards",
        shards,
        "--out",
        out,
        "--data.max-bad-samples",
        budget,
        "--data.workers",
        workers,
    )
    return [*SETTINGS, *map(str, more)]


@pytest.fixture
def train():
    """A function that runs the command `train` in this process."""
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = {name: signal.getsignal(name) for name in names}

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.train(config_of("demo", flags(*arguments), "cxr-dist train demo"))
        assert end.value.code == 0

    yield run
    for name, handler in before.items():
        signal.signal(name, handler)


def ledger(out):
    return [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]


@pytest.fixture
def alone(train, damaged, tmp_path):
    """The folder of an uninterrupted run within its budget, in one process."""
    train(damaged, tmp_path / "alone", len(DAMAGED))
    return tmp_path / "alone"


def test_a_resumed_run_has_the_same_ledger_and_losses(train, alone, damaged, tmp_path):
    lines, resumed = ledger(alone), tmp_path / "resumed"
    replaced = {(line["shard"], line["sample"]) for line in lines}
    assert len(replaced) > 1
    assert replaced <= {(f"train-{shard:05d}.tar", sample) for shard, sample in DAMAGED}
    assert {line["reason"] for line in lines} == {"does not have the bytes that were written (crc32)"}
    assert set(lines[0]) == {"step", "epoch", "draw", "shard", "sample", "reason", "replaced_by"}
    shutil.copytree(alone, resumed, symlinks=True)  # as after a kill, the ledger is ahead of the checkpoint
    for folder in (resumed / "checkpoints").glob("step-*"):
        if int(folder.name[-8:]) > 2:
            shutil.rmtree(folder)
    (resumed / "best").unlink()
    train(damaged, resumed, len(DAMAGED))
    assert ledger(resumed) == lines
    assert losses(resumed) == losses(alone)


def test_a_larger_budget_continues_a_run_that_a_smaller_one_ended(train, alone, damaged, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"^2 damaged samples .* data\.max_bad_samples is 1: bad_samples\.jsonl in"):
        train(damaged, out, 1)
    train(damaged, out, len(DAMAGED))
    assert ledger(out) == ledger(alone)
    assert losses(out) == losses(alone)


@pytest.mark.multiprocess
def test_two_ranks_write_the_same_ledger_and_share_one_budget(alone, damaged, tmp_path):
    out = tmp_path / "run"
    command = ("-m", "cxr_dist", "train", "demo")
    output = forked_ranks.run(2, *command, *flags(damaged, out, 1), expected=1, seconds=120)
    assert re.search(r"[234] damaged samples were drawn up to step \d+, and data.max_bad_samples is 1", output)
    forked_ranks.run(2, *command, *flags(damaged, out, len(DAMAGED), 1), seconds=120)
    assert ledger(out) == ledger(alone)
    assert losses(out) == pytest.approx(losses(alone), rel=1e-9)


def test_damage_in_a_loader_worker_is_reported_in_one_line_without_a_hang(damaged, tmp_path):
    command = [sys.executable, "-m", "cxr_dist", "train", "demo", *flags(damaged, tmp_path / "run", 0, 2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"cxr-dist: train-\d+\.tar: sample \d+ does not have .*", last)
    assert "Traceback" not in done.stdout + done.stderr
