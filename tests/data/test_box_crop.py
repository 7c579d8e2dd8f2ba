"""A box moves as the square that it surrounds: through the centre crop, scaling, shift, flip, and black padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion

from cxr_dist.data.augment import Augmentation, warp
from cxr_dist.data.box_crop import corners_in_input, mask_of

CROP = Augmentation()
ONE = np.zeros(1, np.uint64)


def warped(shape: tuple[int, int], pixels: tuple[int, int, int, int], matrix: np.ndarray, size: int) -> np.ndarray:
    """[size, size], the network's input for a black image with a white rectangle (left, top, right, bottom)."""
    image = np.zeros(shape, np.uint8)
    image[pixels[1] : pixels[3], pixels[0] : pixels[2]] = 255
    out = np.empty((size, size), np.uint8)
    warp(image, matrix, out)
    return out


def moved(shape: tuple[int, int], pixels: tuple[int, int, int, int], matrix: np.ndarray) -> np.ndarray:
    (height, width), (left, top, right, bottom) = shape, pixels
    return corners_in_input((left / width, top / height, right / width, bottom / height), shape, matrix)


@pytest.mark.parametrize(
    ("shape", "pixels", "expected"),
    [
        ((40, 40), (10, 20, 30, 36), (10, 20, 30, 36)),
        ((40, 60), (10, 20, 30, 36), (0, 20, 20, 36)),  # a wide image loses 10 columns on either side
        ((60, 40), (10, 20, 30, 36), (10, 10, 30, 26)),  # and an upright one 10 rows
        ((80, 120), (20, 40, 60, 72), (0, 20, 20, 36)),  # twice as large
        ((20, 20), (5, 10, 15, 18), (10, 20, 30, 36)),  # smaller than the input
        ((40, 60), (0, 0, 10, 40), (-10, 0, 0, 40)),  # just outside
    ],
)
def test_corners_in_the_evaluation_crop_are_as_computed_by_hand(shape, pixels, expected):
    (matrix,) = CROP.matrices([shape], 40, ONE)
    np.testing.assert_allclose(moved(shape, pixels, matrix), expected, atol=1e-9)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """(height, width) of an image, and a rectangle in it."""
    height, width = draw(st.integers(30, 90)), draw(st.integers(30, 90))
    left, top = draw(st.integers(0, width - 8)), draw(st.integers(0, height - 8))
    return (height, width), (left, top, draw(st.integers(left + 8, width)), draw(st.integers(top + 8, height)))


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(24, 96))
def test_the_mask_of_a_box_is_the_square_that_the_network_sees(case, size):
    shape, pixels = case
    (matrix,) = CROP.matrices([shape], size, ONE)
    seen = warped(shape, pixels, matrix, size) > 127
    mask = mask_of(moved(shape, pixels, matrix), size)
    if mask is None:
        assert seen.sum() <= 2 * size  # at most a blurred edge
        return
    assert not (seen & ~binary_dilation(mask, np.ones((3, 3)))).any()
    assert not (binary_erosion(mask, np.ones((3, 3))) & ~seen).any()


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(32, 64), st.integers(0, 2**32))
def test_a_box_follows_zoom_shift_and_flip_into_black_padding(case, size, key):
    """Zoom shows more than the image, which is padded with black; the box stays at its square."""
    shape, pixels = case
    augmentation = Augmentation(shift=0.3, zoom=0.5, flip_probability=0.5)
    (matrix,) = augmentation.matrices([shape], size, np.array([key], np.uint64))
    seen = np.argwhere(warped(shape, pixels, matrix, size) > 127)
    corners = np.clip(moved(shape, pixels, matrix), 0, size)
    if min(corners[2] - corners[0], corners[3] - corners[1]) < 3:
        return
    top, left, bottom, right = *seen.min(axis=0), *(seen.max(axis=0) + 1)
    np.testing.assert_allclose((left, top, right, bottom), corners, atol=1.01)


def test_a_turned_box_is_the_rectangle_around_it():
    (matrix,) = Augmentation(rotation_degrees=45).matrices([(64, 64)], 64, np.array([5], np.uint64))
    pixels = (24, 24, 40, 40)
    seen = np.argwhere(warped((64, 64), pixels, matrix, 64) > 127)
    left, top, right, bottom = moved((64, 64), pixels, matrix)
    assert right - left > 16.5  # it is turned
    np.testing.assert_allclose((top, left), seen.min(axis=0), atol=1.5)
    np.testing.assert_allclose((bottom, right), seen.max(axis=0) + 1, atol=1.5)


def test_a_mask_has_the_pixels_whose_centre_is_inside_and_at_least_one():
    assert np.argwhere(mask_of(np.array([1.5, 2.0, 3.5, 3.0]), 8)).tolist() == [[2, 1], [2, 2]]
    assert np.argwhere(mask_of(np.array([1.6, 2.6, 1.9, 2.9]), 8)).tolist() == [[2, 1]]
    assert np.argwhere(mask_of(np.array([7.8, 7.8, 9.0, 9.0]), 8)).tolist() == [[7, 7]]
    assert mask_of(np.array([-5.0, 2.0, 0.0, 3.0]), 8) is None
    assert mask_of(np.array([0.0, 0.0, 8.0, 8.0]), 8).all()
