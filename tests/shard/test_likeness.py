"""A distorted copy is nearer to its film than any other film, and the search finds the true nearest."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from films import DISTORTIONS, texture
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.shard.likeness import correlation, fingerprint, nearest_neighbours

FILMS = [texture(seed) for seed in range(24)]
PRINTS = [fingerprint(film) for film in FILMS]
HASHES = np.stack([made.hashes for made in PRINTS])


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_a_distorted_copy_is_nearest_and_correlates_and_no_other_film_does(distort: Callable):
    for number, film in enumerate(FILMS):
        copy = fingerprint(distort(film))
        others = nearest_neighbours(copy.hashes[None], HASHES, 4)[0]
        assert others[0] == number
        correlations = [correlation(copy.thumbnail, PRINTS[other].thumbnail) for other in others]
        assert correlations[0] > 0.9
        assert max(correlations[1:]) < 0.6


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_nearest_is_a_full_search(num_films, k, seed):
    # Few different bits, so that there are ties; 255 bits at most, as in a hash.
    bits = np.random.default_rng(seed).random((num_films + 5, 2, 256)) < 0.02
    bits[..., 0] = True
    hashes = np.packbits(bits, axis=-1).view(np.uint64)
    queries, films = bits[:5], bits[5:]
    pairs = ((0, 0), (0, 1), (1, 0))
    distances = np.min([(queries[:, None, i] != films[None, :, j]).sum(-1) for i, j in pairs], axis=0)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
    assert np.array_equal(nearest_neighbours(hashes[:5], hashes[5:], k), expected)


def test_nearest_looks_into_every_block(monkeypatch):
    expected = nearest_neighbours(HASHES, HASHES, 4)
    assert np.array_equal(expected[:, 0], np.arange(len(FILMS)))
    monkeypatch.setattr("cxr_dist.shard.likeness._QUERIES", 5)
    monkeypatch.setattr("cxr_dist.shard.likeness._CANDIDATES", 7)
    assert np.array_equal(nearest_neighbours(HASHES, HASHES, 4), expected)


def test_equal_films_correlate_fully_and_blank_ones_not_at_all():
    blank = fingerprint(np.full((300, 200), 7, np.uint8)).thumbnail
    assert correlation(PRINTS[0].thumbnail, PRINTS[0].thumbnail) == pytest.approx(1)
    assert correlation(blank, blank) == correlation(blank, PRINTS[0].thumbnail) == 0


def test_the_hash_is_of_the_low_frequencies_about_their_median():
    film = FILMS[0]
    low = cv2.dct(cv2.resize(film, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32))[
        :16, :16
    ].ravel()
    bits = np.unpackbits(PRINTS[0].hashes[0].view(np.uint8)).astype(bool)
    assert np.array_equal(bits, low > np.median(low[1:]))
    assert 120 < bits.sum() < 136
