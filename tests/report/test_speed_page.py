"""docs/speed.md agrees with the result files and shows no device that was not measured."""

import json
import shutil

from benchmarks.harness import RESULTS
from benchmarks.page import PAGE, page


def test_the_page_is_generated_from_the_stored_results():
    assert PAGE.read_text() == page(RESULTS)


def test_a_gpu_has_its_own_section_once_it_was_measured(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*-cuda.json"):
        path.unlink()
    without = page(tmp_path)
    assert "No GPU was at hand" in without
    result = json.loads((tmp_path / "original.json").read_text())
    result["machine"]["gpu"] = "NVIDIA H100 80GB HBM3"
    (tmp_path / "original-cuda.json").write_text(json.dumps(result))
    assert "*NVIDIA H100 80GB HBM3, torch" in page(tmp_path)
    assert "No GPU was at hand" not in page(tmp_path)
