"""Make the pictures of README.md and the outputs of the notebook again, from the folder that `make demo` wrote.

    make demo && .venv/bin/python docs/pictures.py demo

Writes docs/images/report.webp, the opening of the comparison page, and docs/images/prediction.webp, what
`cxr-dist predict` draws for a synthetic test image and its report, and runs docs/tutorials/notebook.ipynb. Requires
Chromium.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

IMAGES = Path(__file__).parent / "images"
NOTEBOOK = Path(__file__).parent / "tutorials" / "notebook.ipynb"
_WIDTH, _HEIGHT = 1280, 720
_QUALITY = 80


def main(demo: Path) -> None:
    """Make both pictures, and run the notebook."""
    with tempfile.TemporaryDirectory() as folder:
        _save(_screenshot(demo / "comparison" / "report.html", Path(folder)), "report")
        _save(_prediction(demo, Path(folder)), "prediction")
    _run_notebook(NOTEBOOK, demo.resolve().parent)


def _screenshot(page: Path, folder: Path) -> Path:
    """The first screen of a page, in Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is needed for the picture of the report page: install it, for example apt install chromium")
    shot = folder / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={_WIDTH},{_HEIGHT}"]
    subprocess.run(
        [browser, *options, f"--screenshot={shot}", page.resolve().as_uri()], check=True, capture_output=True
    )
    return shot


def _prediction(demo: Path, folder: Path) -> Path:
    """The figure of `predict` for the first frontal test image of an effusion and its report."""
    image, figure = folder / "image.jpg", folder / "prediction.png"
    effusion = json.loads((demo / "shards" / "manifest.json").read_text())["classes"].index("Effusion")
    with tarfile.open(demo / "shards" / "test-00000.tar") as tar:
        facts = {Path(name).stem: json.load(_opened(tar, name)) for name in tar.getnames() if name.endswith(".json")}
        key = next(key for key, each in facts.items() if (each["label"], each["view"]) == (effusion, "PA"))
        image.write_bytes(_opened(tar, f"{key}.jpg").read())
    report = "\n".join(f"{name.upper()}: {text}" for name, text in facts[key]["text"].items())
    command = [sys.executable, "-m", "cxr_dist", "predict", demo / "runs" / "enhanced", "--image", image]
    subprocess.run([*command, "--report", report, "--out", figure], check=True, stdout=subprocess.DEVNULL)
    return figure


def _opened(tar: tarfile.TarFile, name: str) -> io.BufferedReader:
    file = tar.extractfile(name)
    assert file is not None, name
    return file  # type: ignore[return-value]


def _run_notebook(path: Path, folder: Path) -> None:
    """Run a notebook in a folder and keep its outputs, without what depends on this machine."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                output.pop("execution_count", None)
                output.get("data", {}).pop("image/jpeg", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def _save(picture: Path, name: str) -> None:
    with Image.open(picture) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDTH, 2 * _WIDTH))
        image.save(IMAGES / f"{name}.webp", quality=_QUALITY, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
