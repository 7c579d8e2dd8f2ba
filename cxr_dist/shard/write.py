"""`cxr-dist shard`: write the tars, indices, keys.csv and finally manifest.json of a recipe and a source folder.

The steps are: plan, keep what an interrupted run finished, write the other shards here or elsewhere, and put everything
together. The bytes depend only on the recipe and the source, not on the number of workers, tasks or attempts. A folder
without a manifest is not a shard folder.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from cxr_dist.errors import UserError
from cxr_dist.files import sync_path, whole_file, write_whole
from cxr_dist.format.escape import csv_line
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.format.manifest import Manifest, with_tables
from cxr_dist.shard.bar import image_progress
from cxr_dist.shard.checks import FailureLimit, check_any_image, check_splits
from cxr_dist.shard.deal import PlannedShard, ShardPlan, plan_shards
from cxr_dist.shard.describe import Written, manifest_of, plain_recipe
from cxr_dist.shard.encode import Encoded, encode_all
from cxr_dist.shard.output_folder import KEYS, MANIFEST, finish, keep_only, prepare
from cxr_dist.shard.receipt import Receipt, count_left_out, read_receipt, write_receipt
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.select import Sample
from cxr_dist.shard.tar import write_shard

Fill = Callable[[ShardPlan, Path, Sequence[PlannedShard], FailureLimit], None]
"""Writes the given shards and their receipts to the folder; raises UserError if too many images fail."""


def write_shards(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    workers: int,
    allow_left_out: float = 0.01,
    fill: Fill | None = None,
) -> Manifest:
    """Write the shard folder `out`, or return its manifest if it already holds the same recipe and source.

    `workers` processes decode and encode; 0 uses this process. `fill` replaces this process as the writer of shards.
    Shards that an interrupted run finished are kept. Raises UserError if more than the share `allow_left_out` of the
    wanted images failed, a split is empty, a class is missing from train, `out` holds something else, or the disk is
    full.
    """
    plan = plan_shards(recipe, source)
    limit = FailureLimit.of(plan.selection, allow_left_out)
    check_any_image(plan.selection.samples, plan.selection.left_out)
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
    """Write those of the shards `stems` that are still missing, with their receipts: one task's part of `write_shards`.

    Raises UserError if the plan made here does not have this `identity`.
    """
    plan = plan_shards(recipe, source)
    if plan.identity != identity:
        raise UserError(
            "the source's rows, or the versions of cxr_dist, OpenCV, Pillow or simplejpeg, or the reader's file, have "
            "changed since the job was submitted: run `cxr-dist shard` again"
        )
    missing = [s for s in plan.shards if s.stem in stems and read_receipt(out, s.stem, identity) is None]
    write_planned(plan, out, missing, FailureLimit.of(plan.selection, allow_left_out), workers=workers)


def receipts(plan: ShardPlan, out: Path) -> dict[str, Receipt]:
    """Return {stem: receipt} of the plan's shards that are whole."""
    read = ((shard.stem, read_receipt(out, shard.stem, plan.identity)) for shard in plan.shards)
    return {stem: receipt for stem, receipt in read if receipt is not None}


def write_planned(
    plan: ShardPlan, out: Path, shards: Sequence[PlannedShard], limit: FailureLimit, *, workers: int
) -> None:
    """Write the shards one after another, each with its receipt, from one stream of encoded images."""
    num_classes = len(plan.selection.classes)
    multilabel = plan.recipe.labels.task == "multilabel"
    images = [image.pixels for shard in shards for sample in shard.samples for image in sample.images]
    stream = encode_all(images, plan.recipe.image, workers)
    left_out = Counter(plan.selection.left_out)
    with image_progress("Writing shards", len(images)) as advance:
        for shard in shards:
            failed: dict[str, str] = {}
            readable = _readable(shard.samples, stream, failed, advance)
            first = next(readable, None)
            entry = None
            if first is not None:
                samples, views = chain([first], readable), plan.recipe.views_per_sample
                entry = write_shard(out, shard.stem, samples, num_classes, multilabel, views)
            write_receipt(out, shard.stem, Receipt(plan=plan.identity, entry=entry, left_out=failed))
            left_out.update(failed.values())
            limit.check(left_out)


def _readable(
    samples: Sequence[Sample], stream: Iterator[Encoded], failed: dict[str, str], advance: Callable[[], None]
) -> Iterator[tuple[Sample, list[bytes]]]:
    """Yield each sample with the images that could be encoded, and their JPEGs; add the other images to `failed`."""
    for sample in samples:
        jpegs = []
        for image in sample.images:
            jpeg = next(stream)
            advance()
            if isinstance(jpeg, ImageProblem):
                failed[image.key] = jpeg.reason
            else:
                jpegs.append(jpeg)
        if jpegs:
            yield _without_images(sample, failed), jpegs


def _still_true(plan: ShardPlan, kept: Mapping[str, Receipt], workers: int) -> dict[str, Receipt]:
    """Return the receipts whose left-out images still fail for the same reason: the user may have repaired others."""
    lacking = [
        (shard.stem, image.pixels, kept[shard.stem].left_out[image.key])
        for shard in plan.shards
        if shard.stem in kept
        for sample in shard.samples
        for image in sample.images
        if image.key in kept[shard.stem].left_out
    ]
    encoded = encode_all((pixels for _, pixels, _ in lacking), plan.recipe.image, workers)
    outdated = {
        stem
        for (stem, _, reason), now in zip(lacking, encoded, strict=True)
        if not (isinstance(now, ImageProblem) and now.reason == reason)
    }
    return {stem: receipt for stem, receipt in kept.items() if stem not in outdated}


def _put_together(plan: ShardPlan, out: Path, limit: FailureLimit) -> Manifest:
    """Check all receipts together, then write keys.csv and the manifest."""
    whole = receipts(plan, out)
    assert len(whole) == len(plan.shards), "a shard has no receipt"
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
    manifest = manifest_of(plan.recipe, plan.source, replace(plan.selection, left_out=left_out), written)
    manifest = with_tables(manifest, out)
    sync_path(out)
    write_whole(out / MANIFEST, manifest.to_json())
    finish(out)
    sync_path(out)
    return manifest


def _without(samples: Sequence[Sample], keys: Collection[str]) -> list[Sample]:
    """Return the samples without the images of these keys; samples of which no image is left are dropped."""
    rest = (_without_images(sample, keys) for sample in samples)
    return [sample for sample in rest if sample.images]


def _without_images(sample: Sample, keys: Collection[str]) -> Sample:
    return replace(sample, images=tuple(image for image in sample.images if image.key not in keys))


def _write_keys(path: Path, samples: Sequence[Sample]) -> None:
    """Write the only file that maps keys to the source's names; only its owner can read it."""
    rows = sorted((sample.key, image.source_id) for sample in samples for image in sample.images)
    with whole_file(path, mode=0o600) as file:
        file.writelines(csv_line(row).encode("utf-8") for row in [("key", "source"), *rows])
