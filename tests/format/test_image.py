"""Every kind of image file becomes a grey 8-bit image, or is reported as an ImageProblem with a reason."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_dist.format.image import ImageFile, encode_jpeg, shrink
from cxr_dist.format.left_out import MISSING_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_IMAGE, ImageProblem

RAMP = np.linspace(0, 255, 48, dtype=np.uint8)[None, :].repeat(32, axis=0)  # [32, 48], dark left to bright right


def read(path: Path, **settings) -> np.ndarray:
    return ImageFile(path=path, **settings).read(32)


def reason(path: Path) -> str:
    with pytest.raises(ImageProblem) as problem:
        read(path)
    return problem.value.reason


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("name", ["image.png", "image.jpg"])
def test_every_mode_gives_the_same_grey_whatever_the_file_ending(tmp_path, mode, name):
    Image.fromarray(RAMP).convert(mode).save(tmp_path / name, format="PNG")
    assert np.abs(read(tmp_path / name).astype(int) - RAMP).max() <= 1


def test_a_colour_jpeg_gives_its_luma(tmp_path):
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "image.png", format="JPEG", quality=98)
    assert np.abs(read(tmp_path / "image.png").astype(int) - RAMP).max() <= 3


def test_transparent_pixels_are_black_whatever_colour_they_hide(tmp_path):
    alpha = np.where(np.arange(48) < 24, 0, 255).astype(np.uint8)[None, :].repeat(32, axis=0)
    image = np.dstack([np.full((32, 48, 3), 200, np.uint8), alpha])
    Image.fromarray(image, "RGBA").save(tmp_path / "image.png")
    grey = read(tmp_path / "image.png")
    assert grey[:, :24].max() == 0
    assert grey[:, 24:].min() == 200


@pytest.mark.parametrize("top", [4095, 65535])
def test_16_bits_are_scaled_by_the_range_that_the_image_uses(tmp_path, top):
    deep = (RAMP.astype(np.float64) / 255 * top).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "image.png"), deep)
    assert np.abs(read(tmp_path / "image.png").astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_constant_image_can_be_read(tmp_path, dtype):
    cv2.imwrite(str(tmp_path / "image.png"), np.full((32, 48), 77, dtype))
    assert len(np.unique(read(tmp_path / "image.png"))) == 1


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a viewer rotates the image by 90 degrees clockwise
    Image.fromarray(RAMP).save(tmp_path / "image.jpg", quality=98, exif=exif)
    grey = read(tmp_path / "image.jpg")
    assert grey.shape == (48, 32)
    assert grey[0].mean() < 20
    assert grey[-1].mean() > 235


def test_monochrome1_is_inverted(tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), RAMP)
    assert np.array_equal(read(tmp_path / "image.png", inverted=True), 255 - RAMP)


def test_a_large_jpeg_decoded_at_reduced_size_is_close_to_scaling_by_area(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (40, 50), dtype=np.uint8), (1500, 1200), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "image.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    small = ImageFile(path=tmp_path / "image.jpg").read(128)
    assert small.shape == (128, 160)
    assert np.abs(small.astype(int) - shrink(image, 128)).mean() < 2


@given(st.integers(1, 80), st.integers(1, 80), st.integers(8, 64))
def test_shrinking_keeps_the_shape_and_never_enlarges(height, width, side):
    small = shrink(np.full((height, width), 90, np.uint8), side)
    assert min(small.shape) == min(side, height, width)
    assert abs(max(small.shape) - max(height, width) * min(1, side / min(height, width))) <= 0.5
    assert (small == 90).all()


def test_the_jpeg_is_grey_and_its_bytes_are_reproducible():
    data = encode_jpeg(RAMP, 92)
    assert data == encode_jpeg(RAMP.copy(), 92)
    assert Image.open(io.BytesIO(data)).mode == "L"


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(10_001, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path, sides):
    (tmp_path / "image.png").write_bytes(png_header(*sides))
    assert reason(tmp_path / "image.png") == TOO_LARGE_IMAGE


def test_a_file_that_is_not_a_whole_png_or_jpeg_is_reported(tmp_path):
    cv2.imwrite(str(tmp_path / "whole.png"), np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(RAMP).save(tmp_path / "script.jpg", format="EPS")
    Image.fromarray(RAMP).save(tmp_path / "image.png", format="BMP")
    for name in ("cut.png", "text.jpg", "empty.png", "script.jpg", "image.png"):
        assert reason(tmp_path / name) == UNREADABLE_IMAGE, name
    assert reason(tmp_path / "nowhere.png") == MISSING_IMAGE
