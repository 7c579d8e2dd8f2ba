"""Read a .csv or .tsv, plain or gzipped, strictly and row by row: for the readers of `shard` and `predict --input`.

A comma or a quote that nobody escaped would move text into another column or swallow rows, and a piece of a report
could become the label. We use the standard library's csv, because it has a strict mode for quotes and counts lines;
pandas and pyarrow accept text after a closing quote. Messages give line numbers and never show a cell, which may hold
a report.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.files import open_regular

LONGEST_LINE = 2**24
"""Maximum length of a line and of a cell, in characters."""
_UNDECODABLE = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that is not UTF-8
_NAMES = {",": "comma", "\t": "tab"}


def read_rows(path: Path, name: str, separator: str = ",") -> Iterator[list[str]]:
    """Yield the column names, then the cells of each row, as many as there are columns; blank lines are skipped.

    A row may end before the last columns if these have no name, as in the published `Image,x,y,,`: its cells there are
    empty. Errors call the file `name`. Raises UserError for a file that is not UTF-8 or cannot be unpacked, two columns
    of one name, a row with more or fewer cells, and quotes that are stray or not closed.
    """
    columns: list[str] = []
    num_named = 0
    with _opened(path, name) as file:
        for line, cells, lines in _records(file, name, separator):
            if not columns:
                columns = cells
                num_named = max((number for number, column in enumerate(columns, start=1) if column), default=0)
                _check_names(columns, name)
                yield cells
                continue
            width = len(cells)
            if num_named <= width < len(columns):
                cells += [""] * (len(columns) - width)
            if len(cells) != len(columns):
                raise UserError(
                    f"line {line} of {name} has {width} cells, but there are {len(columns)} columns: put a cell "
                    f"that holds a {_NAMES[separator]} in double quotes"
                )
            if len(lines) > 1 and _swallowed_rows(lines, separator, width):
                raise UserError(
                    f"line {line} of {name} has a stray double quote, after which whole rows became part of one cell: "
                    "remove it, or put the cell in double quotes and write each quote inside it twice"
                )
            yield cells


def read_csv(
    path: Path, wanted: Collection[str] | None, separator: str = ","
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of all columns, and the cells of those that are wanted (None for all) and present."""
    rows = read_rows(path, path.name, separator)
    names = next(rows, [])
    places = {name: i for i, name in enumerate(names) if wanted is None or name in wanted}
    columns: dict[str, list[str]] = {name: [] for name in places}
    for cells in rows:
        for name, place in places.items():
            columns[name].append(cells[place])
    return names, columns


@contextmanager
def _opened(path: Path, name: str) -> Iterator[io.TextIOWrapper]:
    zipped = path.suffix.lower() == ".gz"
    try:
        with open_regular(path) as raw, gzip.open(raw) if zipped else raw as binary:
            # Lines that are not UTF-8 are found later, when their number is known.
            yield io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
    except (OSError, EOFError, zlib.error) as error:
        raise out_of_files(error) or UserError(
            f"{name} cannot be read as a table: expected a {'gzipped ' if zipped else ''}text file in UTF-8, with the "
            "column names in the first line"
        ) from None


def _records(file: io.TextIOWrapper, name: str, separator: str) -> Iterator[tuple[int, list[str], Sequence[str]]]:
    """Yield (number of its first line, cells, lines) of each record, without blank ones."""
    csv.field_size_limit(LONGEST_LINE)  # a setting of the whole process, whose default is 131,072
    lines: list[str] = []
    reader = csv.reader(_lines(file, name, lines), delimiter=separator, strict=True)
    while True:
        lines.clear()
        first = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error:  # not chained: the message may quote a cell
            raise UserError(
                f"line {first} of {name} begins a row with a stray or unclosed double quote: put the cell in double "
                "quotes and write each quote inside it twice"
            ) from None
        if cells is None:
            return
        if cells:
            yield first, cells, lines


def _lines(file: io.TextIOWrapper, name: str, copies: list[str]) -> Iterator[str]:
    """Yield each line after checking its characters, and append it to `copies`."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        require(len(line) < LONGEST_LINE, f"line {number} of {name} has {LONGEST_LINE} characters or more")
        require("\0" not in line, f"line {number} of {name} has a NUL character: expected a text file in UTF-8")
        if not line.isascii() and _UNDECODABLE.search(line):
            raise UserError(f"line {number} of {name} is not UTF-8: save the table in UTF-8")
        copies.append(line)
        yield line


def _check_names(columns: Sequence[str], name: str) -> None:
    """Raise UserError if two columns have one name; several may have none, as in tables with empty columns."""
    first: dict[str, int] = {}
    for number, column in enumerate(columns, start=1):
        same = first.setdefault(column, number)
        # If there is no header, the names are a patient's data, so the message does not show them.
        require(same == number or not column, f"columns {same} and {number} of {name} have the same name: rename one")


def _swallowed_rows(lines: Sequence[str], separator: str, num_columns: int) -> bool:
    """Whether each line of a row that spans several lines looks like a row of its own.

    This is so if two stray quotes are taken for the quotes around one cell. Each line has as many separators as a row,
    and most cells look like those of the first line. A report's own line breaks do not give such lines.
    """
    rows = [line.rstrip("\r\n").split(separator) for line in lines]
    if any(len(row) != num_columns for row in rows):
        return False
    first, *others = rows
    for row in others:
        pairs = [(a, b) for a, b in zip(first, row, strict=True) if a and b and '"' not in a + b]
        alike = sum(_shape(a) == _shape(b) for a, b in pairs)
        if 2 * alike <= len(pairs):
            return False
    return True


def _shape(cell: str) -> str:
    """Replace each run of letters by a, and each run with a digit by 9: `film-12.png` becomes `a-9.a`."""
    return re.sub(r"\w+", lambda run: "9" if re.search(r"\d", run[0]) else "a", cell)
