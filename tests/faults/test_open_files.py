"""Every command works with many more shards than a process may open files, and reports the limit when it is reached.

There are 2,000 shards of one image each and a limit of 256 open files; each command runs in its own process.
"""

import contextlib
import csv
import dataclasses
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from lane_batches import lane_batches

from cxr_dist.config.data import DataConfig
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.origin import fetch_file
from cxr_dist.data.place import open_store
from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import json_lines
from cxr_dist.format.image import ImageFile
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.run.checkpoint import load
from cxr_dist.shard.output_folder import UNFINISHED
from cxr_dist.shard.receipt import Receipt, read_receipt, write_receipt

SHARDS, LIMIT = 2000, 256
TOO_MANY = r"^Too many open files: this process may have \d+ open at once; raise the limit .* `ulimit -n NUMBER`"
RECIPE = """
reader: table
table: films.csv
images: images
columns: {image: image, patient: patient, label: label, text: {notes: notes}}
labels: {task: multiclass, classes: {Sick: sick, Well: well}}
split: {by: patient, train: 0.7, val: 0.15, test: 0.15, seed: 0}
image: {short_side: 16, quality: 90}
shard: {samples: 1}
"""
SMALL = {
    "--data.global-batch": 8, "--data.micro-batch": 4, "--data.image-size": 32, "--data.max-tokens": 16,
    "--data.text-sections": "notes", "--data.workers": 2, "--train.max-steps": 40, "--train.eval-every": 20,
}  # fmt: skip
OPTIONS = [part for option in SMALL.items() for part in option]


@contextlib.contextmanager
def open_files_at_most(number: int) -> Iterator[None]:
    """Limit the open files of this process and of those that it starts; 0 allows no further file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def limited(*arguments: object, files: int = LIMIT, status: int = 0) -> str:
    """Run a command that may have `files` files open; return everything that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cxr_dist", *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def many() -> Iterator[Path]:
    """source/ with 2,000 images of noise, and shards/; in memory if possible, because each shard is synced to disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        (folder / "source" / "images").mkdir(parents=True)
        rows, noise = [["image", "patient", "label", "notes"]], np.random.default_rng(0)
        for i in range(SHARDS):
            image = cv2.imencode(".png", noise.integers(0, 256, (16, 16), np.uint8))[1]
            (folder / "source" / "images" / f"{i}.png").write_bytes(image.tobytes())
            rows.append([f"{i}.png", str(i), ("sick", "well")[i % 2], "a cough"])
        with (folder / "source" / "films.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        (folder / "recipe.yaml").write_text(RECIPE)
        recipe, source, shards = folder / "recipe.yaml", folder / "source", folder / "shards"
        limited("shard", recipe, "--source", source, "--out", shards, "--workers", 2)
        yield folder


def test_shards_are_written_and_verified(many):
    """Takes about 15 s: 2,000 shards are written and read, and their images are compared across splits."""
    assert len(list((many / "shards").glob("*.tar"))) == SHARDS
    assert "all shards are as they were written" in limited("verify", many / "shards")


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_a_run_is_planned_and_checked(many, tmp_path, command):
    """Takes about 5 s each, mostly for imports."""
    said = limited(command, "demo", "--data.shards", many / "shards", "--out", tmp_path / "run", *OPTIONS)
    assert "1400" in said


def test_a_run_goes_from_training_to_prediction(many, tmp_path):
    """Takes about 50 s: six commands, each of which imports torch."""
    run, page = tmp_path / "run", tmp_path / "page"
    limited("train", "demo", "--data.shards", many / "shards", "--out", run, *OPTIONS)
    limited("evaluate", run, "--mc-samples", 0)
    limited("compare", run, "--with-examples", 1, "--out", page)
    assert "data:image/jpeg" in (page / "report.html").read_text()
    limited("export", run, "--onnx", "false")
    cases = many / "source" / "images" / "7.png"
    said = limited("predict", run / "export", "--image", cases, "--report", "a cough", "--mc-samples", 0,
                   "--out", tmp_path / "7.png")  # fmt: skip
    assert '"Sick"' in said


def test_training_is_refused_if_it_could_not_open_all_files_it_needs(many, tmp_path):
    """Takes about 8 s to import torch. A worker that reached the limit later would lose a batch and hang the run."""
    run = ("train", "demo", "--data.shards", many / "shards", "--out", tmp_path / "run", *OPTIONS)
    said = limited(*run, files=120, status=2)
    assert "and the limit is 120: raise the limit with `ulimit -n NUMBER` before running the command, or " in said
    assert "Traceback" not in said


def store_of(shards: Path) -> ShardStore:
    return ShardStore(shards, load_manifest(shards), "train")


def reading_a_sample(shards: Path) -> Callable[[], object]:
    store = store_of(shards)
    store.index(0)
    return lambda: store.read(0, 0)


def reading_an_index(shards: Path) -> Callable[[], object]:
    store = store_of(shards)
    return lambda: store.index(0)


def opening_an_index(shards: Path) -> Callable[[], object]:
    shard = store_of(shards).shards[0]
    return lambda: open_index(shards, shard, 1)


def fetching_a_shard(shards: Path) -> Callable[[], object]:
    fetch_file(str(shards), "manifest.json", shards / "manifest.json.copy")
    return lambda: fetch_file(str(shards), "train-00000.tar", shards / "copy.tar")


def reading_an_image(shards: Path) -> Callable[[], object]:
    path = shards / "image.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes())
    ImageFile(path=path).read(9)  # Pillow imports its decoders at the first image
    return lambda: ImageFile(path=path).read(9)


def loading_a_checkpoint(shards: Path) -> Callable[[], object]:
    (shards / "step-00000001").mkdir()
    (shards / "step-00000001" / "sha256.json").write_text("{}")
    return lambda: load(shards / "step-00000001")


def reading_a_receipt(shards: Path) -> Callable[[], object]:
    (shards / UNFINISHED).mkdir()
    write_receipt(shards, "train-00000", Receipt(plan="plan", entry=None, left_out={}))
    return lambda: read_receipt(shards, "train-00000", "plan")


def reading_records(shards: Path) -> Callable[[], object]:
    (shards / "restarts.jsonl").write_text("{}\n")
    return lambda: json_lines(shards / "restarts.jsonl")


@pytest.mark.parametrize(
    "prepare",
    [
        reading_a_sample, reading_an_index, opening_an_index, fetching_a_shard, reading_an_image,
        loading_a_checkpoint, reading_a_receipt, reading_records,
    ],
)  # fmt: skip
def test_the_limit_on_open_files_is_not_reported_as_damage(shards, prepare):
    use = prepare(shards)
    with open_files_at_most(0), pytest.raises(UserError, match=TOO_MANY):
        use()


def test_a_command_that_reaches_the_limit_says_so_in_one_line(shards, cxr_dist):
    assert cxr_dist("verify", shards, "--near-duplicates", "false")[0] == 0
    with open_files_at_most(0):
        status, out, err = cxr_dist("verify", shards, "--near-duplicates", "false")
    assert (status, out) == (2, "")
    assert err.startswith("cxr-dist: Too many open files: ")
    assert err.count("\n") == 1


def test_a_loader_worker_that_reaches_the_limit_says_so(tiny_config, tmp_path):
    (tmp_path / "stages.py").write_text(
        "from test_open_files import open_files_at_most\n\n\ndef starve(sample, random):\n"
        "    with open_files_at_most(0):\n        open('/dev/null')\n"
    )
    data = dataclasses.replace(tiny_config.data, stages=(f"{tmp_path}/stages.py:starve",), workers=1)
    with pytest.raises(ShardError, match=TOO_MANY):
        list(lane_batches(data, load_manifest(Path(data.shards)), 0, steps=1, first_step=0, world_size=1))


def test_workers_are_not_started_if_they_would_reach_the_limit(tiny_shards):
    data = DataConfig(shards=str(tiny_shards), workers=1)
    manifest = load_manifest(tiny_shards)
    with (
        open_files_at_most(100),
        pytest.raises(UserError, match=r"may have \d+ files open at once, and the limit is 100"),
    ):
        evaluation_loader(data, manifest, "val", rank=0, world_size=1, tokenizer=None, with_images=False)


def test_a_store_holds_a_bounded_number_of_files_open(many):
    data = DataConfig(shards=str(many / "shards"))
    with contextlib.closing(open_store(data, load_manifest(many / "shards"), "train")) as store:
        before = len(list(Path("/proc/self/fd").iterdir()))
        kept = [store.read(shard, 0) for shard in range(len(store.shards))]
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
        assert len({sample["__key__"] for sample in kept}) == 1400


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (OSError(24, "Too many open files"), True),
        (OSError(23, "Too many open files in system"), True),
        (RuntimeError("I/O error: Too many open files (os error 24)"), True),  # raised by safetensors
        (OSError(2, "No such file or directory"), False),
        (UserError("train-00000.tar: sample 1 is damaged"), False),
    ],
)
def test_errors_of_the_limit_are_recognised(error, known):
    assert (out_of_files(error) is not None) == known
    later = UserError("an error raised while the first was handled")
    later.__context__ = error  # as after `raise later from None` in the handler of the first
    assert (out_of_files(later) is not None) == known
