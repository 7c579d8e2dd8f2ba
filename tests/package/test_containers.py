"""The two container definitions copy the same files, which are what the package is built from, and no data."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTAINERS = REPOSITORY / "containers"
COPIED = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "containers/install.sh"}
COPIED |= {"cxr_dist", "shards", "slurm", "launch"}


def test_both_definitions_copy_the_package_and_nothing_else():
    docker = re.findall(r"^COPY (.+) \S+$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in docker for name in line.split()} == COPIED
    files = (CONTAINERS / "cxr_dist.def").read_text().split("%files\n")[1].split("%post")[0]
    assert {line.split()[0] for line in files.splitlines() if line.strip()} == COPIED


def test_what_they_copy_is_enough_to_build_the_wheel(tmp_path):
    for name in COPIED:
        source, target = REPOSITORY / name, tmp_path / Path(name).name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_both_start_from_the_same_image_and_set_the_same_variables():
    docker, apptainer = ((CONTAINERS / name).read_text() for name in ("Dockerfile", "cxr_dist.def"))
    image = re.search(r"^FROM (\S+)$", docker, re.MULTILINE)[1]
    assert f"From: {image}\n" in apptainer
    variables = re.search(r"^ENV (.+)$", docker, re.MULTILINE)[1]
    assert f"export {variables}\n" in apptainer


@pytest.mark.parametrize("script", ["install.sh", "python"])
def test_the_scripts_are_valid_for_bash(script):
    assert subprocess.run(["bash", "-n", CONTAINERS / script], check=False).returncode == 0
    assert (CONTAINERS / script).stat().st_mode & 0o100
