"""Decode a stored sample: the bytes of its members become grey pixels and a dict, or the reason why they cannot.

KEY.jpg is the image, or the first image of the study. KEY.1.jpg and so on are the others. KEY.json is the rest.

The bytes are not trusted: an image is decoded only after its header was checked, so that neither another format nor a
gigapixel image reaches the decoder. Reasons never quote content.
"""

import json
from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PIXEL_LIMIT = 100_000_000
"""The most pixels of a source image or a stored image. A source image with several bytes per pixel may have half as
many, so that decoding takes less than 1 GiB."""

CUT_SHORT = "is cut short"
OTHER_BYTES = "does not have the bytes that were written (crc32)"
NOT_A_GREY_JPEG = "has an image that is not a grey JPEG"
TOO_MANY_PIXELS = "has an image of more pixels than the manifest allows"
NO_FACTS = "has a JSON that is not an object with text sections"
BAD_BOXES = "has boxes that its shards cannot have"
REASONS = (CUT_SHORT, OTHER_BYTES, NOT_A_GREY_JPEG, TOO_MANY_PIXELS, NO_FACTS, BAD_BOXES)

_FRAMES = (0xC0, 0xC1, 0xC2)  # markers of baseline, extended and progressive frames with Huffman coding


def image_name(view: int) -> str:
    """Return the name of image `view` (0, 1, …) of a sample, as in the tar after KEY and in WebDataset's dict."""
    return f"{view}.jpg" if view else "jpg"


def image_names(sample: Mapping[str, Any]) -> list[str]:
    """Return the names of the images that a sample has, in order."""
    return list(takewhile(sample.__contains__, map(image_name, count())))


def members_in(record: np.void) -> list[tuple[str, int, int]]:
    """Return (name, offset, size) of each member of a sample from its index record; images first, the JSON last."""
    offsets, sizes = record["jpg_offset"].reshape(-1).tolist(), record["jpg_size"].reshape(-1).tolist()
    images = [
        (image_name(view), offset, size)
        for view, (offset, size) in enumerate(zip(offsets, sizes, strict=True))
        if view == 0 or size > 0  # a study's missing images have size 0; the first is never missing
    ]
    return [*images, ("json", int(record["json_offset"]), int(record["json_size"]))]


class DamagedSample(Exception):
    """A sample cannot be used; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return (height, width) in pixels from the header of a grey 8-bit JPEG, or None (ITU T.81, section B.2)."""
    place = 2
    while jpeg[:2] == b"\xff\xd8" and place + 10 <= len(jpeg) and jpeg[place] == 0xFF:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            bits, components = jpeg[place + 4], jpeg[place + 9]
            height, width = (int.from_bytes(jpeg[place + i : place + i + 2], "big") for i in (5, 7))
            return (height, width) if (bits, components) == (8, 1) and height and width else None
        place += 2 + length
    return None


def check_jpeg(jpeg: bytes, short_side: int) -> None:
    """Raise DamagedSample unless the header is that of a grey JPEG with a short side of at most `short_side` pixels."""
    size = jpeg_size(jpeg)
    if size is None:
        raise DamagedSample(NOT_A_GREY_JPEG)
    if min(size) > short_side or size[0] * size[1] > PIXEL_LIMIT:
        raise DamagedSample(TOO_MANY_PIXELS)


def decode_jpeg(jpeg: bytes, short_side: int, flag: int = cv2.IMREAD_GRAYSCALE) -> NDArray[np.uint8]:
    """Return grey pixels [h, w]; `flag` can ask OpenCV for a reduced size. Raises DamagedSample."""
    check_jpeg(jpeg, short_side)
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag)
    if pixels is None:
        raise DamagedSample(NOT_A_GREY_JPEG)
    return np.asarray(pixels, np.uint8)


def decode_facts(data: bytes) -> dict[str, Any]:
    """Return the JSON object with labels, study, patient, view and text sections. Raises DamagedSample."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):  # not chained, because the message may quote the report
        facts = None
    text = facts.get("text") if isinstance(facts, dict) else None
    if not isinstance(text, dict) or not all(isinstance(section, str) for section in text.values()):
        raise DamagedSample(NO_FACTS)
    assert isinstance(facts, dict)
    return facts
