"""The record of the user's own parts: a changed file is refused; a changed tracker is only reported."""

import hashlib
import json
from pathlib import Path

import pytest

from cxr_dist.errors import UserError
from cxr_dist.run.parts import keep_parts, read_parts, record_of


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "site" / "mine.py"
    file.parent.mkdir()
    file.write_text("def part(*given): pass\n")
    return file


def test_a_run_without_own_parts_has_no_record(tmp_path: Path) -> None:
    keep_parts(tmp_path, {"loss.name": ("focal",), "data.stages": (), "trackers": ()})
    assert list(tmp_path.iterdir()) == []
    assert read_parts(tmp_path) == {}


def test_the_record_names_files_without_their_folders(tmp_path: Path, code: Path) -> None:
    names = {"data.stages": (f"{code}:part", "json:dumps"), "loss.name": ("focal",)}
    keep_parts(tmp_path, names)
    text = (tmp_path / "parts.json").read_text()
    assert str(tmp_path) not in text
    first = {"name": "mine.py:part", "sha256": hashlib.sha256(code.read_bytes()).hexdigest()}
    assert json.loads(text)["data.stages"][0] == first
    assert json.loads(text).keys() == {"data.stages"}
    assert read_parts(tmp_path) == record_of(names)
    keep_parts(tmp_path, names)  # resumed


@pytest.mark.parametrize("field", ["data.stages", "model.image_encoder", "model.text_encoder", "loss.name"])
def test_a_changed_file_is_refused(tmp_path: Path, code: Path, field: str) -> None:
    keep_parts(tmp_path, {field: (f"{code}:part",)})
    before = (tmp_path / "parts.json").read_text()
    code.write_text(code.read_text() + "# changed\n")
    with pytest.raises(UserError, match=rf"^{field}: mine\.py:part is .* put that file back, or choose another --out$"):
        keep_parts(tmp_path, {field: (f"{code}:part",)})
    assert (tmp_path / "parts.json").read_text() == before


def test_a_changed_tracker_is_only_reported(tmp_path: Path, code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_parts(tmp_path, {"trackers": (f"{code}:part",)})
    code.write_text(code.read_text() + "# changed\n")
    keep_parts(tmp_path, {"trackers": (f"{code}:part",)})
    assert "trackers: mine.py:part is defined by another file" in capsys.readouterr().err
    keep_parts(tmp_path, {"trackers": (f"{code}:part",)})
    assert capsys.readouterr().err == ""


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parts.json").write_text('{"loss.name": [{"name": "a.py:b"}]}')
    with pytest.raises(UserError, match=r"parts\.json.*sha256"):
        read_parts(tmp_path)
