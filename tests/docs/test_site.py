"""The documentation site builds strictly, loads nothing from other hosts, and says what the code says."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import cxr_dist
from cxr_dist.config.run import Config

ROOT = Path(__file__).parents[2]
OTHER_PROGRAMS = {
    "sbatch and srun": {"--ntasks-per-node", "--time", "--signal", "--kill-on-bad-exit"},
    "accelerate": {"--config_file"},
    "tensorboard": {"--logdir"},
    "pip": {"--constraint", "--dest", "--no-index", "--find-links", "--index-url", "--no-deps"},
    "podman": {"--build-arg", "--file", "--tag", "--rm", "--network", "--volume", "--output"},
    "apptainer": {"--nv", "--bind"},
    "tar": {"--wildcards"},
    "sha256sum": {"--check", "--quiet"},
    "python -m benchmarks": {"--mutants-per-module", "--dicom"},
    "mlflow": {"--backend-store-uri"},
    "torchrun": {"--nproc-per-node"},
    "any setting of cxr-dist": {"--section.field-name"},
}
LOADED = re.compile(
    r"""(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b[^>]*\bhref|@import|url\()\s*=?\s*["']?(https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does. Takes about ten seconds, because each command prints its help for it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_pages_and_styles_load_nothing_from_other_hosts(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 15
    loaded = {path.name: LOADED.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: found for name, found in loaded.items() if found} == {}


def test_every_place_for_generated_text_was_filled(site: Path) -> None:
    assert [path for path in site.rglob("*.html") if "generate:" in path.read_text(encoding="utf-8")] == []


def test_the_reference_has_every_setting_command_and_block_of_metrics(site: Path) -> None:
    configuration = (site / "reference/configuration.html").read_text(encoding="utf-8")
    for field in fields(Config().data):
        assert f"--data.{field.name.replace('_', '-')}<" in configuration
    assert "at least 8; longer reports are truncated" in configuration  # max_tokens' own docstring
    commands = (site / "reference/command-line.html").read_text(encoding="utf-8")
    for name in ("shard", "verify", "train", "evaluate", "compare", "predict", "export"):
        assert f"usage: cxr-dist {name}" in commands
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in cxr_dist.__all__:
        assert f'id="cxr_dist.{name}"' in python or f'id="{name}"' in python
    metrics = (site / "reference/metrics.html").read_text(encoding="utf-8")
    for key in ("confusion_matrix", "operating_points", "roc_auc", "subgroups"):
        assert key in metrics


def test_every_flag_that_a_page_names_exists(site: Path) -> None:
    """The flags of cxr-dist are in the generated reference; those of other programs are listed here."""
    pages = [ROOT / "README.md", *(ROOT / "docs" / "tutorials").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")]
    pages += [path for path in (ROOT / "docs" / "explanation").glob("*.md") if path.stem != "history"]
    reference = "".join((site / f"reference/{name}.html").read_text() for name in ("command-line", "configuration"))
    known, flag = set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", reference)), r"(?<![\w-])--[a-z][a-z0-9_.-]*[a-z0-9]"
    named = {name: path.name for path in pages for name in re.findall(flag, path.read_text(encoding="utf-8"))}
    named = {name.replace("--slurm-", "--slurm."): page for name, page in named.items()}  # the same flag
    assert len(named) > 60
    known = known.union(*OTHER_PROGRAMS.values())
    assert {name: page for name, page in named.items() if name not in known} == {}


def test_every_file_that_a_page_includes_is_shown(site: Path) -> None:
    """A block of Python that includes a file begins with {.python}: ruff would format `--8<--` in a block of python."""
    assert [page.name for page in site.rglob("*.html") if re.search(r"8\s*&lt;", page.read_text())] == []
    page = re.sub(r"<[^>]+>", "", (site / "how-to/own-parts.html").read_text(encoding="utf-8"))
    for name in (
        "own_encoder/encoder",
        "own_reader/reader",
        "own_loss/loss",
        "own_stage/stages",
        "own_tracker/tracker",
    ):
        text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        [defined, *_] = re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)
        assert re.search(rf"(class|def) {defined}\b", page), name
