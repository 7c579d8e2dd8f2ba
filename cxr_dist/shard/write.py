"""`cxr-dist shard`: a recipe and a source folder in; tars, indices, keys.csv and, last, manifest.json out.

Plan, keep what an interrupted run finished, write the other shards here or elsewhere, put all together. What is
written depends on the recipe and the source alone, never on the number of workers, tasks or attempts. A folder
without a manifest is not a shard folder.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from cxr_dist.errors import UserError
from cxr_dist.files import sync_path, whole_file, write_whole
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.format.manifest import Manifest, with_tables
from cxr_dist.shard.bar import image_progress
from cxr_dist.shard.checks import FailureLimit, check_any_film, check_splits
from cxr_dist.shard.deal import PlannedShard, ShardPlan, plan_shards
from cxr_dist.shard.describe import Written, manifest_of, plain_recipe
from cxr_dist.shard.encode import Encoded, encode_all
from cxr_dist.shard.output_folder import KEYS, MANIFEST, finish, keep_only, prepare
from cxr_dist.shard.receipt import Receipt, count_left_out, read_receipt, write_receipt
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.select import Sample
from cxr_dist.shard.tar import write_shard

Fill = Callable[[ShardPlan, Path, Sequence[PlannedShard], FailureLimit], None]
"""Writes the given shards, with their receipts, into the folder; raises UserError past the limit of failures."""


def write_shards(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    workers: int,
    allow_left_out: float = 0.01,
    fill: Fill | None = None,
) -> Manifest:
    """Write the shard folder `out`, or return its manifest where it already holds the same recipe and source.

    `workers` processes decode and encode; 0 does it in this one. `fill` has the shards written elsewhere. Shards
    that an interrupted run finished are kept. Raises UserError where more than the share `allow_left_out` of the
    wanted images failed, a split is empty, a class is missing from train, `out` holds something else, or the disk
    is full.
    """
    plan = plan_shards(recipe, source)
    limit = FailureLimit.of(plan.selection, allow_left_out)
    check_any_film(plan.selection.samples, plan.selection.left_out)
    limit.check(plan.selection.left_out)
    check_splits(recipe, plan.selection.classes, plan.selection.samples)
    existing = prepare(out, plain_recipe(recipe), plan.source_sha256)
    if existing is not None:
        return existing
    kept = _still_true(plan, receipts(plan, out), workers)
    keep_only(out, kept)
    missing = [shard for shard in plan.shards if shard.stem not in kept]
    (fill or partial(write_planned, workers=workers))(plan, out, missing, limit)
    return _put_together(plan, out, limit)


def write_part(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    identity: str,
    stems: Collection[str],
    workers: int,
    allow_left_out: float,
) -> None:
    """A task's part of `write_shards`: those of the shards `stems` that are not there yet, with their receipts.

    Raises UserError where the plan made here is not the one of that `identity`.
    """
    plan = plan_shards(recipe, source)
    if plan.identity != identity:
        raise UserError(
            "the source's rows, or the versions of cxr_dist, OpenCV or Pillow, or the reader's file, are not those "
            "that the job was submitted with: run `cxr-dist shard` again"
        )
    missing = [s for s in plan.shards if s.stem in stems and read_receipt(out, s.stem, identity) is None]
    write_planned(plan, out, missing, FailureLimit.of(plan.selection, allow_left_out), workers=workers)


def receipts(plan: ShardPlan, out: Path) -> dict[str, Receipt]:
    """Stem -> receipt of every shard of the plan that is whole."""
    found = {shard.stem: read_receipt(out, shard.stem, plan.identity) for shard in plan.shards}
    return {stem: receipt for stem, receipt in found.items() if receipt is not None}


def write_planned(
    plan: ShardPlan, out: Path, shards: Sequence[PlannedShard], limit: FailureLimit, *, workers: int
) -> None:
    """Write shard after shard, each with its receipt, from one stream of encoded films."""
    num_classes = len(plan.selection.classes)
    multilabel = plan.recipe.labels.task == "multilabel"
    in_order = [sample for shard in shards for sample in shard.samples]
    films = [film.pixels for sample in in_order for film in sample.films]
    stream = encode_all(films, plan.recipe.image, workers)
    left_out = Counter(plan.selection.left_out)
    with image_progress("Writing shards", len(films)) as advance:
        for shard in shards:
            failed: dict[str, str] = {}
            readable = _readable(shard.samples, stream, failed, advance)
            first = next(readable, None)
            entry = first and write_shard(
                out,
                shard.stem,
                chain([first], readable),
                num_classes,
                multilabel,
                plan.recipe.views_per_sample,
            )
            write_receipt(out, shard.stem, Receipt(plan=plan.identity, entry=entry, left_out=failed))
            left_out.update(failed.values())
            limit.check(left_out)


def _readable(
    samples: Sequence[Sample],
    stream: Iterator[Encoded],
    failed: dict[str, str],
    advance: Callable[[], None],
) -> Iterator[tuple[Sample, list[bytes]]]:
    """The samples with the films that could be encoded, and their JPEGs; the stream is at the first of `samples`."""
    for sample in samples:
        jpegs = []
        for film in sample.films:
            jpeg = next(stream)
            advance()
            if isinstance(jpeg, ImageProblem):
                failed[film.key] = jpeg.reason
            else:
                jpegs.append(jpeg)
        if jpegs:
            yield _without_films(sample, failed), jpegs


def _still_true(plan: ShardPlan, found: Mapping[str, Receipt], workers: int) -> dict[str, Receipt]:
    """The receipts whose left-out films still fail in the same way: somebody may have mended the others."""
    lacking = [
        (shard.stem, film.pixels, found[shard.stem].left_out[film.key])
        for shard in plan.shards
        if shard.stem in found
        for sample in shard.samples
        for film in sample.films
        if film.key in found[shard.stem].left_out
    ]
    now = encode_all((pixels for _, pixels, _ in lacking), plan.recipe.image, workers)
    mended = {
        stem
        for (stem, _, reason), again in zip(lacking, now, strict=True)
        if not (isinstance(again, ImageProblem) and again.reason == reason)
    }
    return {stem: receipt for stem, receipt in found.items() if stem not in mended}


def _put_together(plan: ShardPlan, out: Path, limit: FailureLimit) -> Manifest:
    """Judge the whole by the receipts, then write keys.csv and the manifest."""
    whole = receipts(plan, out)
    assert len(whole) == len(plan.shards), "a shard without a receipt"
    left_out = plan.selection.left_out + count_left_out(whole.values())
    limit.check(left_out)
    written = [
        Written(split=shard.split, entry=entry, samples=_without(shard.samples, whole[shard.stem].left_out))
        for shard in plan.shards
        if (entry := whole[shard.stem].entry) is not None
    ]
    samples = [sample for shard in written for sample in shard.samples]
    check_splits(plan.recipe, plan.selection.classes, samples)
    _write_keys(out / KEYS, samples)
    manifest = manifest_of(plan.recipe, plan.found, replace(plan.selection, left_out=left_out), written)
    manifest = with_tables(manifest, out)
    sync_path(out)
    write_whole(out / MANIFEST, manifest.to_json())
    finish(out)
    sync_path(out)
    return manifest


def _without(samples: Sequence[Sample], keys: Collection[str]) -> list[Sample]:
    """The samples without the films of these keys; one without any film is none."""
    rest = (_without_films(sample, keys) for sample in samples)
    return [sample for sample in rest if sample.films]


def _without_films(sample: Sample, keys: Collection[str]) -> Sample:
    return replace(sample, films=tuple(film for film in sample.films if film.key not in keys))


def _write_keys(path: Path, samples: Sequence[Sample]) -> None:
    """The only way back from a key to the source's name; for its owner's eyes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "source"])
    writer.writerows(sorted((sample.key, film.source_id) for sample in samples for film in sample.films))
    with whole_file(path, mode=0o600) as file:
        file.write(buffer.getvalue().encode("utf-8"))
