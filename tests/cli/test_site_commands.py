"""The files that come with the package: recipes by name, a site's own copies, and `submit` in both of its forms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (REPOSITORY / "shards").glob("*.yaml"))


def test_every_recipe_is_listed_with_what_it_is(cxr_dist):
    status, out, _ = cxr_dist("recipes")
    assert status == 0
    listed = [line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines() if not line.startswith(" ")]
    assert [name for name, _ in listed] == RECIPES
    assert dict(listed)["openi"] == "Open-i, the Indiana University chest X-ray collection"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_printed_as_it_lies_in_the_repository(cxr_dist, name):
    assert cxr_dist("recipes", name)[1] == (REPOSITORY / "shards" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("command", [("recipes", "opemi"), ("shard", "opemi", "--out", "shards")])
def test_an_unknown_recipe_is_refused_with_the_names(cxr_dist, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    status, _, err = cxr_dist(*command)
    assert status == 2
    assert "openi" in err.partition("one of")[2]
    assert len(err.splitlines()) == 1


def test_a_file_of_the_same_name_goes_before_a_recipe(cxr_dist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("reader: nothing\n")
    assert "unknown reader 'nothing'" in cxr_dist("shard", "demo", "--out", "shards")[2]


def test_init_copies_the_three_folders_and_never_overwrites(cxr_dist, tmp_path):
    status, out, _ = cxr_dist("init", tmp_path / "site")
    assert status == 0
    assert f"export CXR_DIST_PYTHON={sys.executable}" in out
    for name in ("shards/openi.yaml", "slurm/enhanced.sh", "slurm/job.sh", "launch/accelerate/cpu2.yaml"):
        assert (tmp_path / "site" / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert not list((tmp_path / "site").rglob("*.pyc"))
    (tmp_path / "site" / "slurm" / "job.sh").write_text("mine")
    status, _, err = cxr_dist("init", tmp_path / "site")
    assert status == 2
    assert "nothing is overwritten" in err
    assert (tmp_path / "site" / "slurm" / "job.sh").read_text() == "mine"


@pytest.mark.parametrize(
    "command", [("-m", "cxr_dist", "submit"), (REPOSITORY / "launch" / "submit.py",)], ids=["command", "script"]
)
def test_submit_without_slurm_says_what_to_do(tiny_shards, tmp_path, command):
    flags = ("demo", "--data.shards", tiny_shards)
    environment = os.environ | {"PATH": "/nowhere", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *map(str, (*command, *flags))], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "no sbatch on this machine: submit from a login node" in done.stderr
    assert "--cluster local" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["baseline.sh", "doctor.sh", "enhanced.sh", "evaluate.sh", "shard.sh"])
def test_a_job_script_that_bash_runs_says_what_to_do(script):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        ["bash", REPOSITORY / "slurm" / script], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 2
    assert f"submit it with `sbatch slurm/{script}`" in done.stderr
    assert "cxr-dist train enhanced --data.shards SHARDS" in done.stderr
