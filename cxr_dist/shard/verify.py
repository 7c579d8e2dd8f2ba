"""`cxr-dist verify`: list everything that is wrong with a shard folder.

Every byte is read. Problems name shards, counts and sample numbers, never content.
"""

import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import UNKNOWN, Manifest, ShardEntry, SplitEntry, load_manifest, open_index
from cxr_dist.format.stored_boxes import boxes_of
from cxr_dist.format.stored_sample import OTHER_BYTES, DamagedSample, check_jpeg, decode_facts, members_in
from cxr_dist.shard.bar import image_progress
from cxr_dist.shard.near_duplicates import find_near_duplicates
from cxr_dist.shard.tar import members_of

_Indices = Mapping[str, Sequence[NDArray[Any]]]


def verify(shards: Path, *, near_duplicates: bool = True, workers: int = 0) -> list[str]:
    """Return everything that is wrong, or an empty list. Raises UserError if there is no valid manifest.

    The checks cover the sha256 of tars and indices, every member of a tar against its index, counts, keys used twice,
    and patients (or studies, if they were split) in two splits. If all this is right, `near_duplicates` also searches
    for images that are in two splits, in `workers` processes (0 uses this one).
    """
    manifest = load_manifest(shards)
    problems: list[str] = []
    indices: dict[str, list[NDArray[Any]]] = {}
    with image_progress("Checking shards", sum(s.samples for s in manifest.splits.values()), "samples") as advance:
        for name, split in manifest.splits.items():
            indices[name] = []
            for shard in split.shards:
                index = _open(shards, shard, manifest, problems)
                if index is not None:
                    indices[name].append(index)
                    problems += _check_groups(shard, index)
                    problems += _check_tar(shards, shard, index, manifest)
                advance(shard.samples)
            problems += _check_counts(name, split, manifest, indices[name])
    problems += _check_keys(indices) + _check_leaks(manifest, indices) + _check_strays(shards, manifest)
    return problems or (find_near_duplicates(shards, manifest, workers) if near_duplicates else [])


def _open(folder: Path, shard: ShardEntry, manifest: Manifest, problems: list[str]) -> NDArray[Any] | None:
    """Return the shard's index, or None if it cannot be read; append its problems to `problems`."""
    path = folder / shard.index
    if path.is_file() and sha256_of(path) != shard.index_sha256:
        problems.append(f"{shard.index}: sha256 differs from the manifest's")
    try:
        return open_index(folder, shard, manifest.num_labels, manifest.views)
    except UserError as error:
        if out_of_files(error):
            raise
        problems.append(f"{shard.index}: missing, damaged, or not the {shard.samples} samples of the manifest")
        return None


def _check_groups(shard: ShardEntry, index: NDArray[Any]) -> list[str]:
    counts = Counter(index["group"].tolist())
    if {group: n for group, n in enumerate(shard.group_counts) if n} != dict(counts):
        return [f"{shard.index}: samples per sampling group differ from the manifest's"]
    return []


def _check_tar(folder: Path, shard: ShardEntry, index: NDArray[Any], manifest: Manifest) -> list[str]:
    path = folder / shard.file
    if not path.is_file():
        return [f"{shard.file}: missing"]
    problems = []
    if path.stat().st_size != shard.bytes:
        problems.append(f"{shard.file}: {path.stat().st_size} bytes, the manifest says {shard.bytes}")
    if sha256_of(path) != shard.sha256:
        problems.append(f"{shard.file}: sha256 differs from the manifest's")
    return problems + _check_samples(path, index, manifest) + _check_members(path, index)


def _check_samples(path: Path, index: NDArray[Any], manifest: Manifest) -> list[str]:
    damaged: defaultdict[str, list[int]] = defaultdict(list)
    with path.open("rb") as file:
        for number, record in enumerate(index):
            file.seek(int(record["offset"]))
            if reason := _damage(file.read(int(record["size"])), record, manifest):
                damaged[reason].append(number)
    return [
        f"{path.name}: {len(numbers)} of {len(index)} samples, first sample {numbers[0]}, {reason}"
        for reason, numbers in damaged.items()
    ]


def _damage(data: bytes, record: np.void, manifest: Manifest) -> str | None:
    """Return why training could not use these bytes of a sample, or None."""
    if zlib.crc32(data) != record["crc32"]:
        return OTHER_BYTES
    *images, (_, start, size) = members_in(record)
    first = int(record["offset"])
    try:
        for _, offset, length in images:
            check_jpeg(data[offset - first : offset - first + length], manifest.image["short_side"])
        facts = decode_facts(data[start - first : start - first + size])
        boxes_of(facts, len(manifest.classes), len(images))
    except DamagedSample as damage:
        return damage.reason
    return None


def _check_members(path: Path, index: NDArray[Any]) -> list[str]:
    """Walk the tar as any other reader would, and compare names, offsets and sizes with the index."""
    expected = [
        (f"{record['key'].decode('ascii', 'replace')}.{name}", offset, size)
        for record in index
        for name, offset, size in members_in(record)
    ]
    owners = [number for number, record in enumerate(index) for _ in members_in(record)]
    try:
        members = list(islice(members_of(path), len(expected) + 1))
    except (tarfile.TarError, OSError, ValueError) as error:
        if too_many := out_of_files(error):
            raise too_many from None
        return [f"{path.name}: not a whole tar"]
    if len(members) > len(expected):
        return [f"{path.name}: more members than the {len(expected)} of the index"]
    if len(members) < len(expected):
        return [f"{path.name}: {len(members)} members, the index says {len(expected)}"]
    for owner, member, wanted in zip(owners, members, expected, strict=True):
        if member != wanted:
            return [f"{path.name}: the index does not fit the tar, first at sample {owner}"]
    return []


def _check_counts(name: str, split: SplitEntry, manifest: Manifest, indices: Sequence[NDArray[Any]]) -> list[str]:
    problems = []
    if sum(shard.samples for shard in split.shards) != split.samples:
        problems.append(f"{name}: the samples of its shards do not add up to {split.samples}")
    if len(indices) < len(split.shards):
        return problems  # an unreadable index has already been reported
    patients = {patient for index in indices for patient in index["patient"].tolist()}
    if len(patients) != split.patients:
        problems.append(f"{name}: {len(patients)} patients, the manifest says {split.patients}")
    for number, class_name in enumerate(manifest.classes):
        if _label_counts(manifest, number, indices) != split.label_counts[class_name]:
            problems.append(f"{name}: label counts of class {class_name!r} differ from the manifest's")
    return problems


def _label_counts(manifest: Manifest, number: int, indices: Sequence[NDArray[Any]]) -> dict[str, int]:
    labels = [index["label"] for index in indices]
    values = [label[:, 0] == number if manifest.num_labels == 1 else label[:, number] for label in labels]
    counts = Counter(value for part in values for value in part.tolist())
    return {"positive": counts[1], "negative": counts[0], "unknown": counts[UNKNOWN]}


def _check_keys(indices: _Indices) -> list[str]:
    counts = Counter(key for group in indices.values() for index in group for key in index["key"].tolist())
    twice = sum(count > 1 for count in counts.values())
    return [f"{twice} keys are used more than once"] if twice else []


def _check_leaks(manifest: Manifest, indices: _Indices) -> list[str]:
    if manifest.split_by == "image":  # then a patient may be in several splits on purpose
        return []
    splits_of: defaultdict[bytes, set[str]] = defaultdict(set)
    for name, group in indices.items():
        for index in group:
            for unit in index[manifest.split_by].tolist():
                splits_of[unit].add(name)
    shared = Counter(tuple(sorted(names)) for names in splits_of.values() if len(names) > 1)
    plural = {"patient": "patients", "study": "studies"}[manifest.split_by]
    return [f"{count} {plural} in both {' and '.join(names)}" for names, count in sorted(shared.items())]


def _check_strays(folder: Path, manifest: Manifest) -> list[str]:
    """Report tars that the manifest does not list: a reader that takes *.tar would read them."""
    known = {shard.file for split in manifest.splits.values() for shard in split.shards}
    return [f"{path.name}: not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in known]
