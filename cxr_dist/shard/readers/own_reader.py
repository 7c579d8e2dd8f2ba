"""Call a reader of the user's own, and check every record that it returns.

    # reader.py
    def read(recipe: Recipe, folder: Path | None) -> Source: ...

    # recipe.yaml
    reader: reader.py:read

examples/own_reader has a complete reader. A shard folder records the reader's name and the sha256 of its file.
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
    """What `reader` in a recipe names: a function or another callable."""

    def __call__(self, recipe: Recipe, folder: Path | None, /) -> Source:
        """Return all records of the source; `folder` is --source, or None if it was not given.

        The records must depend only on the recipe and the folder, because each task of a job array reads them again.
        An image is a `format.image.ImageFile`, or any object with the methods of `shard.record.Pixels` that can be
        pickled. A UserError is shown unchanged; its message must not contain report text, ids or file names.
        """
        ...


def read_own(recipe: Recipe, folder: Path | None) -> Source:
    """Call the user's own reader; raises UserError if it raises an exception or violates the protocol."""
    name = recipe.reader
    reader: OwnReader = look_up("reader", name, {})
    with guarded("reader", name):
        source = reader(recipe, folder)
    _check_source(f"reader {name!r}", source, recipe)
    _check_can_be_sent(f"reader {name!r}", source)
    records = [dataclasses.replace(r, pixels=_safe(name, r.pixels)) for r in source.records]
    return dataclasses.replace(source, records=records, labels_from=source.labels_from or NOT_STATED)


class _Reader(str):
    """The name of a reader. Unpickling it loads the reader's module, so that its classes can be unpickled next."""

    def __reduce__(self) -> tuple[Callable[[str], "_Reader"], tuple[str]]:
        return _with_module, (str(self),)


def _with_module(name: str) -> _Reader:
    look_up("reader", name, {})
    return _Reader(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnPixels:
    """An image of the user's own class. Raises UserError, in any process, if it violates the protocol."""

    reader: _Reader  # must be pickled before `pixels`
    pixels: Pixels

    def exists(self) -> bool:
        """Whether the image exists."""
        with guarded("reader", self.reader):
            return bool(self.pixels.exists())

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Grey [H, W]; raises ImageProblem."""
        with guarded("reader", self.reader, ImageProblem):
            image = self.pixels.read(short_side)
        is_grey = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 2
        require(
            is_grey and image.size > 0 and max(image.shape) <= SIDE_LIMIT,
            f"reader {str(self.reader)!r}: read() of an image must return grey pixels, a NumPy array [H, W] of uint8 "
            f"with at most {SIDE_LIMIT} pixels per side",
        )
        return image


def _safe(name: str, pixels: Pixels | None) -> Pixels | None:
    if pixels is None or isinstance(pixels, ImageFile):
        return pixels
    return OwnPixels(reader=_Reader(name), pixels=pixels)


def _text(value: object) -> bool:
    """Whether the value is text that can be written as UTF-8, which surrogates of undecodable bytes cannot."""
    return isinstance(value, str) and (value.isascii() or not re.search("[\ud800-\udfff]", value))


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_text, value))


def _text_by_name(value: object) -> bool:
    return isinstance(value, Mapping) and all(_text(name) and _text(text) for name, text in value.items())


def _age(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= OLDEST)


def _pixels(value: object) -> bool:
    if isinstance(value, ImageFile):
        return isinstance(value.path, Path)
    return value is None or all(callable(getattr(value, name, None)) for name in ("exists", "read"))


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
        _pixels,
        "None, an ImageFile with a pathlib.Path, or an object with exists() and read(short_side)",
    ),
    "boxes": (lambda value: value == (), "an empty tuple: boxes come from the recipe's `boxes`"),
}
"""Field of Record -> whether a value is valid, and what an error says was expected."""

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
        lambda value: isinstance(value, Mapping) and all(_text(k) and isinstance(n, int) for k, n in value.items()),
        "a dict of counts by reason",
    ),
    "made_data": (lambda value: isinstance(value, bool), "True or False"),
    "boxes_left_out": (lambda value: value == {}, "an empty dict: boxes come from the recipe's `boxes`"),
    "labels_from": (_text, "text"),
    "labels_in_reports": (_text, "text"),
}


def _check_source(who: str, source: Any, recipe: Recipe) -> None:
    """Raise UserError for the first field that violates `Source` or `Record`; the message quotes no content."""
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
            f"{who}: record {number}: values has {given} label values; expected {columns or 1}, with an empty text for "
            "an unknown one",
        )
        require(
            set(record.text) <= set(source.text_sections),
            f"{who}: record {number}: text has a section that is not in the source's text_sections",
        )
        same = first.setdefault(record.source_id, number)
        require(same == number, f"{who}: records {same} and {number} have the same source_id")


def _check_can_be_sent(who: str, source: Source) -> None:
    """Pickle the first image, as is done to send images to the workers of `cxr-dist shard`."""
    first = next((record.pixels for record in source.records if record.pixels is not None), None)
    try:
        ForkingPickler.dumps(first)
    except Exception as error:
        raise UserError(
            f"{who}: pixels cannot be sent to another process ({type(error).__name__}): expected an object whose class "
            "is defined in the module and which holds paths and numbers, but no open file"
        ) from None


def _check_fields(
    where: str, value: Any, kind: type, expected: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    require(
        isinstance(value, kind),
        f"{where} is of type {type(value).__name__}; expected {kind.__module__}.{kind.__name__}",
    )
    for name, (is_valid, description) in expected.items():
        content = getattr(value, name)
        if not is_valid(content):
            raise UserError(f"{where}: {name} is of type {type(content).__name__}; expected {description}")
