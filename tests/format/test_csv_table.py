"""A .csv is read as it was written, or refused with a line number and without quoting it."""

import csv
import gzip
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxr_dist.errors import UserError
from cxr_dist.format.csv_table import LONGEST_LINE, read_csv, read_rows

SECRET = "Smith"
HEADER = "image,report,label\n"


def rows_of(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, name, "\t" if name.endswith(".tsv") else ","))


def written(rows, **options):
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    return text.getvalue()


# csv.writer does not quote a lone carriage return if lines end in a line feed.
WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([("a.png", 'He said "no", twice\r\nand, again', "1")], "\r\n", False)
@example([("a.png", "Heart, lungs, bones\nclear, dry, whole", "1")], "\n", False)
@example([("7", "Heart,1\nlungs,dry", "1")], "\n", False)
def test_every_table_that_a_csv_writer_writes_is_read_as_it_was(tmp_path_factory, rows, ending, quoted):
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    content = written([("image", "report", "label"), *rows], lineterminator=ending, quoting=quoting)
    read = rows_of(tmp_path_factory.mktemp("table"), "\ufeff" + content)
    assert read == [["image", "report", "label"], *map(list, rows)]


def test_a_report_longer_than_the_csv_modules_own_limit_is_read(tmp_path):
    report = "clear, " * 100_000
    assert rows_of(tmp_path, written([("image", "report"), ("a.png", report)]))[1] == ["a.png", report]


def test_blank_lines_columns_without_a_name_and_quotes_inside_a_cell_are_read(tmp_path):
    assert rows_of(tmp_path, 'a,,\n\n1,,\nx 5",,\n')[1:] == [["1", "", ""], ['x 5"', "", ""]]
    assert rows_of(tmp_path, "a\tb\n1,5\t2\n", "table.tsv")[1] == ["1,5", "2"]


def test_a_row_may_end_before_columns_without_a_name_but_not_before_a_named_one(tmp_path):
    assert rows_of(tmp_path, "image,x,,\na,1\nb,2,\nc,3,,\n")[1:] == [
        [name, x, "", ""] for name, x in (("a", "1"), ("b", "2"), ("c", "3"))
    ]
    for row in ("a", "a,1,,,"):
        with pytest.raises(UserError, match=f"line 2 of table.csv has {row.count(',') + 1} cells, but there are 4"):
            rows_of(tmp_path, f"image,x,,\n{row}\n")
    with pytest.raises(UserError, match=r"line 2 of table\.csv has a stray double quote"):
        rows_of(tmp_path, f'r,i,l,,\n"{SECRET},a.png,1\nnodule 5",b.png,0\n')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}a.png,clear,1\nb.png,{SECRET}, too,0\n", "line 3 of table.csv has 4 cells, but there are 3 columns"),
        (f'{HEADER}a.png,"one\ntwo",1\nb.png,{SECRET}\n', "line 4 of table.csv has 2 cells, but there are 3 columns"),
        (f"image,{SECRET},label,{SECRET}\n", "columns 2 and 4 of table.csv have the same name"),
        (f'{HEADER}a.png,clear,1\nb.png,"{SECRET},0\nc.png,dry,1\n', "line 3 of table.csv begins a row with a stray"),
        (f'{HEADER}a.png,"{SECRET}" 5,1\n', "line 2 of table.csv begins a row with a stray"),
        (f'{HEADER}a.png,"{SECRET},1\nb.png,nodule 5",0\n', "line 2 of table.csv has a stray double quote"),
        (f'{HEADER}a1.png,"{SECRET},1\nb2.png,dry,1\nc3.png,"",0\n', "line 2 of table.csv begins a row with a stray"),
        (f'r,i,l\n"{SECRET},a.png,1\nnodule 5",b.png,0\n', "line 2 of table.csv has a stray double quote"),
        (f"{HEADER}a.png,{SECRET}\xff,1\n".encode("latin-1"), "line 2 of table.csv is not UTF-8"),
        (f"{HEADER}a.png,{SECRET},1\n".encode("utf-16"), "line 1 of table.csv has a NUL character"),
        (f"{HEADER}a.png,{SECRET}\0,1\n", "line 2 of table.csv has a NUL character"),
        (HEADER + "x" * LONGEST_LINE, "line 2 of table.csv has 16777216 characters or more"),
        (HEADER + 'a.png,"' + ("x" * 2**16 + "\n") * 256, "line 2 of table.csv begins a row with a stray"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line_and_not_quoted(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        rows_of(tmp_path, content)
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_a_damaged_gz_file_and_a_folder_are_refused(tmp_path):
    content = gzip.compress(HEADER.encode() * 100)
    for damaged in (content[:-9], content[:20] + b"xx" + content[22:], b"no gz"):
        with pytest.raises(UserError, match=r"table\.csv\.gz cannot be read as a table: expected a gzipped text"):
            rows_of(tmp_path, damaged, "table.csv.gz")
    with pytest.raises(UserError, match="cannot be read as a table"):
        list(read_rows(tmp_path, "table.csv"))


def test_columns_are_those_that_are_wanted_and_present(tmp_path):
    (tmp_path / "table.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert read_csv(tmp_path / "table.csv", ("c", "a", "x")) == (["a", "b", "c"], {"a": ["1", "4"], "c": ["3", "6"]})
    (tmp_path / "table.csv").write_text("")
    assert read_csv(tmp_path / "table.csv", None) == ([], {})
