"""Damaged JPEGs are refused, also where libjpeg only warns or does not notice; whole ones give Pillow's pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import UNREADABLE_IMAGE, ImageProblem
from cxr_dist.format.source_jpeg import check_cmyk, decode_strictly

HOLE = 4096


def textured(height=400, width=500):
    steps = np.random.default_rng(0).normal(0, 1, (height, width))
    return np.abs(np.cumsum(np.cumsum(steps, 0), 1)).astype(np.uint8)


def with_black_bands():
    image = textured(900, 1200)
    image[:300] = 0
    image[700:] = 12
    return image


def ramp():
    return (np.add.outer(np.arange(900), np.arange(1200)) // 9).astype(np.uint8)


def jpeg(image, mode="L", **options):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


WAYS = [
    ("L", {}),
    ("L", {"optimize": True}),
    ("L", {"progressive": True}),
    ("L", {"restart_marker_rows": 1}),
    ("RGB", {}),
    ("RGB", {"progressive": True}),
    ("RGB", {"keep_rgb": True, "subsampling": 0}),
]


@pytest.mark.parametrize(("mode", "options"), WAYS)
@pytest.mark.parametrize("make", [textured, with_black_bands, ramp, lambda: np.zeros((2000, 2000), np.uint8)])
def test_whole_images_give_pillows_pixels_at_each_scale(make, mode, options):
    data = jpeg(make(), mode, **options)
    for side in (50, 200, 4000):
        image = Image.open(io.BytesIO(data))
        image.draft("L", (side, side))
        expected = np.asarray(image.convert("L")).astype(int)
        found = decode_strictly(data, side)
        assert found.shape == expected.shape
        # If RGB is stored as such, libjpeg and Pillow round the luma in different ways.
        assert np.abs(found - expected).max() <= (1 if "keep_rgb" in options else 0)
    assert np.array_equal(decode_strictly(data + bytes(5000), 200), decode_strictly(data, 200))


@pytest.mark.parametrize(("mode", "options"), WAYS)
def test_no_hole_cut_or_padding_that_changes_the_image_is_decoded(mode, options):
    data, rng = jpeg(textured(), mode, **options), np.random.default_rng(1)
    whole, undone = decode_strictly(data, 4000), 0
    for start in rng.integers(0, len(data) - HOLE, 200):
        hole = data[:start] + bytes(HOLE) + data[start + HOLE :]
        cut, padded = data[:start], data[:start] + bytes(len(data) - start)
        for damaged in (hole, cut, padded):
            try:
                undone += int((decode_strictly(damaged, 4000) != whole).mean() > 0.01)
            except ValueError:
                continue
    assert undone == 0


def test_a_damaged_file_of_any_kind_is_left_out(tmp_path):
    png = io.BytesIO()
    Image.fromarray(textured()).save(png, "PNG")
    for name, whole in (("a.jpg", jpeg(textured())), ("a.png", png.getvalue()), ("c.jpg", jpeg(textured(), "CMYK"))):
        path, middle = tmp_path / name, len(whole) // 2
        path.write_bytes(whole)
        assert ImageFile(path=path).read(64).shape == (64, 80)
        flipped = bytearray(whole)
        flipped[middle] ^= 16
        swapped = whole[: middle - 5000] + whole[middle:-9] + whole[middle - 5000 : middle] + whole[-9:]
        damages = [whole[:middle] + bytes(HOLE) + whole[middle + HOLE :], whole[:middle], whole[:-8]]
        damages += [whole[:middle] + bytes(len(whole) - middle), swapped]
        damages += [bytes(flipped)] if name == "a.png" else []  # a JPEG with one other bit can be whole
        for number, damaged in enumerate(damages):
            path.write_bytes(damaged)
            with pytest.raises(ImageProblem, match=UNREADABLE_IMAGE):
                print(number, ImageFile(path=path).read(64))


def test_a_jpeg_in_four_colours_is_checked_too():
    data = jpeg(textured(), "CMYK")
    check_cmyk(data)
    with pytest.raises(ValueError, match="hole of zeros"):
        check_cmyk(data[:20_000] + bytes(HOLE) + data[20_000 + HOLE :])


def test_random_bytes_after_the_header_never_raise_anything_but_a_value_error():
    data, rng = jpeg(textured(), progressive=True), np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(2, 700, 5):
            damaged[place] = rng.integers(256)
        try:
            assert decode_strictly(bytes(damaged), 50).ndim == 2
        except ValueError:
            continue
