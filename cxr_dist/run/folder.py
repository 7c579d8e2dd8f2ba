"""The run folder: config.yaml, environment.json, metrics.jsonl, finished.json; opened again, it resumes.

Created with mode 0700, because checkpoints are made from private data.
"""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cxr_dist.config.file import differences, load_config, to_yaml
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, write_whole

# What may differ when a run resumes, because it changes no number beyond rounding: paths (the manifest's sha256
# guards the data), the engine, what is computed twice, and how work is spread and watched.
_FREE_FIELDS = {
    "data.shards",
    "data.stage_dir",
    "data.stage_gib",
    "data.workers",
    "data.max_bad_samples",
    "model.weights",
    "model.gradient_checkpointing",
    "parallel",
    "deepspeed",
    "ddp.bucket_cap_mb",
    "train.max_minutes",
    "train.timeout_minutes",
    "train.log_every",
    "train.profile",
    "train.keep_checkpoints",
    "trackers",
}
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
    """Create the folder, or check that it is this configuration's (rank 0).

    Raises UserError as `check_same_run` does, and for a folder of something else.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "config.yaml"
    check_same_run(folder, config)
    if not path.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run: choose another --out")
    write_whole(path, to_yaml(config))


def check_same_run(folder: Path, config: Config) -> None:
    """Raise UserError showing every field in which the run of a folder, if it holds one, is another.

    `data.micro_batch: auto` takes whatever number the run has.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    free = _FREE_FIELDS | ({"data.micro_batch"} if config.data.micro_batch == "auto" else set())
    changed = [line for line in differences(load_config(path), config) if line.split(":")[0] not in free]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration:\n  " + "\n  ".join(changed) + "\n"
            "choose another --out, or give the same settings to resume it"
        )


def mark_finished(folder: Path, step: int) -> None:
    """Say in the folder that the run needs no more jobs (rank 0)."""
    write_whole(folder / _FINISHED, json.dumps({"step": step}) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether the run of a folder has done all its steps, or stopped early as it was told to."""
    return (folder / _FINISHED).is_file()


def manifest_sha256(shards: Path) -> str:
    """Hex sha256 of manifest.json, which holds the sha256 of every shard."""
    return sha256_of(shards / "manifest.json")


def write_environment(folder: Path, device: torch.device, world_size: int, manifest: str) -> None:
    """Record what the run ran on (rank 0); a resumed run overwrites it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    facts = {
        "versions": {"cxr_dist": version("cxr_dist"), "python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "commit": _commit(),
        "manifest_sha256": manifest,
        "device": name,
        "host_cpus": os.cpu_count(),
        "world_size": world_size,
        "command": " ".join(["cxr-dist", *sys.argv[1:]]),
    }
    write_whole(folder / "environment.json", json.dumps(facts, indent=1) + "\n")


class MetricsLog:
    """metrics.jsonl: one line per logged step, and one per validation; or another file of lines with a step."""

    def __init__(self, folder: Path, resumed_step: int, name: str = "metrics.jsonl") -> None:
        path = folder / name
        if path.exists():  # drop what the resumed run will write again, and a line cut short by a kill
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= resumed_step]
            write_whole(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record, which has at least `step`."""
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The git commit of the package's source, where it runs from a checkout."""
    package = Path(__file__).resolve().parents[2]
    if not (package / ".git").exists():
        return None
    command = ["git", "-C", str(package), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
