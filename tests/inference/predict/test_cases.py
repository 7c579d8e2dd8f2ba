"""Inputs of many cases are read row by row, and refused without quoting their content."""

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.inference.cases import read_input
from cxr_dist.inference.given_case import ReportOptions, SectionRules

FUSED, IMAGE, TEXT = (ModelConfig(mode=mode) for mode in ("fused", "image", "text"))
RULES = SectionRules(read=("findings",), stored=("findings", "impression"), reader="table")
SECRET = "Featherstonehaugh"
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8))
def test_every_cell_of_a_table_is_read_with_its_row(rows):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cases.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["id", "image", "report"], *rows])
        inputs = read_input(table, FUSED, RULES)
        for cases in (list(inputs.cases()), list(inputs.cases())):  # a second pass gives the same cases
            assert [(case.id, case.name, case.report) for case in cases] == rows
            assert [case.row for case in cases] == [*range(1, len(rows) + 1)]
            assert all(case.image == Path(folder) / case.name for case in cases)
        assert (inputs.total, inputs.has_ids) == (len(rows), True)


def test_a_folder_is_read_in_the_order_of_its_file_names(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.jpg", "c.txt", "notes.md", "d.txt"):
        (tmp_path / name).write_text("x")
    inputs = read_input(tmp_path, FUSED, RULES)
    assert [case.name for case in inputs.cases()] == ["a.jpeg", "b.PNG", "c.jpg"]
    assert [case.read(ReportOptions()).report for case in inputs.cases()] == ["", "", "x"]
    assert inputs.total == 3
    assert [case.name for case in read_input(tmp_path, TEXT, RULES).cases()] == ["c.txt", "d.txt"]


def test_a_report_that_is_not_utf8_is_refused_without_quoting_it(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(SECRET.encode() + b"\xff")
    (case,) = read_input(tmp_path, FUSED, RULES).cases()
    with pytest.raises(UserError, match=r"the report cannot be read: expected a text file in UTF-8") as error:
        case.read(ReportOptions())
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("content", "model", "message"),
    [
        (
            f"image\n{SECRET}\n",
            FUSED,
            "no column 'report'; this model reads image and report (or columns named after its sections: findings)",
        ),
        (f"{SECRET}.png,{SECRET}\n", IMAGE, "no column 'image'; this model reads image: name the columns"),
        ("", TEXT, "no column 'report'; this model reads report"),
        ("image,report\n", FUSED, "no row below its column names"),
        (
            f"image,report\na.png,{SECRET}, too\n",
            FUSED,
            "line 2 of --input has 3 cells, but there are 2 columns",
        ),
        (
            f'image,report\na.png,"{SECRET}',
            FUSED,
            "line 2 of --input begins a row with a stray or unclosed double quote",
        ),
        (f"image,report\na.png,{SECRET}\xff\n".encode("latin-1"), FUSED, "line 2 of --input is not UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_without_quoting_it(tmp_path, content, model, message):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / f"{SECRET}.csv").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_input(tmp_path / f"{SECRET}.csv", model, RULES)
    assert message in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_other_inputs_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--input holds no file that ends in .png, .jpg, .jpeg, .dcm"):
        read_input(tmp_path, FUSED, RULES)
    with pytest.raises(UserError, match=r"--input is neither a folder nor a .csv file: give a folder"):
        read_input(tmp_path / "absent.csv", FUSED, RULES)
