"""The wheel and the sdist hold what a user needs and nothing else, and a wheel works away from the repository."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import cxr_dist

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 8 --data.micro-batch 4 --data.image-size 32 --data.max-tokens 16 --data.workers 0 "
    "--train.max-steps 2"
).split()


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """Build sdist and wheel of a source tree without a network; return their paths."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    name = f"cxr_dist-{cxr_dist.__version__}"
    return folder / f"{name}.tar.gz", folder / f"{name}-py3-none-any.whl"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this checkout."""
    return build(REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel, which sees this one's other packages."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose .pth files are not followed
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(built[1])], check=True, timeout=60)
    return folder / "bin"


def files_of(folder: str) -> list[str]:
    """Return the files below a folder of the repository, relative to the repository."""
    files = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path.relative_to(REPOSITORY).as_posix() for path in files]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder without this checkout on its path, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_the_supplied_files_and_the_licence(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        tops = {name.split("/")[0] for name in names}
        licence = wheel.read(f"cxr_dist-{cxr_dist.__version__}.dist-info/licenses/LICENSE")
    assert tops == {"cxr_dist", f"cxr_dist-{cxr_dist.__version__}.dist-info"}
    assert licence == (REPOSITORY / "LICENSE").read_bytes()
    ours = set(files_of("cxr_dist"))
    supplied = {f"cxr_dist/site/{name}" for folder in ("shards", "slurm", "launch") for name in files_of(folder)}
    assert {name for name in names if name.startswith("cxr_dist/")} == ours | supplied


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    assert not (source / "tests").exists()
    assert (source / "LICENSE").is_file()
    _, again = build(source, tmp_path / "dist")
    with zipfile.ZipFile(built[1]) as first, zipfile.ZipFile(again) as second:
        assert {n: first.read(n) for n in first.namelist()} == {n: second.read(n) for n in second.namelist()}


def test_an_installed_wheel_shards_trains_and_evaluates_in_an_empty_folder(installed, tmp_path):
    # More than five seconds: each of the commands starts Python and torch anew, as it does for a user.
    where = run(installed / "python", "-c", "import cxr_dist; print(cxr_dist.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    cxr = installed / "cxr-dist"
    recipe = run(cxr, "recipes", "demo", folder=tmp_path).replace("studies: 1000, side: 128", "studies: 60, side: 32")
    (tmp_path / "small.yaml").write_text(recipe)
    run(cxr, "shard", "small.yaml", "--out", "shards", folder=tmp_path)
    run(cxr, "train", "demo", *SMALL, "--data.shards", "shards", "--out", "run", folder=tmp_path)
    run(cxr, "evaluate", "run", "--mc-samples", "0", folder=tmp_path)
    assert (tmp_path / "run" / "evaluation" / "test" / "metrics.json").is_file()
    run(cxr, "init", "site", folder=tmp_path)
    assert (tmp_path / "site" / "slurm" / "enhanced.sh").read_bytes() == (
        REPOSITORY / "slurm" / "enhanced.sh"
    ).read_bytes()
    site = ("--cluster", "debug", "--cpus-per-task", "1", "--data.shards", "shards")
    run(cxr, "submit", "demo", *site, *SMALL, "--out", "submitted", folder=tmp_path)
    assert (tmp_path / "submitted" / "metrics.jsonl").is_file()
