"""Decode JPEGs that come from elsewhere, and refuse damaged ones.

A JPEG has no checksum. libjpeg warns of most damage and goes on, and Pillow and OpenCV drop its warnings; simplejpeg
turns them into errors. One hole of zeros in a hundred decodes to exactly as many blocks as the bytes that were there,
so that libjpeg does not warn; `_has_hole` finds these.
"""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxr_dist.format.stored_sample import PIXEL_LIMIT

_FRAMES, _PROGRESSIVE, _TABLES, _SCAN, _END = (0xC0, 0xC1, 0xC2), 0xC2, 0xC4, 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # ends the compressed data of a scan
_AC = 16  # the number of the first table of AC coefficients; those of DC begin at 0
_SHORT, _LONG = 64, 1024  # zero bytes in a row


def decode_strictly(data: bytes, least_side: int) -> NDArray[np.uint8]:
    """Return the luma [H, W] at 1/8, 1/4, 1/2 or the whole of its size, whose short side is at least `least_side`.

    An image that is smaller than `least_side` is returned at its size. Raises ValueError for a damaged file.
    """
    height, width = _checked_size(data)
    part = next(part for part in (8, 4, 2, 1) if min(height, width) // part >= least_side or part == 1)
    sides = {"min_height": math.ceil(height / part), "min_width": math.ceil(width / part)}
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", **sides)[:, :, 0], np.uint8)


def check_cmyk(data: bytes) -> None:
    """Raise ValueError for a damaged file in four colours."""
    _checked_size(data)
    simplejpeg.decode_jpeg(data, colorspace="CMYK")


def _checked_size(data: bytes) -> tuple[int, int]:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if height * width > PIXEL_LIMIT:
        raise ValueError("more pixels than the header that Pillow read")
    if _has_hole(data):
        raise ValueError("a hole of zeros in the compressed data")
    return height, width


def _has_hole(data: bytes) -> bool:
    """Whether a scan has more zero bytes in a row than an encoder writes."""
    progressive, first = False, dict[int, int]()
    for marker, content, compressed in _segments(data):
        if marker == _TABLES:
            first |= _first_symbols(content)
        elif marker in _FRAMES:
            progressive = marker == _PROGRESSIVE
        elif marker == _SCAN:
            least = _least_hole(content, first, progressive)
            if least and data.find(bytes(least), *compressed) >= 0:
                return True
    return False


def _least_hole(scan: bytes, first: Mapping[int, int], progressive: bool) -> int:
    """Return how many zero bytes in a row show a hole in a scan; 0 if no number does.

    Zeros are the first code of each Huffman table (ITU T.81, annex C). In a table whose first code means "brightness as
    before" (DC) or "no more details" (AC), they stand for an area of one shade. If that is so in all tables, a hole has
    more blocks than the bytes that it replaces, and libjpeg warns. If not, zeros stand for a pattern that no image has.
    """
    tables, (begin, _, bits) = scan[2:-3:2], scan[-3:]  # each of `tables` has the numbers of a DC and an AC table
    dc = {first.get(pair >> 4) for pair in tables}
    ac = {first.get(_AC + pair % 16) for pair in tables}
    if not progressive:
        return 0 if dc | ac == {0} else _SHORT
    refines = bits >= 16
    if begin == 0:  # brightness
        return 0 if refines or dc == {0} else _SHORT
    # An encoder writes a long area without details as one number, but some do not, and details of a ramp are refined by
    # zeros.
    return _LONG if refines or ac == {0} else _SHORT


def _segments(data: bytes) -> Iterator[tuple[int, bytes, tuple[int, int]]]:
    """Yield (marker, content, range of the compressed data that follow) of each segment (ITU T.81, annex B)."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _END:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        start = place + 2 + length
        following = _MARKER.search(data, start) if marker == _SCAN else None
        content, place = data[place + 4 : start], start
        if marker == _SCAN:
            place = following.start() if following else len(data)
        yield marker, content, (start, place)


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Return the symbol of the code 0, 00, 000, … of each Huffman table; AC tables have the numbers 16 and up."""
    first = {}
    while len(tables) > 17:
        first[tables[0]] = tables[17]
        tables = tables[17 + sum(tables[1:17]) :]
    return first
