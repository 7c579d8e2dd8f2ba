"""The notebook among the tutorials runs from a folder with results, and its page shows what it prints."""

import shutil
import tarfile
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "tutorials" / "notebook.ipynb"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with demo/, as `make demo` writes it, with the small run and shards that an earlier version wrote."""
    before, folder = ROOT / "tests" / "written_before", tmp_path / "demo"
    shutil.copytree(before / "run", folder / "runs" / "enhanced", symlinks=True)
    shutil.copytree(before / "shards", folder / "shards")
    with tarfile.open(before / "weights.tar.xz") as weights:
        weights.extractall(tmp_path / "unpacked", filter="data")
    shutil.copytree(tmp_path / "unpacked" / "run", folder / "runs" / "enhanced", symlinks=True, dirs_exist_ok=True)
    config = folder / "runs" / "enhanced" / "config.yaml"
    config.write_text(config.read_text().replace("  shards: shards\n", f"  shards: {folder / 'shards'}\n"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_the_notebook_runs(demo: Path) -> None:
    """Takes about ten seconds: a kernel starts and imports torch, pandas and matplotlib."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(demo)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert any("Effusion" in output.get("data", {}).get("text/plain", "") for output in outputs)


def test_the_stored_outputs_hold_no_path_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert '"output_type": "error"' not in text
    assert not any(place in text for place in ("/home/", "/work/", "/tmp/", "/root/"))
