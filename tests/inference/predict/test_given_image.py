"""Images in memory give the pixels of the same image in a file, and arrays of another type or range are refused."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_dist.errors import UserError
from cxr_dist.inference.given_image import grey_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)


def saved(folder, image, name="image.png"):
    path = folder / name
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_path_text_bytes_and_pillow_image_are_the_same_image(tmp_path, mode):
    image = Image.fromarray(PIXELS.astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    path = saved(tmp_path, image)
    expected = grey_pixels(path, 32)
    for given in (str(path), path.read_bytes(), Image.open(path), image):
        assert np.array_equal(grey_pixels(given, 32), expected)


def test_a_jpeg_with_an_orientation_is_turned_and_the_pillow_image_is_not_changed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "image.jpg"
    Image.fromarray(PIXELS).save(path, exif=exif)
    image = Image.open(path)
    assert grey_pixels(image, 64).shape == grey_pixels(path, 64).shape == (50, 40)
    assert image.size == (50, 40)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS / np.float32(255),
        PIXELS.astype(np.float64) / 255,
        np.repeat(PIXELS[:, :, None], 3, axis=2),
        np.asfortranarray(PIXELS),
    ],
    ids=["uint8", "float32", "float64", "colour", "order"],
)
def test_arrays_are_the_image_that_they_hold(tmp_path, array):
    assert np.array_equal(grey_pixels(array, 64), grey_pixels(saved(tmp_path, Image.fromarray(PIXELS)), 64))


def test_an_array_of_16_bits_is_scaled_as_a_png_of_16_bits(tmp_path):
    deep = PIXELS.astype(np.uint16) * 100 + 7
    assert np.array_equal(grey_pixels(deep, 64), grey_pixels(saved(tmp_path, Image.fromarray(deep)), 64))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(np.int64), "array of int64; expected uint8 .0 to 255., uint16"),
        (PIXELS > 9, "array of bool; expected uint8"),
        (PIXELS.astype(np.float32), "values from 0 to 255; expected 0 .black. to 1"),
        (np.full((4, 4), np.nan), "values from nan to nan; expected 0"),
        (PIXELS[0], r"shape \[50\]; expected \[height, width\]"),
        (PIXELS[None], r"shape \[1, 40, 50\]"),
        (PIXELS[:0], r"shape \[0, 50\]"),
        (b"no image", "the image cannot be used: .*; expected a PNG, JPEG or DICOM file"),
        (None, "array of shape .*; expected"),
    ],
)
def test_other_types_shapes_and_ranges_are_refused(image, message):
    with pytest.raises(UserError, match=message):
        grey_pixels(image, 32)


def test_a_truncated_file_that_pillow_opened_is_refused(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(PIXELS).save(whole, format="PNG")
    image = Image.open(io.BytesIO(whole.getvalue()[:-200]))
    with pytest.raises(UserError, match="the image cannot be used"):
        grey_pixels(image, 32)
