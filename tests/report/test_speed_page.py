"""docs/explanation/speed.md is written from the result files, and shows only devices that were measured."""

import json
import shutil

from benchmarks.harness import RESULTS
from benchmarks.page import PAGE, page


def test_the_page_is_written_from_the_current_results():
    assert PAGE.read_text() == page(RESULTS)


def test_the_page_has_a_gpu_only_if_one_was_measured(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*-cuda.json"):
        path.unlink()
    without = page(tmp_path)
    assert "No GPU was available" in without
    result = json.loads((tmp_path / "original.json").read_text())
    result["machine"]["gpu"] = "NVIDIA H100 80GB HBM3"
    (tmp_path / "original-cuda.json").write_text(json.dumps(result))
    assert "*NVIDIA H100 80GB HBM3, torch" in page(tmp_path)
    assert "No GPU was available" not in page(tmp_path)
