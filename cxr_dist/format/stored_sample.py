"""A sample as it is stored: the bytes of its members into grey pixels and a dict, or the reason why not.

KEY.jpg is its film, or the first of its study; KEY.1.jpg and so on are the others; KEY.json is the rest.

Nothing is believed of these bytes: a film is decoded only after its header was read, so that neither another
format nor a picture of a gigapixel reaches the decoder. Reasons never quote content.
"""

import json
from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PIXEL_LIMIT = 100_000_000
"""Of a source image, and of a stored film whose long side has no bound in the manifest. A source image with several
bytes a pixel may have half as many: decoding takes below 1 GiB."""

CUT_SHORT = "is cut short"
OTHER_BYTES = "does not have the bytes that were written (crc32)"
NO_FILM = "has a film that is not a grey JPEG"
LARGE_FILM = "has a film of more pixels than the manifest allows"
NO_FACTS = "has a JSON that is not an object with text sections"
REASONS = (CUT_SHORT, OTHER_BYTES, NO_FILM, LARGE_FILM, NO_FACTS)

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all Huffman


def film_name(view: int) -> str:
    """The name of a sample's `view`-th film, counted from 0: in the tar after KEY, and in WebDataset's dict."""
    return f"{view}.jpg" if view else "jpg"


def film_names(sample: Mapping[str, Any]) -> list[str]:
    """The names of the films that a sample has, in order."""
    return list(takewhile(sample.__contains__, map(film_name, count())))


def members_in(record: Any) -> list[tuple[str, int, int]]:
    """(name, offset, size) of each member of a sample, from its index record; the films first, the JSON last."""
    offsets, sizes = record["jpg_offset"].reshape(-1).tolist(), record["jpg_size"].reshape(-1).tolist()
    films = [(film_name(view), *place) for view, place in enumerate(zip(offsets, sizes, strict=True))]
    # A study's missing films have no bytes. The first is listed whatever its size: it should be there.
    films = films[:1] + [film for film in films[1:] if film[2]]
    return [*films, ("json", int(record["json_offset"]), int(record["json_size"]))]


class DamagedSample(Exception):
    """A sample that cannot be used; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def film_size(jpeg: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels from the header of a grey 8-bit JPEG; None for anything else (ITU T.81, B.2)."""
    place = 2
    while jpeg[:2] == b"\xff\xd8" and place + 10 <= len(jpeg) and jpeg[place] == 0xFF:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            bits, components = jpeg[place + 4], jpeg[place + 9]
            height, width = (int.from_bytes(jpeg[place + i : place + i + 2], "big") for i in (5, 7))
            return (height, width) if (bits, components) == (8, 1) and height and width else None
        place += 2 + length
    return None


def check_film(jpeg: bytes, short_side: int) -> None:
    """Raise DamagedSample where the header is not that of a film stored at this short side, pixels, or less."""
    size = film_size(jpeg)
    if size is None:
        raise DamagedSample(NO_FILM)
    if min(size) > short_side or size[0] * size[1] > PIXEL_LIMIT:
        raise DamagedSample(LARGE_FILM)


def decode_film(jpeg: bytes, short_side: int, flag: int = cv2.IMREAD_GRAYSCALE) -> NDArray[np.uint8]:
    """Grey pixels [h, w]; `flag` may ask for a reduced size. Raises DamagedSample."""
    check_film(jpeg, short_side)
    film = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag)
    if film is None:
        raise DamagedSample(NO_FILM)
    return np.asarray(film, np.uint8)


def decode_facts(data: bytes) -> dict[str, Any]:
    """The JSON object: labels, study, patient, view and the text sections. Raises DamagedSample."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):  # their messages may quote the report
        facts = None
    text = facts.get("text") if isinstance(facts, dict) else None
    if not isinstance(text, dict) or not all(isinstance(section, str) for section in text.values()):
        raise DamagedSample(NO_FACTS)
    assert isinstance(facts, dict)
    return facts
