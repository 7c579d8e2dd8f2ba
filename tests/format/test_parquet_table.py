"""A .parquet file is read as text, whoever wrote it, or refused in one line."""

import datetime

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from cxr_dist.errors import UserError
from cxr_dist.format.parquet_table import read_parquet


def cells(path, column):
    return read_parquet(path, (column,))[1][column]


def test_the_columns_of_a_named_index_are_columns(tmp_path):
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "label": ["sick", "well"]}).set_index("file")
    frame.to_parquet(tmp_path / "t.parquet")
    names, columns = read_parquet(tmp_path / "t.parquet", ("file", "label", "absent"))
    assert sorted(names) == ["file", "label"]
    assert columns == {"label": ["sick", "well"], "file": ["a.png", "b.png"]}


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pd.array([1, None, 0], dtype="Int64"), ["1", "", "0"]),
        (pd.array([True, None, False], dtype="boolean"), ["True", "", "False"]),
        (pd.array(["x", None, ""], dtype="string"), ["x", "", ""]),
        ([1.5, float("nan"), None], ["1.5", "", ""]),
        (pd.Categorical(["b", None, "a"]), ["b", "", "a"]),
        ([datetime.date(2014, 9, 15), None, None], ["2014-09-15", "", ""]),
        ([None, None, None], ["", "", ""]),
    ],
)
def test_every_single_value_becomes_its_text_and_an_unknown_one_becomes_empty(tmp_path, values, texts):
    pd.DataFrame({"x": values}).to_parquet(tmp_path / "t.parquet")
    assert cells(tmp_path / "t.parquet", "x") == texts


@pytest.mark.parametrize("values", [[["a"], ["b"]], [{"k": "a"}, {"k": "b"}], [b"a", b"b"]])
def test_lists_structs_and_bytes_are_refused_unless_nobody_asks_for_them(tmp_path, values):
    parquet.write_table(pa.table({"x": values, "y": ["1", "2"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column 'x' of t\.parquet holds .*; expected one text or number in each row"):
        cells(tmp_path / "t.parquet", "x")
    assert cells(tmp_path / "t.parquet", "y") == ["1", "2"]


def test_two_columns_of_one_name_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["x", "x"]), path)
    with pytest.raises(UserError, match="two columns of one name"):
        cells(path, "x")
    for damaged in (b"", b"PAR1", path.read_bytes()[:-20], b"x" * 4000):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t\.parquet cannot be read as parquet") as error:
            cells(path, "x")
        assert error.value.__suppress_context__
