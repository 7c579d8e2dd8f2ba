"""The run folder: config.yaml, environment.json, metrics.jsonl and finished.json.

A run that is started again in its folder resumes. The folder has mode 0700, because checkpoints derive from private
data.
"""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cxr_dist.config.file import differences, load_config, to_yaml
from cxr_dist.config.run import Config
from cxr_dist.data.origin import is_remote
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import append_to, full_disk_says, json_lines, sha256_of, write_whole

# Fields that may differ when a run resumes, because they change results by rounding at most: paths (data and image
# weights are verified by their sha256), the engine, gradient checkpointing, and how the work is distributed and
# monitored.
_FREE_FIELDS = {
    "data.shards",
    "data.stage_dir",
    "data.stage_gib",
    "data.workers",
    "data.max_bad_samples",
    "model.init_from",  # verified by started_from.json
    "model.weights",
    "model.image_weights",
    "model.gradient_checkpointing",
    "parallel",
    "deepspeed",
    "ddp.bucket_cap_mb",
    "train.max_minutes",
    "train.timeout_minutes",
    "train.log_every",
    "train.tensorboard_scalars",
    "train.profile",
    "train.keep_checkpoints",
    "trackers",
}
_ROUNDING_FIELDS = {"model.gradient_checkpointing"}  # fields that exact_sums does not leave free
_FINISHED = "finished.json"
_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "deepspeed",
    "webdataset",
    "numpy",
    "scikit-learn",
)


def open_run_folder(folder: Path, config: Config) -> None:
    """Create the run folder, or verify that it belongs to this configuration (rank 0).

    Raises UserError as `check_same_run` does, and if the folder holds other files but no run.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "config.yaml"
    check_same_run(folder, config)
    if not path.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run: choose another --out")
    write_whole(path, to_yaml(with_absolute_paths(config)))


def keep_files(folder: Path, files: Sequence[Path]) -> None:
    """Copy files into a folder of the run, which gets its name when it is complete (rank 0); once per run."""
    if not files or folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for file in files:
        shutil.copyfile(file, partial / file.name)
    partial.rename(folder)


def with_absolute_paths(config: Config) -> Config:
    """The configuration with the folders of shards and weights as absolute paths, so that the run can be moved."""
    data, model = config.data, config.model
    if data.shards and not is_remote(data.shards):
        data = dataclasses.replace(data, shards=str(Path(data.shards).absolute()))
    if model.init_from:
        model = dataclasses.replace(model, init_from=str(Path(model.init_from).expanduser().absolute()))
    if model.weights:
        model = dataclasses.replace(model, weights=str(Path(model.weights).expanduser().absolute()))
    if model.image_weights:
        model = dataclasses.replace(model, image_weights=str(Path(model.image_weights).expanduser().absolute()))
    return dataclasses.replace(config, data=data, model=model)


def check_same_run(folder: Path, config: Config) -> None:
    """Raise UserError if the folder holds a run with another configuration; the message lists the fields that differ.

    `data.micro_batch: auto` matches any micro-batch of the existing run.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    free = {"data.micro_batch"} if config.data.micro_batch == "auto" else set()
    changed = [line for line in training_differences(load_config(path), config) if line.split(":")[0] not in free]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration:\n  " + "\n  ".join(changed) + "\n"
            "choose another --out, or use the same settings to resume the run"
        )


def training_differences(old: Config, new: Config) -> list[str]:
    """`section.field: old -> new` for every field that differs and changes what is trained by more than rounding."""
    free = _FREE_FIELDS - _ROUNDING_FIELDS if old.exact_sums or new.exact_sums else _FREE_FIELDS
    return [line for line in differences(old, new) if line.split(":")[0] not in free]


def with_recorded_class_weights(config: Config) -> Config:
    """The configuration with `loss.class_weights: original` in place of `balanced` if the run in its folder has that.

    `original` is what `balanced` meant in earlier versions, so that the command that began a run still resumes it.
    """
    path = config.run_dir / "config.yaml"
    if config.loss.class_weights != "balanced" or not path.is_file():
        return config
    recorded = load_config(path).loss.class_weights
    loss = dataclasses.replace(config.loss, class_weights="original")
    return dataclasses.replace(config, loss=loss) if recorded == "original" else config


def mark_finished(folder: Path, step: int) -> None:
    """Record in the folder that the run is complete and needs no more jobs (rank 0)."""
    write_whole(folder / _FINISHED, json.dumps({"step": step}) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether the run has completed all its steps, or has ended by early stopping."""
    return (folder / _FINISHED).is_file()


def manifest_sha256(shards: Path) -> str:
    """Hexadecimal SHA-256 of manifest.json, which holds the SHA-256 of every shard."""
    return sha256_of(shards / "manifest.json")


def write_environment(folder: Path, world: World, manifest: str) -> None:
    """Write environment.json: versions, device and command (rank 0). A resumed run overwrites it."""
    facts = {
        "versions": {"cxr_dist": version("cxr_dist"), "python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "commit": _commit(),
        "manifest_sha256": manifest,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else _processor(),
        "host_cpus": os.cpu_count(),
        "world_size": world.world_size,
        "command": " ".join(["cxr-dist", *sys.argv[1:]]),
    }
    write_whole(folder / "environment.json", json.dumps(facts, indent=1) + "\n")


class MetricsLog:
    """metrics.jsonl, or another file with one JSON record per line; each record has a step."""

    def __init__(self, folder: Path, resumed_step: int, name: str = "metrics.jsonl") -> None:
        path, self._name = folder / name, name
        if path.exists():  # drop steps that the resumed run repeats, and a line that a kill cut short
            kept = [record for record in json_lines(path) if _step_of(record) <= resumed_step]
            write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = append_to(path)
        self._unwritten = b""

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record, which must have the key `step`. What a full disk refuses is written with the next record."""
        self._unwritten += json.dumps(dict(record)).encode() + b"\n"
        with full_disk_says(f"no space left to write {self._name}: free some, and start the same command again"):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        self._file.close()


def _step_of(record: Mapping[str, Any]) -> float:
    try:
        return float(record["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The git commit of the source tree, if the package runs from a checkout."""
    package = Path(__file__).resolve().parents[2]
    if not (package / ".git").exists():
        return None
    command = ["git", "-C", str(package), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
