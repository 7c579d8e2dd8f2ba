"""Decide whether two images show the same radiograph, by fingerprints and the correlation of details.

All chest radiographs look alike, so that a perceptual hash alone cannot decide. The hash finds a few candidates. These
are registered to the image, and the correlation decides after the coarse shades, which all chests share, are removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
"""256-bit hashes, each in four words of 64 bits."""

THUMBNAIL_SIDE = 40  # height and width of a thumbnail, pixels
_HASH_SIDE = 16  # the 16 × 16 lowest frequencies give 256 bits
_MARGIN = 0.025  # share of the height and width that the second hash leaves out at each side
_COARSE = 1.25  # standard deviation, in thumbnail pixels, of the Gaussian blur that is subtracted
_EDGE = 3  # thumbnail pixels at each side that are not compared
_ITERATIONS = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
_QUERIES, _CANDIDATES = 32, 8192  # block of distances computed at once: 2 MiB per word, which fits the cache


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is stored of an image to recognise it."""

    hashes: Hashes
    """[2, 4]: the hash of the whole image, and of the image without its margin."""
    thumbnail: NDArray[np.uint8]
    """[40, 40], 0 black to 255 white."""


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Compute the fingerprint of a grey image [H, W]."""
    y, x = (round(side * _MARGIN) for side in image.shape)
    inner = image[y : len(image) - y, x : image.shape[1] - x]
    thumbnail = cv2.resize(image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    hashes = np.stack([_hash(image), _hash(inner)])
    return Fingerprint(hashes=hashes, thumbnail=np.asarray(thumbnail, np.uint8))


def _hash(image: NDArray[np.uint8]) -> Hashes:
    """Compute the pHash (Zauner 2010), [4]: whether each low DCT frequency is above their median."""
    small = cv2.resize(image, (4 * _HASH_SIDE, 4 * _HASH_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:_HASH_SIDE, :_HASH_SIDE].ravel()
    return np.packbits(low > np.median(low[1:])).view(np.uint64)


def nearest_neighbours(queries: Hashes, candidates: Hashes, k: int) -> NDArray[np.int64]:
    """Return the positions of the `k` nearest of the candidates [n, 2, 4] for each query [q, 2, 4], nearest first.

    The shape is [q, min(k, n)]. The distance is the smallest number of differing bits of whole to whole, whole to
    margin-less and margin-less to whole image, so that an image is near its own crop. Ties go to the first candidate.
    """
    rows = [_nearest_of_few(queries[i : i + _QUERIES], candidates, k) for i in range(0, len(queries), _QUERIES)]
    return np.concatenate(rows) if rows else np.zeros((0, min(k, len(candidates))), np.int64)


def _nearest_of_few(queries: Hashes, candidates: Hashes, k: int) -> NDArray[np.int64]:
    best = np.zeros((len(queries), 0), np.uint64)
    for start in range(0, len(candidates), _CANDIDATES):
        block = candidates[start : start + _CANDIDATES]
        # One integer holds distance and position, so that a single partition finds the nearest and breaks ties.
        numbered = _distances(queries, block).astype(np.uint64) << np.uint64(32)
        numbered |= np.arange(start, start + len(block), dtype=np.uint64)
        both = np.concatenate([best, numbered], axis=1)
        best = np.partition(both, k - 1, axis=1)[:, :k] if both.shape[1] > k else both
    return (np.sort(best, axis=1) & np.uint64(2**32 - 1)).astype(np.int64)


def _distances(queries: Hashes, candidates: Hashes) -> NDArray[np.uint8]:
    """Count differing bits, [q, n]; at most 255, because apart from the first at most half of a hash's bits are set."""
    least = np.full((len(queries), len(candidates)), 255, np.uint8)
    for i, j in ((0, 0), (0, 1), (1, 0)):
        differing = np.zeros_like(least)
        for query, candidate in zip(queries[:, i].T, candidates[:, j].T, strict=True):
            differing += np.bitwise_count(query[:, None] ^ candidate.copy())  # a contiguous copy is much faster
        np.minimum(least, differing, out=least)
    return least


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlate the details of two thumbnails [40, 40], as they are and registered; return the larger value, -1 to 1.

    The registration is affine, by enhanced correlation (Evangelidis and Psarakis 2008). A constant image has no
    details: the result is 0.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    return max(_detail_correlation(a, other) for other in (b, *_registered(a, b)))


def _registered(a: NDArray[np.float32], b: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield `b` registered to `a`, or nothing if that does not converge, as for images with little in common."""
    try:
        _, warp = cv2.findTransformECC(a, b, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, _ITERATIONS, None, 3)
    except cv2.error:
        return
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    yield np.asarray(cv2.warpAffine(b, warp, b.shape, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _detail_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = _details(a), _details(b)
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x * y).sum()) / scale if scale > 1 else 0.0


def _details(thumbnail: NDArray[np.float32]) -> NDArray[np.float32]:
    fine = thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), _COARSE)
    fine = fine[_EDGE:-_EDGE, _EDGE:-_EDGE]
    return np.asarray(fine - fine.mean(), np.float32)
