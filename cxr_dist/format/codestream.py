"""Read the size of a compressed image from its own header, before a decoder allocates memory for it.

Knows the frames of JPEG, lossless JPEG and JPEG-LS (ITU T.81, annex B; ITU T.87, annex C) and the size marker of
JPEG 2000 (ITU T.800, annex A), bare or inside a JP2 file.
"""

_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_START_OF_2000 = b"\xff\x4f\xff\x51"
_MOST_TILES = 4096


def jpeg_frame_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG, lossless JPEG or JPEG-LS of one component; None for anything else."""
    place = 2
    while data[:2] == b"\xff\xd8" and place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[place + i : place + i + 2], "big") for i in (5, 7))
            return (height, width) if data[place + 9] == 1 and height and width else None
        place += (
            1 if marker == 0xFF else 2 if marker in _ALONE else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        )
    return None


def jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG 2000 or HTJ2K image of one component; None for anything else."""
    start = data.find(_START_OF_2000, 0, 4096)
    sizes = data[start + 8 : start + 42]
    if start < 0 or len(sizes) < 34:
        return None
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 32, 4)
    )
    components = int.from_bytes(sizes[32:34], "big")
    if components != 1 or not (tile_width and tile_height) or right <= left or bottom <= top:
        return None
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    return (bottom - top, right - left) if 0 < tiles <= _MOST_TILES else None
