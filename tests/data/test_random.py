"""Random numbers of integers: the published sequence of SplitMix64, and uniform over their whole range."""

import warnings

import numpy as np
import pytest

from cxr_dist.data.random import hash64, integer_below, permutation, uniform

GAMMA = 0x9E3779B97F4A7C15
# The first numbers of SplitMix64 from two seeds, as its implementations list them.
PUBLISHED = {
    0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F),
    1234567: (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821),
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_a_word_gives_the_published_numbers_of_splitmix64(seed):
    """The generator adds gamma to its state before each number, so number i of a seed is the hash of seed + i gamma."""
    states = [(seed + i * GAMMA) % 2**64 for i in range(len(PUBLISHED[seed]))]
    assert hash64(np.array(states, np.uint64)).tolist() == list(PUBLISHED[seed])


def test_further_words_are_added_to_the_hash_of_those_before():
    first = int(hash64(0))
    assert int(hash64(0, 5)) == int(hash64(np.array((first + 5) % 2**64, np.uint64)))
    assert len({int(hash64(0, 5)), int(hash64(5, 0)), int(hash64(5)), int(hash64(0, 5, 0))}) == 4


def test_numbers_below_one_and_below_a_limit_have_the_published_bits():
    number = PUBLISHED[1234567][0]
    assert uniform(1234567) == (number >> 11) / 2**53
    assert integer_below(1000, 1234567) == number % 1000
    largest = uniform(np.arange(20_000)).max()
    assert 1 - 1e-3 < largest < 1


def test_overflow_is_meant_and_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hash64(2**62, 3)


def test_a_permutation_follows_the_hashes():
    order = permutation(100, 3, 7)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(100))
    assert (np.diff(hash64(3, 7, order).astype(np.float64)) > 0).all()
