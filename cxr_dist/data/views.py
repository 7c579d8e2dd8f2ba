"""Map the images of a batch to its samples, which may have several images each. Pure functions of integers.

A batch holds only images that exist, sample by sample, and a table int64 [b, V] of their rows, padded with -1 for
samples with fewer than V images. A missing image therefore costs nothing and cannot enter BatchNorm's statistics. If
each sample has one image, there is no table (None), and row i belongs to sample i.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import hash64

MISSING = -1


def row_table(counts_of_samples: Sequence[int], views: int) -> NDArray[np.int64]:
    """The table [b, views] for samples with the given numbers of images, 1 to `views` each."""
    counts, places = np.asarray(counts_of_samples)[:, None], np.arange(views)
    first = np.cumsum(counts, axis=0) - counts
    return np.where(places < counts, first + places, MISSING).astype(np.int64)


def image_keys(keys: NDArray[np.uint64], table: NDArray[np.int64] | None) -> NDArray[np.uint64]:
    """A 64-bit key for each image [n] from the keys of the samples [b]. A sample's first image has the sample's key."""
    if table is None:
        return keys
    samples, views = np.nonzero(table != MISSING)
    return np.where(views == 0, keys[samples], hash64(keys[samples], views))


def partner_images(order: NDArray[np.int64], table: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The image that each image [n] is mixed with when sample i is mixed with sample order[i].

    It is the image in the same place of the partner, or the partner's first image if it has none there.
    """
    if table is None:
        return order
    samples, views = np.nonzero(table != MISSING)
    partners = table[order[samples]]
    same = np.take_along_axis(partners, views[:, None], axis=1)[:, 0]
    return np.where(same == MISSING, partners[:, 0], same)
