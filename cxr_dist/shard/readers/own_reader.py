"""A reader of the user's own: called, and everything that it gives checked record by record.

    # reader.py
    def read(recipe: Recipe, folder: Path | None) -> Source: ...

    # recipe.yaml
    reader: reader.py:read

examples/own_reader has a whole one. What a folder of shards records of it is its name and the sha256 of its file.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.errors import UserError, require
from cxr_dist.format.image import SIDE_LIMIT, ImageFile
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.format.manifest import SPLITS
from cxr_dist.shard.columns import SECTION_NAME
from cxr_dist.shard.person import OLDEST, Sex
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Pixels, Record, Source

NOT_STATED = "not stated by the reader"


class OwnReader(Protocol):
    """What `reader` in a recipe names: a function, or an object that can be called like one."""

    def __call__(self, recipe: Recipe, folder: Path | None, /) -> Source:
        """All records of the source; `folder` is --source, None where none was given.

        The records depend on the recipe and the folder alone, not on the clock: each task of a job array reads them
        again. A film is a `format.image.ImageFile`, or anything with the methods of `shard.record.Pixels` that can be
        pickled. A UserError is shown as it is; its message must not hold report text, ids or file names.
        """
        ...


def read_own(recipe: Recipe, folder: Path | None) -> Source:
    """What the recipe's own reader gives; raises UserError where it raises, or breaks the protocol."""
    name = recipe.reader
    reader: OwnReader = look_up("reader", name, {})
    with guarded("reader", name):
        source = reader(recipe, folder)
    _check_source(f"reader {name!r}", source, recipe)
    _check_can_be_sent(f"reader {name!r}", source)
    records = [dataclasses.replace(r, pixels=_safe(name, r.pixels)) for r in source.records]
    return dataclasses.replace(source, records=records, labels_from=source.labels_from or NOT_STATED)


class _Reader(str):
    """A reader's name. Where it is unpickled, the reader's module is loaded: its classes can be unpickled after it."""

    def __reduce__(self) -> tuple[Callable[[str], "_Reader"], tuple[str]]:
        return _with_module, (str(self),)


def _with_module(name: str) -> _Reader:
    look_up("reader", name, {})
    return _Reader(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnPixels:
    """A film of the user's own class, in whatever process it is read: what breaks the protocol is a UserError."""

    reader: _Reader  # is pickled first
    pixels: Pixels

    def exists(self) -> bool:
        """Whether there is anything to read."""
        with guarded("reader", self.reader):
            return bool(self.pixels.exists())

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Grey [H, W]; raises ImageProblem."""
        with guarded("reader", self.reader, ImageProblem):
            film = self.pixels.read(short_side)
        good = isinstance(film, np.ndarray) and film.dtype == np.uint8 and film.ndim == 2
        require(
            good and film.size > 0 and max(film.shape) <= SIDE_LIMIT,
            f"reader {str(self.reader)!r}: a film's read() must give grey pixels, a NumPy array [H, W] of uint8 with "
            f"at most {SIDE_LIMIT} pixels a side",
        )
        return film


def _safe(name: str, pixels: Pixels | None) -> Pixels | None:
    if pixels is None or isinstance(pixels, ImageFile):
        return pixels
    return OwnPixels(reader=_Reader(name), pixels=pixels)


def _text(value: Any) -> bool:
    """Whether it is text that can be written: bytes that were not UTF-8 may have become surrogates."""
    return isinstance(value, str) and (value.isascii() or not re.search("[\ud800-\udfff]", value))


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_text, value))


def _text_by_name(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_text(name) and _text(text) for name, text in value.items())


def _age(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= OLDEST)


def _film(value: Any) -> bool:
    if isinstance(value, ImageFile):
        return isinstance(value.path, Path)
    return value is None or (
        callable(getattr(value, "exists", None)) and callable(getattr(value, "read", None))
    )


_RECORD: dict[str, tuple[Callable[[Any], bool], str]] = {
    "source_id": (lambda value: _text(value) and value != "", "text that is not empty"),
    "image_id": (lambda value: _text(value) and value != "", "text that is not empty"),
    "study": (_text, "text"),
    "patient": (_text, "text"),
    "view": (_text, "text"),
    "sex": (lambda value: _text(value) and value in get_args(Sex), "'F', 'M' or ''"),
    "age": (_age, f"None or years from 0 to {OLDEST}, an int or a float"),
    "values": (_texts, "a tuple of text"),
    "text": (_text_by_name, "a dict of text by section"),
    "fields": (_text_by_name, "a dict of text by name"),
    "split": (lambda value: _text(value) and value in ("", *SPLITS), f"'' or one of {', '.join(SPLITS)}"),
    "pixels": (
        _film,
        "None, an ImageFile with a pathlib.Path, or an object with exists() and read(short_side)",
    ),
}
"""Field of Record -> what is right there, and how an error says it."""

_SOURCE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "records": (lambda value: isinstance(value, list), "a list of Record"),
    "text_sections": (
        lambda value: _texts(value) and all(re.fullmatch(SECTION_NAME, name) for name in value),
        "a tuple of names of lower-case letters, digits and _",
    ),
    "label_columns": (
        lambda value: _texts(value) and len(set(value)) == len(value) != 1,
        "a tuple of distinct names",
    ),
    "left_out": (
        lambda value: (
            isinstance(value, Mapping) and all(_text(k) and isinstance(n, int) for k, n in value.items())
        ),
        "a dict of counts by reason",
    ),
    "made_data": (lambda value: isinstance(value, bool), "True or False"),
    "labels_from": (_text, "text"),
    "labels_in_reports": (_text, "text"),
}


def _check_source(who: str, source: Any, recipe: Recipe) -> None:
    """Raise UserError for the first thing that is not as `Source` and `Record` have it; it quotes no content."""
    _check_fields(who, source, Source, _SOURCE)
    multilabel = recipe.labels.task == "multilabel"
    require(
        multilabel or not source.label_columns,
        f"{who}: label_columns needs labels.task: multilabel in the recipe",
    )
    first: dict[str, int] = {}
    for number, record in enumerate(source.records, start=1):
        _check_fields(f"{who}: record {number}", record, Record, _RECORD)
        given, columns = len(record.values), len(source.label_columns)
        require(
            given in (0, columns) if columns else multilabel or given == 1,
            f"{who}: record {number}: values has {given} label values; expected {columns or 1}, an empty text for an "
            "unknown one",
        )
        require(
            set(record.text) <= set(source.text_sections),
            f"{who}: record {number}: text has a section that the source's text_sections lack",
        )
        same = first.setdefault(record.source_id, number)
        require(same == number, f"{who}: records {same} and {number} have the same source_id")


def _check_can_be_sent(who: str, source: Source) -> None:
    """Of the first film: all are of one kind. Workers of `cxr-dist shard` read the films."""
    film = next((record.pixels for record in source.records if record.pixels is not None), None)
    try:
        ForkingPickler.dumps(film)
    except Exception as error:
        raise UserError(
            f"{who}: pixels cannot be sent to another process ({type(error).__name__}): expected an object of a class "
            "of the module, with paths and numbers in it, and no open file"
        ) from None


def _check_fields(
    where: str, value: Any, kind: type, expected: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    if not isinstance(value, kind):
        raise UserError(
            f"{where} is of type {type(value).__name__}; expected {kind.__module__}.{kind.__name__}"
        )
    for name, (is_right, said) in expected.items():
        found = getattr(value, name)
        if not is_right(found):
            raise UserError(f"{where}: {name} is of type {type(found).__name__}; expected {said}")
