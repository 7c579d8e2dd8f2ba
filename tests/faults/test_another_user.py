"""A user without a home folder, who can only read the checkout, shards, trains, evaluates, compares and exports."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from bad_files import FLAGS
from made_shards import TINY_RECIPE

import cxr_dist

CHECKOUT = Path(cxr_dist.__file__).parents[1]
NOBODY = 65534


@pytest.fixture
def work():
    """A folder of `nobody`, or of this user if it is not root, that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "work"
        folder.mkdir()
        folder.parent.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder


@pytest.fixture
def as_nobody(work):
    """A function that runs a command in `work` as its owner."""
    interpreter, place, settings = Path(sys.executable), work.parent / "python", {"cwd": work}
    if os.geteuid() == 0:
        place.mkdir()
        if subprocess.run(["mount", "--bind", sys.base_prefix, place], capture_output=True).returncode:
            pytest.skip("root's Python may be out of reach for nobody, and cannot be mounted elsewhere")
        interpreter = place / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        settings |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    environment = {
        "PYTHONPATH": f"{CHECKOUT}:{sysconfig.get_path('purelib')}", "LD_LIBRARY_PATH": str(place / "lib"),
        "HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1",
    }  # fmt: skip

    def run(*arguments):
        command = [str(interpreter), "-m", "cxr_dist", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, **settings)

    yield run
    if os.geteuid() == 0:
        subprocess.run(["umount", place], check=True)


def test_a_user_without_home_goes_from_images_to_a_page(as_nobody, work, tried):
    """Takes about 40 s: six processes, four of which import torch."""
    (work / "recipe.yaml").write_text(TINY_RECIPE)
    for command in (
        ("shard", "recipe.yaml", "--out", "shards", "--workers", 2),
        ("train", "demo", "--data.shards", "shards", *FLAGS, "--data.workers", 1, "--out", "run"),
        ("evaluate", "run", "--mc-samples", 0),
        ("compare", "run"),
        ("export", "run", "--onnx", "false"),
    ):
        done = as_nobody(*command)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert (work / "comparison" / "report.html").is_file()
    done = as_nobody("fetch")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cxr-dist: cannot make the folder /nonexistent/.cache/")
    tried("a user without rights and home", "read as it should be")
