"""The doctor in one process: a correct setup passes, and each fault is found, named and comes with advice."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import to_yaml
from cxr_dist.config.flags import config_of
from cxr_dist.config.named import named_run
from cxr_dist.data.place import open_store
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import load_manifest

Command = Callable[..., tuple[int, str, str]]
FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 32 --data.workers 0"
).split()


@pytest.fixture
def doctor(cxr_dist: Command, tiny_shards: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, list[str]]]]:
    """doctor(*flags, run=..., shards=..., out=...) returns the exit status and check -> lines, as `by_check` does."""

    def ask(*flags: object, run: str = "demo", shards: Path = tiny_shards, out: Path | None = None) -> Any:
        paths = ("--data.shards", shards, "--out", out or tmp_path / "run")
        status, printed, _ = cxr_dist("doctor", run, *FLAGS, *paths, *flags)
        return status, by_check(printed)

    return ask


def by_check(printed: str) -> dict[str, list[str]]:
    """Return check -> [state, finding, advice …], with the last line of the page under ''."""
    found: dict[str, list[str]] = {}
    *lines, last = printed.splitlines()[1:]
    check = ""
    for line in lines:
        if line.startswith(" "):
            found[check].append(line.strip())
        else:
            check = line[9:33].strip()
            found[check] = [line[:9].strip(), line[33:]]
    return found | {"": [last]}


def test_a_healthy_setup_passes_and_nothing_is_left_behind(doctor: Any, tmp_path: Path) -> None:
    status, found = doctor()
    assert status == 0
    assert found.pop("")[0].startswith("nothing failed")
    assert {check for check, (state, *_) in found.items() if state == "failed"} == set()
    assert found["shards"][1].endswith("all sizes agree with the manifest")
    assert found["a sample"] == ["ok", "read and decoded: 64 × 64 pixels"]
    assert not any(tmp_path.iterdir())


def test_missing_shards_are_reported_once(doctor: Any, tmp_path: Path) -> None:
    status, found = doctor(shards=tmp_path / "nowhere")
    assert status == 1
    assert "no manifest.json in" in found["shards"][1]
    assert "cxr-dist shard" in found["shards"][1]
    assert "a sample" not in found, "it would repeat the failure"
    assert found[""][0].startswith("1 failed")


def test_a_missing_and_a_short_shard_are_named(doctor: Any, tiny_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    (shards / "train-00001.tar").unlink()
    os.truncate(shards / "val-00000.tar", 1024)
    status, found = doctor(shards=shards)
    assert status == 1
    state, text, advice = found["shards"]
    assert state == "failed"
    assert text.startswith("2 of ")
    assert text.endswith("train-00001.tar, val-00000.tar")
    assert "cxr-dist verify" in advice


def test_a_damaged_first_sample_is_found(doctor: Any, tiny_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    tar = shards / "train-00000.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    status, found = doctor(shards=shards)
    assert status == 1
    assert found["a sample"][1].startswith("train-00000.tar: sample 0")
    assert found["shards"][0] == "ok", "sizes agree; verify checks the sha256"


def test_text_sections_that_the_shards_lack_are_refused(doctor: Any) -> None:
    status, found = doctor("--data.text-sections", "notes")
    assert status == 1
    assert "no text section 'notes'" in found["shards"][1]


def test_absent_weights_say_how_to_get_them(doctor: Any, tmp_path: Path) -> None:
    status, found = doctor("--model.weights", tmp_path / "bundle", run="baseline")
    assert status == 1
    assert "run `cxr-dist fetch`" in found["weights"][1]


@pytest.fixture
def fetched_text(tmp_path: Path) -> Path:
    """Return a bundle with a text encoder as fetch writes it; the doctor does not open its weights."""
    folder = tmp_path / "bundle" / "group" / "bert"
    folder.mkdir(parents=True)
    config = {"model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    sums = {name: sha256_of(folder / name) for name in ("config.json", "model.safetensors")}
    source = {"repository": "group/bert", "revision": "c0ffee" + "0" * 34}
    (folder / "bundle.json").write_text(json.dumps({"source": source, "sha256": sums}))
    return tmp_path / "bundle"


def test_the_bundles_revision_is_shown_and_its_sha256_checked(doctor: Any, fetched_text: Path) -> None:
    flags = (
        "--model.weights",
        fetched_text,
        "--model.text-encoder",
        "group/bert",
        "--model.pretrained",
        "true",
    )
    status, found = doctor(*flags)
    assert status == 0
    assert found["weights"] == ["ok", "bert: revision c0ffee000000, sha256 as fetched"]
    assert "checkpoints of" in found["room for checkpoints"][1]
    (fetched_text / "group" / "bert" / "model.safetensors").write_bytes(b"Weights")
    status, found = doctor(*flags)
    assert status == 1
    assert "missing or damaged: remove" in found["weights"][1]


def test_a_run_folder_of_another_configuration_is_refused(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(to_yaml(named_run("demo")))
    status, found = doctor(out=tmp_path / "other")
    assert status == 1
    assert "holds a run of another configuration" in found["run folder"][1]
    assert "data.global_batch: 32 -> 16" in found["run folder"], "on a separate line"


def test_a_folder_that_cannot_be_written_is_found(doctor: Any) -> None:
    status, found = doctor(out=Path("/proc/run"))
    assert status == 1
    assert found["run folder"][1].startswith("/proc cannot be written")
    assert "another --out" in found["run folder"][2]


def test_a_full_disk_is_found_before_the_checkpoint(doctor: Any, fetched_text: Path, full_disk: Path) -> None:
    flags = ("--model.weights", fetched_text, "--model.text-encoder", "group/bert")
    status, found = doctor(*flags, out=full_disk / "run")
    assert status == 1
    state, text, advice = found["room for checkpoints"]
    assert (state, text.partition(",")[0]) == ("failed", "0.2 MiB free")
    assert " 4 checkpoints of " in text
    assert "--train.keep-checkpoints" in advice


def test_a_small_staging_disk_is_found(doctor: Any, full_disk: Path) -> None:
    (full_disk / "ballast").write_bytes(bytes(200 * 1024))
    status, found = doctor("--data.stage-dir", full_disk)
    assert status == 1
    assert found["room for staging"][0] == "failed"
    assert "on tmpfs" in found["room for staging"][1]
    assert "--data.stage-dir" in found["room for staging"][2]


def test_a_world_size_that_does_not_divide_the_lanes_is_found(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    status, found = doctor("--train.timeout-minutes", "0.02")
    assert status == 1
    assert found["ranks"][1].startswith("world size 3 does not divide 4 lanes")
    assert found["rendezvous"][1].startswith("ranks 1-2 of 3 did not join within 1.2 s; joined: rank 0 on ")


def test_an_existing_run_would_be_resumed(doctor: Any, tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints" / "step-00000012").mkdir(parents=True)
    flags = [*FLAGS, "--data.shards", str(tiny_shards), "--out", str(out)]
    (out / "config.yaml").write_text(to_yaml(config_of("demo", flags, "test")))
    status, found = doctor()
    assert status == 0
    assert found["run folder"] == [
        "ok",
        "contains this run, which would resume from step-00000012 or an earlier checkpoint",
    ]


def test_a_micro_batch_that_is_not_yet_determined_is_no_failure(doctor: Any) -> None:
    status, found = doctor("--data.micro-batch", "auto", "--data.workers", "1")
    assert status == 0
    assert found["ranks"][1].endswith("lanes per rank: known once the first start has determined the micro-batch")
    assert found["shared memory"][0] == "ok"


def test_deepspeed_is_checked_if_the_run_needs_it(doctor: Any, tmp_path: Path) -> None:
    status, found = doctor("--parallel", "zero2")
    assert status == 0
    assert ", deepspeed " in found["packages"][1]
    assert found["ranks"][:2] == ["warning", "--parallel zero2 needs several ranks, but this is a single one"]
    (tmp_path / "wrong.json").write_text("[]")
    status, found = doctor("--parallel", "zero2", "--deepspeed", tmp_path / "wrong.json")
    assert status == 1
    assert "is not of the form" in found["ranks"][1]


def test_variables_that_break_a_run_are_found(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "999")
    status, found = doctor()
    assert status == 1
    assert "unset TORCH_DISTRIBUTED_DEBUG" in found["environment"][2]
    assert found["cores"][0] == "warning"
    assert "SRUN_CPUS_PER_TASK" in found["cores"][2]


def test_a_torch_that_cannot_be_imported_is_a_finding(tiny_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    command = [sys.executable, "-m", "cxr_dist", "doctor", "demo", "--data.shards", str(tiny_shards)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    found = by_check(done.stdout)
    assert found["torch and torchvision"][0] == "failed"
    assert "install both together" in found["torch and torchvision"][2]


def test_no_private_name_reaches_the_page(cxr_dist: Command, tiny_shards: Path, tmp_path: Path) -> None:
    """Patient ids, study ids and reports of the shards must not be printed."""
    _, printed, _ = cxr_dist("doctor", "demo", *FLAGS, "--data.shards", tiny_shards, "--out", tmp_path / "run")
    store = open_store(DataConfig(shards=str(tiny_shards)), load_manifest(tiny_shards), "train")
    sample = store.read(0, 0)
    private = [sample["__key__"], *json.loads(sample["json"])["text"].values()]
    store.close()
    assert not [name for name in private if name and name in printed]
