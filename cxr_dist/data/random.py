"""Random numbers as a pure function of integers: the same on every machine, release, rank and worker.

A hash of (seed, epoch, draw, ...) needs no state, whereas NumPy's generators are slow to seed and their streams may
change between releases. The mixing step is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def hash64(*words: ArrayLike) -> NDArray[np.uint64]:
    """Mix integers (scalars or arrays that broadcast) into 64 uniform bits. The order of the words matters."""
    with np.errstate(over="ignore"):
        mixed: NDArray[np.uint64] = np.zeros((), np.uint64)
        for word in words:
            mixed = (mixed + np.asarray(word).astype(np.uint64)) + _GAMMA
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def uniform(*words: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each element of the broadcast words."""
    return (hash64(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integer_below(limit: int, *words: int) -> int:
    """A uniform integer in [0, limit). The bias of the modulo is below limit / 2^64."""
    return int(hash64(*words)) % limit


def permutation(length: int, *words: int) -> NDArray[np.int64]:
    """A permutation of range(length), given by the order of the hashes of (words, i)."""
    return np.argsort(hash64(*words, np.arange(length)), kind="stable").astype(np.int64)
