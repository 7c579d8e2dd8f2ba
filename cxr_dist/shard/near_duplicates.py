"""Find images that are in two splits of a shard folder under different keys.

A copy that was saved again, resized, brightened, slightly cropped or rotated by a degree is a leak that neither keys
nor patients show. Each image of the smaller split is compared with its nearest few of the other (likeness.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, ShardEntry, open_index
from cxr_dist.format.stored_sample import NOT_A_GREY_JPEG, members_in
from cxr_dist.shard.bar import image_progress
from cxr_dist.shard.likeness import THUMBNAIL_SIDE, Hashes, correlation, fingerprint, nearest_neighbours
from cxr_dist.shard.processes import in_order

_NEAREST = 4  # images that each image is compared with
_QUERIES = 1024  # images whose nearest neighbours a process searches at once
_PAIRS = 256  # comparisons that are sent to a process at once
_MOST, _LEAST = 0.2, 0.005  # 1 - correlation: never a duplicate above _MOST, always one below _LEAST
_SHARE = 0.25  # of the typical difference between different images; see `_limit`

Fingerprints = tuple[Hashes, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The fingerprints of one split's images, in the order of its samples."""

    shards: Sequence[ShardEntry]
    owners: NDArray[np.int64]
    """[images]: the sample of the split that each image belongs to."""
    hashes: Hashes
    thumbnails: NDArray[np.uint8]

    def place(self, image: int) -> str:
        """Return the shard file and the sample of an image."""
        sample = int(self.owners[image])
        for shard in self.shards:
            if sample < shard.samples:
                break
            sample -= shard.samples
        return f"{shard.file} sample {sample}"


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """The images of one split and their nearest neighbours in another."""

    few: str
    many: str
    neighbours: NDArray[np.int64]
    """[images of `few`, nearest]: positions of images of `many`."""
    unlike: NDArray[np.float64]
    """1 - correlation of each pair, of the same shape."""


def find_near_duplicates(folder: Path, manifest: Manifest, workers: int) -> list[str]:
    """Describe the near-duplicates of each pair of splits; `workers` processes search, 0 uses this one.

    The folder must be whole. If the split is by image, the images of a visit may be in several splits on purpose, and
    the result is empty.
    """
    if manifest.split_by == "image":
        return []
    splits = {name: _read(folder, manifest, name, workers) for name in manifest.splits}
    compared = [_compare(splits, pair, workers) for pair in combinations(splits, 2)]
    limit = _limit(compared)
    return [line for pair in compared for line in _described(splits, pair, limit)]


def _read(folder: Path, manifest: Manifest, name: str, workers: int) -> _Split:
    split, start = manifest.splits[name], 0
    open_one = partial(open_index, folder, num_labels=manifest.num_labels, views=manifest.views)
    sizes = (open_one(shard)["jpg_size"].reshape(shard.samples, -1) for shard in split.shards)
    images = np.concatenate([np.count_nonzero(size, axis=1) for size in sizes])
    owners = np.repeat(np.arange(len(images)), images)
    hashes = np.empty((len(owners), 2, 4), np.uint64)
    thumbnails = np.empty((len(owners), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)  # filled in place: no second copy
    fingerprints = partial(_fingerprints, folder=folder, open_one=open_one)
    with image_progress(f"Comparing images ({name})", len(owners)) as advance:
        for shard_hashes, shard_thumbnails in in_order(fingerprints, split.shards, workers, unit=1):
            part = slice(start, start := start + len(shard_hashes))
            hashes[part], thumbnails[part] = shard_hashes, shard_thumbnails
            advance(len(shard_hashes))
    return _Split(shards=split.shards, owners=owners, hashes=hashes, thumbnails=thumbnails)


def _fingerprints(shard: ShardEntry, folder: Path, open_one: Callable[[ShardEntry], NDArray[Any]]) -> Fingerprints:
    """Return the hashes [images, 2, 4] and thumbnails [images, 40, 40] of one shard."""
    prints = [fingerprint(image) for image in _images(folder / shard.file, open_one(shard))]
    return np.stack([each.hashes for each in prints]), np.stack([each.thumbnail for each in prints])


def _images(path: Path, index: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    with path.open("rb") as file:
        for number, record in enumerate(index):
            for _, offset, size in members_in(record)[:-1]:
                file.seek(offset)
                image = cv2.imdecode(np.frombuffer(file.read(size), np.uint8), cv2.IMREAD_GRAYSCALE)
                if image is None:
                    raise UserError(f"{path.name}: sample {number} {NOT_A_GREY_JPEG}")
                yield np.asarray(image, np.uint8)


def _compare(splits: Mapping[str, _Split], pair: tuple[str, str], workers: int) -> _Compared:
    few, many = sorted(pair, key=lambda name: len(splits[name].hashes))
    queries = splits[few].hashes
    blocks = (queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES))
    search = partial(nearest_neighbours, candidates=splits[many].hashes, k=_NEAREST)
    neighbours = np.concatenate(list(in_order(search, blocks, workers, unit=1)))
    pairs = (
        (splits[few].thumbnails[image], splits[many].thumbnails[other])
        for image, others in enumerate(neighbours)
        for other in others
    )
    unlike = np.fromiter(in_order(_unlike, pairs, workers, _PAIRS), np.float64, neighbours.size)
    return _Compared(few=few, many=many, neighbours=neighbours, unlike=unlike.reshape(neighbours.shape))


def _unlike(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> float:
    return 1 - correlation(*pair)


def _limit(compared: Sequence[_Compared]) -> float:
    """Return the value of 1 - correlation up to which two images count as one.

    It is measured in the folder itself, because the images of some data sets, above all synthetic ones, are more alike
    than others: the 5% quantile, over images, of the difference from the least alike neighbour, times _SHARE.
    """
    different = np.concatenate([pair.unlike.max(axis=1) for pair in compared])
    return float(np.clip(_SHARE * np.quantile(different, 0.05), _LEAST, _MOST))


def _described(splits: Mapping[str, _Split], pair: _Compared, limit: float) -> Iterator[str]:
    images, columns = np.nonzero(pair.unlike <= limit)
    if not len(images):
        return
    first = splits[pair.few].place(images[0])
    other = splits[pair.many].place(pair.neighbours[images[0], columns[0]])
    yield (
        f"{len(set(images.tolist()))} images of {pair.few} are near-duplicates of images of {pair.many}, first "
        f"{first} and {other}: give both the same patient in the source, or leave one out; if you have looked at them "
        "and they are harmless, use --near-duplicates false"
    )
