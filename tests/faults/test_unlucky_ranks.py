"""Two ranks that meet a tiny /dev/shm or a missing tokenizer, also under ZeRO, say it in one line and all end."""

import ctypes
import subprocess

import forked_ranks
import pytest
from bad_files import FLAGS

NAMESPACE = 0x00020000  # CLONE_NEWNS of Linux: mounts of its own
SHM = "cxr-dist: no space left in /dev/shm, through which loader workers pass their batches: enlarge it"
TOKENIZER = "cxr-dist: text_encoder/tokenizer.json of the run"


def lines_of_the_package(said):
    return [line for line in said.splitlines() if line.startswith("cxr-dist: ")]


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_a_missing_tokenizer_ends_a_resume(run_copy, tiny_shards, tried, engine):
    """Takes about 5 s each, or more to import torch: two processes start."""
    (run_copy / "text_encoder" / "tokenizer.json").unlink()
    arguments = ("train", "demo", "--data.shards", tiny_shards, "--out", run_copy, *FLAGS, "--parallel", engine)
    said = forked_ranks.run(2, "-m", "cxr_dist", *map(str, arguments), expected=1, seconds=120)
    (line,) = lines_of_the_package(said)
    assert line.startswith(TOKENIZER)
    assert "Traceback" not in said
    tried(f"a missing tokenizer.json at two ranks with --parallel {engine}", "refused in one line")


def test_a_tiny_dev_shm_ends_training(tiny_shards, tmp_path, tried):
    """Takes about 10 s: two ranks start, and the launcher waits for them."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs root and a mount namespace")
    arguments = ("--data.shards", tiny_shards, "--out", tmp_path / "run", "--data.global-batch", 16)
    arguments += ("--data.micro-batch", 8, "--data.image-size", 256, "--data.workers", 1, "--train.max-steps", 40)
    said = forked_ranks.run(2, __file__, "train", "demo", *map(str, arguments), expected=1, seconds=120)
    (line,) = lines_of_the_package(said)
    assert line.startswith(SHM)
    assert "Traceback" not in said
    tried("a /dev/shm of 1 MiB at two ranks", "noticed")


if __name__ == "__main__":  # a rank whose /dev/shm has 1 MiB
    from cxr_dist.cli import main

    if ctypes.CDLL(None, use_errno=True).unshare(NAMESPACE):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"], check=True)
    main.main()
