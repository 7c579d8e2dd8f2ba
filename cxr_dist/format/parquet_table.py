"""Read columns of a .parquet file as text, by pyarrow alone.

pandas would move the columns of a named index out of the table, and return integers with gaps as floats.
"""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.files import open_regular


def read_parquet(path: Path, wanted: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of all columns, and the cells of those that are wanted and present; an unknown value is "".

    Raises UserError for a file that is not Parquet, two columns of one name, or a wanted column of lists, structs or
    bytes.
    """
    try:
        with open_regular(path) as file, parquet.ParquetFile(file) as source:
            schema = source.schema_arrow
            names = list(schema.names)
            require(len(set(names)) == len(names), f"{path.name} has two columns of one name: rename one")
            places = [i for i, name in enumerate(names) if name in wanted]
            for i in places:
                _check_type(schema.field(i), path.name)
            table = source.read(columns=[names[i] for i in places])
            return names, {name: [_text(value) for value in table[name].to_pylist()] for name in table.column_names}
    except UserError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:  # their messages can quote a cell, and so a report
        raise out_of_files(error) or UserError(
            f"{path.name} cannot be read as parquet: write it again, or use .csv"
        ) from None


def _check_type(field: pa.Field, name: str) -> None:
    kind, types = field.type, pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    several = (
        types.is_nested,
        types.is_binary,
        types.is_large_binary,
        types.is_fixed_size_binary,
        types.is_binary_view,
    )
    if any(is_kind(kind) for is_kind in several):
        raise UserError(f"column {field.name!r} of {name} holds {kind}; expected one text or number in each row")


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)  # NaN is not equal to itself
