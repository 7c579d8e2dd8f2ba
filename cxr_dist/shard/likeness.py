"""Whether two films are one: pixels into a small fingerprint, fingerprints into nearest films and a correlation.

All chests look alike, so a perceptual hash alone cannot tell. It finds the few films to compare; these are laid
over each other, and the correlation of what remains without the coarse shades, which any two chests share, decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

SIDE = 40  # height and width of a thumbnail, pixels
_HASH_SIDE = 16  # 16 × 16 lowest frequencies: 256 bits
_MARGIN = 0.025  # share of each side that the second hash leaves out
_COARSE = 1.25  # deviation of the Gaussian that is taken away, thumbnail pixels
_EDGE = 3  # thumbnail pixels at each side that are not compared
_ITERATIONS = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
_QUERIES, _FILMS = 32, 8192  # block of distances at once: 2 MiB per word, which stays in the cache


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is kept of a film to find it again."""

    hashes: Words
    """[2, 4]: 256 bits of the whole film, and of the film without its margin."""
    thumbnail: NDArray[np.uint8]
    """[40, 40], 0 black to 255 white."""


def fingerprint(film: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of a grey film [H, W]."""
    y, x = (round(side * _MARGIN) for side in film.shape)
    inner = film[y : len(film) - y, x : film.shape[1] - x]
    return Fingerprint(
        hashes=np.stack([_hash(film), _hash(inner)]),
        thumbnail=np.asarray(cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8),
    )


def _hash(film: NDArray[np.uint8]) -> Words:
    """pHash (Zauner 2010) of 256 bits, [4]: signs of the low DCT frequencies about their median."""
    small = cv2.resize(film, (4 * _HASH_SIDE, 4 * _HASH_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:_HASH_SIDE, :_HASH_SIDE].ravel()
    return np.packbits(low > np.median(low[1:])).view(np.uint64)


def nearest(queries: Words, films: Words, k: int) -> NDArray[np.int64]:
    """For each query [q, 2, 4] the `k` nearest films of [n, 2, 4], or all n < k: [q, k], nearest first.

    A distance is the number of differing bits, the least of whole to whole, whole to margin-less and the reverse,
    so that a film is near its own crop. Equal distances go to the film that comes first.
    """
    rows = [_nearest_few(queries[i : i + _QUERIES], films, k) for i in range(0, len(queries), _QUERIES)]
    return np.concatenate(rows) if rows else np.zeros((0, min(k, len(films))), np.int64)


def _nearest_few(queries: Words, films: Words, k: int) -> NDArray[np.int64]:
    best = np.zeros((len(queries), 0), np.uint64)
    for start in range(0, len(films), _FILMS):
        block = films[start : start + _FILMS]
        # Distance and number in one integer: one partition finds the nearest and breaks ties.
        numbered = _distances(queries, block).astype(np.uint64) << np.uint64(32)
        numbered |= np.arange(start, start + len(block), dtype=np.uint64)
        both = np.concatenate([best, numbered], axis=1)
        best = np.partition(both, k - 1, axis=1)[:, :k] if both.shape[1] > k else both
    return (np.sort(best, axis=1) & np.uint64(2**32 - 1)).astype(np.int64)


def _distances(queries: Words, films: Words) -> NDArray[np.uint8]:
    """Bits that differ, [q, n]; at most 255, because at most half of a hash's bits are set besides the first."""
    whole = _differing(queries[:, 0], films[:, 0])
    for i, j in ((0, 1), (1, 0)):
        np.minimum(whole, _differing(queries[:, i], films[:, j]), out=whole)
    return whole


def _differing(queries: Words, films: Words) -> NDArray[np.uint8]:
    total = np.zeros((len(queries), len(films)), np.uint8)
    for query, film in zip(queries.T, films.T, strict=True):
        total += np.bitwise_count(query[:, None] ^ film.copy())  # in one piece: three times as fast
    return total


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How alike the details of two thumbnails [40, 40] are, -1 to 1: the better of as they are and registered.

    Registered: the affine map by enhanced correlation (Evangelidis and Psarakis 2008). A film of one grey has no
    details: 0.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    return max(_detail_correlation(a, found) for found in (b, *_registered(a, b)))


def _registered(a: NDArray[np.float32], b: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """`b` laid over `a`; nothing where that does not converge, as with films that have little in common."""
    try:
        _, warp = cv2.findTransformECC(
            a, b, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, _ITERATIONS, None, 3
        )
    except cv2.error:
        return
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    yield np.asarray(
        cv2.warpAffine(b, warp, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _detail_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = _details(a), _details(b)
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x * y).sum()) / scale if scale > 1 else 0.0


def _details(thumbnail: NDArray[np.float32]) -> NDArray[np.float32]:
    fine = thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), _COARSE)
    fine = fine[_EDGE:-_EDGE, _EDGE:-_EDGE]
    return np.asarray(fine - fine.mean(), np.float32)
