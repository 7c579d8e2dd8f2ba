"""Samples of several films: which row of a batch's images is which film of which sample. Pure functions of integers.

A batch holds only films that exist, sample by sample, and a table int64 [b, V] of their rows: -1 where a sample has
fewer than V films. So a missing film has no pixels that anything could see, BatchNorm least of all, and costs nothing.
A batch of samples of one film each has no table (None): row i is sample i.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_dist.data.random import hash64

MISSING = -1


def row_table(films: Sequence[int], views: int) -> NDArray[np.int64]:
    """The table [b, views] for samples of 1 to `views` films."""
    counts, places = np.asarray(films)[:, None], np.arange(views)
    first = np.cumsum(counts, axis=0) - counts
    return np.where(places < counts, first + places, MISSING).astype(np.int64)


def film_keys(keys: NDArray[np.uint64], table: NDArray[np.int64] | None) -> NDArray[np.uint64]:
    """A 64-bit key for each film [n] from those of the samples [b]; a sample's first film has the sample's own."""
    if table is None:
        return keys
    samples, views = np.nonzero(table != MISSING)
    return np.where(views == 0, keys[samples], hash64(keys[samples], views))


def partner_films(order: NDArray[np.int64], table: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The film that each film [n] is mixed with, where sample i meets sample order[i].

    It is the partner's film of the same place, or its first where it has fewer.
    """
    if table is None:
        return order
    samples, views = np.nonzero(table != MISSING)
    partners = table[order[samples]]
    same = np.take_along_axis(partners, views[:, None], axis=1)[:, 0]
    return np.where(same == MISSING, partners[:, 0], same)


def as_array(table: torch.Tensor | None) -> NDArray[np.int64] | None:
    """The host's table of a batch."""
    return None if table is None else table.numpy()
