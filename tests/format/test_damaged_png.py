"""Flipped bits and exchanged blocks of a PNG are noticed, because each of its chunks has a CRC; a JPEG has none."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from benchmarks.damaged_images import flipped_bits, swapped_blocks
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import ImageProblem

END = 12  # bytes of the last chunk


def png(side):
    """Noise as a PNG with a comment and a resolution, which are chunks of their own."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    comment, file = PngImagePlugin.PngInfo(), io.BytesIO()
    comment.add_text("Comment", "synthetic")
    Image.fromarray(pixels).save(file, "PNG", pnginfo=comment, dpi=(300, 300))
    return file.getvalue()


def read(data, path):
    """Return the pixels; None if the image is refused."""
    path.write_bytes(data)
    try:
        return ImageFile(path=path).read(16)
    except ImageProblem:
        return None


def test_each_flipped_bit_of_a_png_is_noticed_or_changes_no_pixel(tmp_path):
    whole = png(16)
    pixels = read(whole, tmp_path / "image")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        found = read(bytes(damaged), tmp_path / "image")
        end_mark = bit // 8 >= len(whole) - END  # an empty chunk
        assert found is None or (end_mark and np.array_equal(found, pixels)), f"bit {bit} of {8 * len(whole)}"


@pytest.mark.parametrize("damage", [flipped_bits, swapped_blocks])
def test_random_damage_of_a_png_is_noticed(tmp_path, damage):
    whole, rng = png(160), np.random.default_rng(1)
    assert read(whole, tmp_path / "image") is not None
    for _ in range(200):
        damaged = damage(whole, rng)
        assert damaged == whole or damaged[-END:] != whole[-END:] or read(damaged, tmp_path / "image") is None
