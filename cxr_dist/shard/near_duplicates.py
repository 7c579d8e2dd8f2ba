"""Films that are in two splits under different keys: a shard folder in, a line per pair of splits out.

A copy that was saved again, resized, brightened, cropped a little or turned by a degree is a leak that neither
keys nor patients show. For each film of the smaller split the few nearest of the other are compared (likeness.py).
"""

from collections.abc import Callable, Iterator, Sequence
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
from cxr_dist.format.stored_sample import NO_FILM, members_in
from cxr_dist.shard.likeness import SIDE, Words, correlation, fingerprint, nearest
from cxr_dist.shard.processes import in_order

_NEAREST = 4  # films compared with each
_QUERIES = 1024  # films whose nearest are looked for at once
_PAIRS = 256  # comparisons that are sent to a process at once
_MOST, _LEAST = 0.2, 0.005  # 1 - correlation: never a duplicate above, always one below
_SHARE = 0.25

Fingerprints = tuple[Words, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The fingerprints of one split's films, in the order of its samples."""

    shards: Sequence[ShardEntry]
    owners: NDArray[np.int64]
    """[films]: the sample of the split that each film belongs to."""
    hashes: Words
    thumbnails: NDArray[np.uint8]

    def place(self, number: int) -> str:
        """Shard file and sample of the `number`-th film."""
        number = int(self.owners[number])
        for shard in self.shards:
            if number < shard.samples:
                break
            number -= shard.samples
        return f"{shard.file} sample {number}"


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """The films of one split beside their nearest in another."""

    few: str
    many: str
    neighbours: NDArray[np.int64]
    """[films of `few`, nearest]: numbers of films of `many`."""
    unlike: NDArray[np.float64]
    """1 - correlation, of the same shape."""


def find_near_duplicates(folder: Path, manifest: Manifest, workers: int) -> list[str]:
    """What films are in two splits; `workers` processes, 0 for none but this one. The folder must be whole.

    Nothing where the split is by image: then the films of a visit are on both sides by choice.
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
    films = np.concatenate([_films_per_sample(open_one(shard)) for shard in split.shards])
    owners = np.repeat(np.arange(len(films)), films)
    hashes = np.empty((len(owners), 2, 4), np.uint64)
    thumbnails = np.empty((len(owners), SIDE, SIDE), np.uint8)  # 1.6 kB a film: no second copy
    fingerprints = partial(_fingerprints, folder=folder, open_one=open_one)
    for some_hashes, some_thumbnails in in_order(fingerprints, split.shards, workers, unit=1):
        part = slice(start, start := start + len(some_hashes))
        hashes[part], thumbnails[part] = some_hashes, some_thumbnails
    return _Split(shards=split.shards, owners=owners, hashes=hashes, thumbnails=thumbnails)


def _films_per_sample(index: NDArray[Any]) -> NDArray[np.int64]:
    """int64 [samples]."""
    films: NDArray[np.int64] = np.count_nonzero(index["jpg_size"].reshape(len(index), -1), axis=1)
    return films


def _fingerprints(
    shard: ShardEntry, folder: Path, open_one: Callable[[ShardEntry], NDArray[Any]]
) -> Fingerprints:
    """Hashes [films, 2, 4] and thumbnails [films, 40, 40] of one shard."""
    found = [fingerprint(film) for film in _films(folder / shard.file, open_one(shard))]
    return np.stack([f.hashes for f in found]), np.stack([f.thumbnail for f in found])


def _films(path: Path, index: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    with path.open("rb") as file:
        for number, record in enumerate(index):
            for _, offset, size in members_in(record)[:-1]:
                file.seek(offset)
                film = cv2.imdecode(np.frombuffer(file.read(size), np.uint8), cv2.IMREAD_GRAYSCALE)
                if film is None:
                    raise UserError(f"{path.name}: sample {number} {NO_FILM}")
                yield np.asarray(film, np.uint8)


def _compare(splits: dict[str, _Split], pair: tuple[str, str], workers: int) -> _Compared:
    few, many = sorted(pair, key=lambda name: len(splits[name].hashes))
    queries = splits[few].hashes
    some = (queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES))
    search = partial(nearest, films=splits[many].hashes, k=_NEAREST)
    neighbours = np.concatenate(list(in_order(search, some, workers, unit=1)))
    pairs = (
        (splits[few].thumbnails[film], splits[many].thumbnails[other])
        for film, others in enumerate(neighbours)
        for other in others
    )
    unlike = np.fromiter(in_order(_unlike, pairs, workers, _PAIRS), np.float64, neighbours.size)
    return _Compared(few=few, many=many, neighbours=neighbours, unlike=unlike.reshape(neighbours.shape))


def _unlike(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> float:
    return 1 - correlation(*pair)


def _limit(compared: Sequence[_Compared]) -> float:
    """The 1 - correlation up to which two films are one.

    Measured from the folder itself, because some films are more alike than others, made ones above all: a share of
    what the least alike of a film's nearest differ by, in the 5% of films where that is least.
    """
    different = np.concatenate([pair.unlike.max(axis=1) for pair in compared])
    return float(np.clip(_SHARE * np.quantile(different, 0.05), _LEAST, _MOST))


def _described(splits: dict[str, _Split], pair: _Compared, limit: float) -> Iterator[str]:
    films, columns = np.nonzero(pair.unlike <= limit)
    if not len(films):
        return
    others = pair.neighbours[films, columns]
    first, other = splits[pair.few].place(films[0]), splits[pair.many].place(others[0])
    yield (
        f"{len(set(films.tolist()))} films of {pair.few} are near-duplicates of films of {pair.many}, first "
        f"{first} and {other}: give both the same patient in the source, or leave one out; if they were looked "
        "at and are harmless: --near-duplicates false"
    )
