"""The pointing game and the energy inside the boxes, on maps whose scores are known beforehand."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.box_scores import (
    POINTING_TOLERANCE,
    centred_gaussian,
    is_empty,
    points_at,
    random_tokens,
    share_inside,
)

SIZE = 100


def mask(*boxes: tuple[int, int, int, int, int], images: int = 1) -> np.ndarray:
    """[images, SIZE, SIZE] with boxes (image, left, top, right, bottom)."""
    filled = np.zeros((images, SIZE, SIZE), dtype=bool)
    for image, left, top, right, bottom in boxes:
        filled[image, top:bottom, left:right] = True
    return filled


@pytest.mark.parametrize(
    "boxes",
    [
        mask((0, 10, 20, 30, 50)),
        mask((0, 0, 0, 1, 1)),
        mask((0, 10, 20, 30, 50), (0, 70, 60, 90, 90)),
        mask((1, 10, 20, 30, 50), images=2),
    ],
)
def test_a_map_that_is_the_box_scores_1_and_its_opposite_0(boxes):
    heat = boxes.astype(np.float64)
    assert points_at(heat, boxes)
    assert share_inside(heat, boxes) == 1
    assert share_inside(1 - heat, boxes) == 0
    far = np.zeros_like(heat)
    far[0, 99, 99] = 1
    assert not points_at(far, boxes)


def test_a_uniform_map_has_the_share_of_the_area_inside():
    boxes = mask((0, 10, 20, 30, 50))
    assert share_inside(np.ones((1, 7, 7)), boxes) == pytest.approx(20 * 30 / SIZE**2)


@pytest.mark.parametrize(("distance", "hit"), [(0, True), (2, True), (3, True), (4, False)])
def test_the_highest_point_may_miss_by_three_hundredths_of_the_side(distance, hit):
    """The box ends at the edge of pixel 30; the centre of pixel 30 + d is d + 1/2 pixels away from it."""
    heat = np.zeros((1, SIZE, SIZE))
    heat[0, 30, 29 + distance] = 1
    assert POINTING_TOLERANCE * SIZE == 3
    assert points_at(heat, mask((0, 10, 20, 30, 50))) is hit


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_a_hit_is_a_distance_within_the_tolerance(seed):
    """scipy's exact distance transform is the reference: between centres, of which a hit may be half a pixel less."""
    random = np.random.default_rng(seed)
    left, top = random.integers(0, 80, 2)
    boxes = mask((0, left, top, left + random.integers(1, 20), top + random.integers(1, 20)))
    heat = random.random((1, SIZE, SIZE))
    row, column = np.unravel_index(heat.argmax(), (SIZE, SIZE))
    distance = distance_transform_edt(~boxes[0])[row, column]
    if distance <= POINTING_TOLERANCE * SIZE:
        assert points_at(heat, boxes)
    if distance > POINTING_TOLERANCE * SIZE + 1:
        assert not points_at(heat, boxes)


def test_the_point_of_a_coarse_map_is_the_centre_of_its_highest_part():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 3] = 1  # rows 0 to 24, columns 75 to 99; its centre is (12.5, 87.5)
    assert points_at(heat, mask((0, 87, 12, 88, 13)))
    assert points_at(heat, mask((0, 84, 12, 85, 13)))
    assert not points_at(heat, mask((0, 76, 0, 82, 6)))
    enlarged = cv2.resize(heat[0], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    boxes = mask((0, 60, 0, 100, 30))
    assert share_inside(heat, boxes) == pytest.approx(enlarged[boxes[0]].sum() / enlarged.sum())


def test_an_empty_map_points_at_nothing_and_the_other_image_does_not_count():
    boxes = mask((1, 10, 20, 30, 50), images=2)
    assert is_empty(np.zeros((2, 7, 7)))
    assert not points_at(np.zeros((2, 7, 7)), boxes)
    assert share_inside(np.zeros((2, 7, 7)), boxes) == 0
    heat = np.zeros((2, SIZE, SIZE))
    heat[0, 30, 20] = 1  # where the box is, but in the other image
    assert not points_at(heat, boxes)
    assert share_inside(heat, boxes) == 0


def test_the_centred_gaussian_points_at_the_middle():
    gaussian = centred_gaussian(1, SIZE)
    assert points_at(gaussian, mask((0, 48, 48, 52, 52)))
    assert not points_at(gaussian, mask((0, 10, 10, 30, 30)))
    one_deviation = gaussian[0, 50, 50 + SIZE // 4] / gaussian.max()
    assert one_deviation == pytest.approx(np.exp(-0.5), rel=0.02)


def test_random_maps_depend_on_their_words_alone_and_find_a_box_as_often_as_its_area():
    assert np.array_equal(random_tokens(2, (7, 7), 0, 5, 1), random_tokens(2, (7, 7), 0, 5, 1))
    assert not np.array_equal(random_tokens(2, (7, 7), 0, 5, 1), random_tokens(2, (7, 7), 0, 5, 2))
    boxes = mask((0, 0, 0, 50, SIZE))
    maps = [random_tokens(1, (10, 10), 0, sample, 0) for sample in range(400)]
    assert np.mean([points_at(heat, boxes) for heat in maps]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([share_inside(heat, boxes) for heat in maps]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("patients", [6, 12, 40])
def test_the_interval_of_a_mean_of_shares_covers_the_true_mean(patients):
    """Patients with one to three images, whose values are alike within a patient; their true mean is 0.2."""
    random, covered = np.random.default_rng(patients), 0
    for _ in range(400):
        counts = random.integers(1, 4, patients).astype(np.float64)
        own = random.beta(1, 4, patients)
        mixed = [
            np.where(random.random(int(n)) < 0.5, p, random.beta(1, 4, int(n))).sum()
            for n, p in zip(counts, own, strict=True)
        ]
        bounds = wilson.bounded_mean(np.array(mixed), counts)
        covered += bounds.low <= 0.2 <= bounds.high
    assert covered / 400 > 0.91


def test_the_interval_of_a_mean_has_a_width_where_nothing_varies_and_none_without_values():
    for value in (0.0, 0.3, 1.0):
        bounds = wilson.bounded_mean(np.full(5, value), np.ones(5))
        assert bounds.low <= value <= bounds.high
        assert bounds.high - bounds.low > 0.3
    assert wilson.bounded_mean(np.zeros(3), np.zeros(3)) is None
    narrow = wilson.bounded_mean(np.linspace(0.28, 0.32, 50), np.ones(50))
    assert narrow.high - narrow.low < 0.01
