"""`cxr-dist shard`: a recipe and a source folder in; tars, indices, keys.csv and, last, manifest.json out.

Read, select, deal samples to shards, encode over processes, write. What is written depends on the recipe and
the source alone, never on the number of workers. A folder without a manifest is not a shard folder.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

from cxr_dist.files import sync_path, whole_file, write_whole
from cxr_dist.shard.checks import FailureLimit, check_any_film, check_splits
from cxr_dist.shard.describe import Written, fingerprint, manifest_of, plain_recipe
from cxr_dist.shard.encode import Encoded, encode_all
from cxr_dist.shard.folder import KEYS, MANIFEST, finish, prepare
from cxr_dist.shard.left_out import ImageProblem
from cxr_dist.shard.manifest import SPLITS, Manifest
from cxr_dist.shard.progress import image_progress
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.select import Sample, Selection, select
from cxr_dist.shard.split import shuffled
from cxr_dist.shard.tar import write_shard


def write_shards(
    recipe: Recipe, source: Path | None, out: Path, *, workers: int, allow_left_out: float = 0.01
) -> Manifest:
    """Write the shard folder `out`, or return its manifest where it already holds the same recipe and source.

    `workers` processes decode and encode; 0 does it in this one. Raises UserError where more than the share
    `allow_left_out` of the wanted images failed, a split is empty, a class is missing from train, `out` holds
    something else, or the disk is full. Nothing that was there before is overwritten.
    """
    found = read_source(recipe, source)
    selection = select(recipe, found)
    limit = FailureLimit.of(selection, allow_left_out)
    check_any_film(selection.samples, selection.left_out)
    limit.check(selection.left_out)
    check_splits(recipe, selection.classes, selection.samples)
    existing = prepare(out, plain_recipe(recipe), fingerprint(found))
    if existing is not None:
        return existing
    written = list(_write_all(recipe, selection, out, workers, limit))
    samples = [sample for shard in written for sample in shard.samples]
    check_splits(recipe, selection.classes, samples)
    _write_keys(out / KEYS, samples)
    sync_path(out)
    manifest = manifest_of(recipe, found, selection, written)
    write_whole(out / MANIFEST, manifest.to_json())
    finish(out)
    sync_path(out)
    return manifest


def _write_all(
    recipe: Recipe, selection: Selection, out: Path, workers: int, limit: FailureLimit
) -> Iterator[Written]:
    """Write shard after shard from one stream of encoded films; failures are counted into the selection."""
    planned = _deal(recipe, selection.samples)
    in_order = [sample for _, samples in planned for sample in samples]
    stream = encode_all((sample.pixels for sample in in_order), recipe.image, workers)
    multilabel = recipe.labels.task == "multilabel"
    numbers: Counter[str] = Counter()
    with image_progress("Writing shards", len(in_order)) as advance:
        for split, samples in planned:
            reached: list[Sample] = []
            readable = _readable(samples, stream, reached, selection.left_out, limit, advance)
            first = next(readable, None)
            if first is None:
                continue  # every film of this shard failed, and that was allowed
            stem = f"{split}-{numbers[split]:05d}"
            entry = write_shard(out, stem, chain([first], readable), len(selection.classes), multilabel)
            numbers[split] += 1
            yield Written(split=split, entry=entry, samples=reached)


def _readable(
    samples: Sequence[Sample],
    stream: Iterator[Encoded],
    reached: list[Sample],
    left_out: Counter[str],
    limit: FailureLimit,
    advance: Callable[[], None],
) -> Iterator[tuple[Sample, bytes]]:
    """The samples whose films could be encoded, with their JPEGs; the stream is at the first of `samples`."""
    for sample in samples:
        jpeg = next(stream)
        advance()
        if isinstance(jpeg, ImageProblem):
            left_out[jpeg.reason] += 1
            limit.check(left_out)
        else:
            reached.append(sample)
            yield sample, jpeg


def _deal(recipe: Recipe, samples: Sequence[Sample]) -> list[tuple[str, list[Sample]]]:
    """(split, samples) per shard, of nearly equal sizes, in an order that mixes the source."""
    by_key = {sample.key: sample for sample in samples}
    planned = []
    for split in SPLITS:
        keys = shuffled((sample.key for sample in samples if sample.split == split), recipe.split.seed)
        num_shards = math.ceil(len(keys) / recipe.shard.samples)
        cuts = [len(keys) * shard // num_shards for shard in range(num_shards)] + [len(keys)]
        for start, stop in pairwise(cuts):
            planned.append((split, [by_key[key] for key in keys[start:stop]]))
    return planned


def _write_keys(path: Path, samples: Sequence[Sample]) -> None:
    """The only way back from a key to the source's name; for its owner's eyes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "source"])
    writer.writerows(sorted((sample.key, sample.source_id) for sample in samples))
    with whole_file(path, mode=0o600) as file:
        file.write(buffer.getvalue().encode("utf-8"))
