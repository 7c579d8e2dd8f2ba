"""`cxr-dist compare --out` replaces the comparison of the same runs, and no other without being told so."""

import json
import shutil
from pathlib import Path

import pytest
from made_runs import make_predictions, make_run

from cxr_dist.errors import UserError
from cxr_dist.inference.evaluation import compare_runs


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / f"runs/{name}", make_predictions(n=20, passes=0), mode="image") for name in "abc"]


def test_the_same_runs_are_rewritten_in_any_order(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    compare_runs(runs[:2], "test", out)
    written = json.loads((out / "comparison.json").read_text())
    assert [run["folder"] for run in written["runs"]] == ["../runs/a", "../runs/b"]
    compare_runs(runs[1::-1], "test", out)
    assert json.loads((out / "comparison.json").read_text())["runs"][0]["name"] == "b"


def test_other_runs_or_another_split_are_refused_and_change_nothing(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    compare_runs(runs[:2], "test", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shutil.copytree(runs[0] / "evaluation/test", runs[0] / "evaluation/val")
    with pytest.raises(UserError, match=r"holds the comparison of a, b on split test: choose another --out, or"):
        compare_runs(runs[1:], "test", out)
    with pytest.raises(UserError, match=r"replace it with --overwrite$"):
        compare_runs(runs[:1], "val", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    compare_runs(runs[1:], "test", out, overwrite=True)
    assert [run["name"] for run in json.loads((out / "comparison.json").read_text())["runs"]] == ["b", "c"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": 3}', None])
def test_other_files_of_these_names_are_not_replaced(runs: list[Path], tmp_path: Path, content: str | None) -> None:
    out = tmp_path / "comparison"
    out.mkdir()
    name = "report.html" if content is None else "comparison.json"
    (out / name).write_text(content or "")
    with pytest.raises(UserError, match="holds a page or record of another kind"):
        compare_runs(runs, "test", out)
    assert (out / name).read_text() == (content or "")


def test_runs_and_comparison_may_be_moved_together(runs: list[Path], tmp_path: Path) -> None:
    compare_runs(runs, "test", tmp_path / "comparison")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("runs", "comparison"):
        (tmp_path / name).rename(moved / name)
    compare_runs([moved / "runs" / run.name for run in runs], "test", moved / "comparison")
