"""A distorted copy is nearer to its original than any other image is, and the search finds the true neighbours."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textured_images import DISTORTIONS, texture

from cxr_dist.shard.likeness import correlation, fingerprint, nearest_neighbours

IMAGES = [texture(seed) for seed in range(24)]
PRINTS = [fingerprint(image) for image in IMAGES]
HASHES = np.stack([each.hashes for each in PRINTS])


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_only_a_distorted_copy_is_nearest_and_correlates(distort: Callable):
    for number, image in enumerate(IMAGES):
        copy = fingerprint(distort(image))
        others = nearest_neighbours(copy.hashes[None], HASHES, 4)[0]
        assert others[0] == number
        correlations = [correlation(copy.thumbnail, PRINTS[other].thumbnail) for other in others]
        assert correlations[0] > 0.9
        assert max(correlations[1:]) < 0.6


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_nearest_neighbours_equals_a_full_search(num_images, k, seed):
    # Few bits are set, so that there are ties; at most 255 bits differ, as in real hashes.
    bits = np.random.default_rng(seed).random((num_images + 5, 2, 256)) < 0.02
    bits[..., 0] = True
    hashes = np.packbits(bits, axis=-1).view(np.uint64)
    queries, images = bits[:5], bits[5:]
    pairs = ((0, 0), (0, 1), (1, 0))
    distances = np.min([(queries[:, None, i] != images[None, :, j]).sum(-1) for i, j in pairs], axis=0)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
    assert np.array_equal(nearest_neighbours(hashes[:5], hashes[5:], k), expected)


def test_nearest_neighbours_searches_every_block(monkeypatch):
    expected = nearest_neighbours(HASHES, HASHES, 4)
    assert np.array_equal(expected[:, 0], np.arange(len(IMAGES)))
    monkeypatch.setattr("cxr_dist.shard.likeness._QUERIES", 5)
    monkeypatch.setattr("cxr_dist.shard.likeness._CANDIDATES", 7)
    assert np.array_equal(nearest_neighbours(HASHES, HASHES, 4), expected)


def test_equal_images_have_correlation_1_and_constant_images_0():
    blank = fingerprint(np.full((300, 200), 7, np.uint8)).thumbnail
    assert correlation(PRINTS[0].thumbnail, PRINTS[0].thumbnail) == pytest.approx(1)
    assert correlation(blank, blank) == correlation(blank, PRINTS[0].thumbnail) == 0


def test_the_hash_compares_the_low_frequencies_with_their_median():
    image = IMAGES[0]
    low = cv2.dct(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32))[:16, :16].ravel()
    bits = np.unpackbits(PRINTS[0].hashes[0].view(np.uint8)).astype(bool)
    assert np.array_equal(bits, low > np.median(low[1:]))
    assert 120 < bits.sum() < 136
