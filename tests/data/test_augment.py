"""The affine map is a centre crop without augmentation, stays in its ranges with it, and depends on the key alone."""

import dataclasses

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_dist.config.named import named_run
from cxr_dist.data.augment import Augmentation, jitter, warp


def matrix_of(ranges, shape, size, key):
    return ranges.matrices([shape], size, np.array([key], np.uint64))[0]


def test_without_augmentation_the_result_is_the_resized_centre_square():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (96, 160), np.uint8), (0, 0), 4)
    out = np.empty((96, 96), np.uint8)
    warp(image, matrix_of(Augmentation(), image.shape, 96, key=7), out)
    np.testing.assert_array_equal(out, image[:, 32:128])
    small = np.empty((48, 48), np.uint8)
    warp(image, matrix_of(Augmentation(), image.shape, 48, key=7), small)
    reference = cv2.resize(image[:, 32:128], (48, 48), interpolation=cv2.INTER_LINEAR)
    assert np.abs(small.astype(int) - reference).max() <= 2


@settings(max_examples=100)
@given(st.integers(0, 2**64 - 1), st.integers(40, 300), st.integers(40, 300))
def test_rotation_zoom_and_shift_stay_in_their_ranges(key, height, width):
    ranges = Augmentation(rotation_degrees=7, shift=0.05, zoom=0.1)
    matrix = matrix_of(ranges, (height, width), 64, key)
    side = min(height, width)
    scale = np.sqrt(np.linalg.det(matrix[:, :2])) * 64 / side
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    moved = matrix @ [31.5, 31.5, 1] - [(width - 1) / 2, (height - 1) / 2]
    assert 0.9 - 1e-9 <= scale <= 1.1 + 1e-9
    assert abs(angle) <= 7 + 1e-9
    assert np.abs(moved).max() <= 0.05 * side + 1e-9
    np.testing.assert_array_equal(matrix, matrix_of(ranges, (height, width), 64, key))


def test_the_map_of_an_image_does_not_depend_on_its_batch():
    ranges = Augmentation(rotation_degrees=7, shift=0.05, zoom=0.1, flip_probability=0.5)
    shapes, keys = [(40, 60), (80, 50), (64, 64)], np.array([3, 2**63, 11], np.uint64)
    for row, matrix in enumerate(ranges.matrices(shapes, 32, keys)):
        np.testing.assert_array_equal(matrix, matrix_of(ranges, shapes[row], 32, int(keys[row])))


def test_a_flip_with_probability_one_mirrors_the_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    out = np.empty_like(image)
    warp(image, matrix_of(Augmentation(flip_probability=1.0), image.shape, 32, key=3), out)
    np.testing.assert_array_equal(out, image[:, ::-1])


def test_jitter_depends_on_the_key_and_not_on_the_batch():
    images = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    keys = np.arange(6, dtype=np.uint64) * np.uint64(2**60)
    whole = jitter(images, keys, brightness=0.4, contrast=0.1)
    assert torch.equal(jitter(images[2:4], keys[2:4], brightness=0.4, contrast=0.1), whole[2:4])
    assert torch.equal(jitter(images, keys, brightness=0.0, contrast=0.0), images)
    assert (whole - images).abs().max() > 0.01


def test_contrast_is_a_factor_about_the_mean_and_brightness_an_addend_up_to_their_ranges():
    images = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).expand(200, 1, 1, 3)
    changed = jitter(images, np.arange(200, dtype=np.uint64), brightness=0.4, contrast=0.1)[:, 0, 0]
    addend = changed[:, 1]
    factor = changed[:, 2] - changed[:, 1]
    torch.testing.assert_close(changed[:, 1] - changed[:, 0], factor / 2)
    # The extremes of 200 uniform numbers: outside these bounds with a probability below 1e-4.
    for values, middle, half in ((addend, 0.0, 0.4), (factor / 2, 1.0, 0.1)):
        assert middle - half <= values.min() < middle - 0.9 * half
        assert middle + 0.9 * half < values.max() <= middle + half
    assert abs(float(np.corrcoef(addend, factor)[0, 1])) < 0.3


def test_all_changes_reach_nearly_to_the_ends_of_their_ranges_and_are_independent():
    ranges, keys = Augmentation(rotation_degrees=7, shift=0.05, zoom=0.1), np.arange(200, dtype=np.uint64)
    matrices = ranges.matrices([(100, 160)] * 200, 64, keys)
    changed = jitter(torch.tensor([0.0, 1.0]).expand(200, 1, 1, 2), keys, brightness=1.0, contrast=1.0)[:, 0, 0].numpy()
    flipped = Augmentation(flip_probability=0.5).matrices([(64, 64)] * 200, 64, keys)[:, 0, 0]
    moved = matrices @ [31.5, 31.5, 1] - [79.5, 49.5]
    drawn = {
        "rotation": np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])) / 7,
        "zoom": (np.sqrt(np.linalg.det(matrices[:, :, :2])) * 64 / 100 - 1) / 0.1,
        "shift across": moved[:, 0] / 5,
        "shift down": moved[:, 1] / 5,
        "brightness": changed[:, 0],
        "contrast": changed[:, 1] - changed[:, 0] - 1,
        "flip": np.sign(flipped),
    }
    for name, values in drawn.items():
        assert values.min() < -0.9, name
        assert values.max() > 0.9, name
    assert np.abs(np.corrcoef(list(drawn.values())) - np.eye(7)).max() < 0.3  # they are independent


def test_the_training_augmentation_has_each_range_of_the_configuration():
    ranges = {"rotation_degrees": 3.0, "shift": 0.04, "zoom": 0.05, "flip_probability": 0.06}
    config = dataclasses.replace(named_run("demo").data, **ranges)
    assert dataclasses.asdict(Augmentation.of(config)) == ranges
