"""Shared fixtures: where the real data are, one thread per process so that numbers repeat, and SIGINT's default."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_shards import write_other_shards, write_study_shards, write_tiny_shards

from cxr_dist.cli.main import main
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts the jobs of a script's background (`make test &`) with SIGINT ignored, which every process that a
    # test starts would inherit. A handler that does nothing ignores it in this process only.
    signal.signal(signal.SIGINT, lambda number, frame: None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real reports and films (openi/, covid-cxr/); skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CXR_DIST_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: set CXR_DIST_REAL_DATA (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 120 small made studies, in shards of 13 samples; read-only."""
    return write_tiny_shards(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def fold_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of `tiny_shards` in three folds; read-only."""
    splits = ("train: 0.6, val: 0.2, test: 0.2, seed: 1", "folds: 3, seed: 1")
    return write_other_shards(tmp_path_factory.mktemp("folds"), *splits)


@pytest.fixture
def tiny_config(tiny_shards: Path, tmp_path: Path) -> Config:
    """The demo run, cut down to seconds, on `tiny_shards`."""
    demo = named_run("demo")
    data = dataclasses.replace(
        demo.data,
        shards=str(tiny_shards),
        global_batch=16,
        micro_batch=4,
        image_size=64,
        workers=0,
        max_tokens=32,
    )
    train = dataclasses.replace(demo.train, epochs=2, log_every=1)
    return dataclasses.replace(demo, data=data, train=train, seed=1, out=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def study_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 60 small made studies of one or two films, in shards of 13 samples; read-only."""
    return write_study_shards(tmp_path_factory.mktemp("studies"))


@pytest.fixture
def study_config(tiny_config: Config, study_shards: Path) -> Config:
    """`tiny_config` on `study_shards`."""
    return dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, shards=str(study_shards)))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a full disk needs root to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def cxr_dist(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """cxr_dist(*arguments) -> (exit status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cxr-dist", *map(str, arguments)])
        status: Any = 0
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config.json of a BERT of three layers, 64 wide, for at most 64 tokens."""
    folder = tmp_path_factory.mktemp("small-bert")
    sizes = {"vocab_size": 600, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 256, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | sizes))
    return folder
