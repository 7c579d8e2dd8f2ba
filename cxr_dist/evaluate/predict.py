"""Runs the model over a split in canonical batches and returns the split's predictions, the same on every rank.

There is no collective inside the loop. One gather at the end raises an error unless every sample of the split came
back exactly once, so the table does not depend on the number of ranks or shards.
"""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cxr_dist.config.data import DataConfig
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import evaluation_batches
from cxr_dist.data.swap import Swap
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import gather_rows
from cxr_dist.distributed.watch.progress import advance
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.class_match import ClassMatch
from cxr_dist.evaluate.passes import predict_passes
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import McSummary, summarise
from cxr_dist.format.manifest import Manifest, Task
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.shard.bar import Advance, image_progress

_NO_PASSES = McDropout()


def predict_batch(
    model: Classifier,
    batch: Batch,
    config: Config,
    task: Task,
    mc: McDropout,
    device: torch.device,
    calibrator: Calibrator | None = None,
) -> np.ndarray:
    """One row for each sample, float64 [b, 1 + C (+ 2 C + 2)]: id, probabilities, and the summary of the passes.

    The model must be in eval mode. Dropout masks of the stochastic passes are a function of (seed, sample, pass), and
    `calibrator` is applied to each of these passes.
    """
    certain, passes = predict_passes(model, batch, config, task, mc, device)
    columns = [batch.sample_ids[:, None].cpu().numpy(), certain]
    if passes is not None:
        summary = summarise(passes if calibrator is None else calibrator.apply(passes, task), task)
        entropies = [summary.predictive_entropy[:, None], summary.expected_entropy[:, None]]
        columns += [summary.mean, summary.variance, *entropies]
    return np.concatenate(columns, axis=1, dtype=np.float64)


def predict_split(
    model: Classifier,
    config: Config,
    manifest: Manifest,
    split: str,
    *,
    tokenizer: ReportTokenizer | None,
    world: World,
    mc: McDropout = _NO_PASSES,
    calibrator: Calibrator | None = None,
    match: ClassMatch | None = None,
    swap: Swap | None = None,
    title: str | None = None,
) -> Predictions:
    """Predictions on a whole split (all ranks); `calibrator` is applied to the stochastic passes only.

    With a `title`, rank 0 shows its progress on standard error.

    `match` matches the classes of other shards to those of the model; None for the shards that it was trained on.
    Samples of classes that it ignores are not in the result. With `swap`, samples are predicted with the image or the
    report of others.
    """
    was_training = model.training
    model.eval()
    batches = evaluation_loader(
        config.data,
        manifest,
        split,
        rank=world.rank,
        world_size=world.world_size,
        tokenizer=tokenizer,
        with_images=config.model.uses_image,
        swap=swap,
    )
    samples, size = manifest.split(split).samples, config.data.evaluation_batch
    own = sum(map(len, evaluation_batches(samples, size, world.rank, world.world_size)))
    with image_progress(title, own, "samples") if title and world.is_main else contextlib.nullcontext() as show:
        predicted = [
            predict_batch(model, batch, config, manifest.task, mc, world.device, calibrator)
            for batch in with_progress(batches, show)
        ]
    rows = gather_samples(predicted, samples, size, world)
    model.train(was_training)
    return _table(rows, config, manifest, split, mc.passes, match)


def with_progress(batches: Iterable[Batch], show: Advance | None = None) -> Iterator[Batch]:
    """The batches; reports progress to the watchdog after each, and shows it."""
    for batch in batches:
        yield batch
        advance()
        if show is not None:
            show(len(batch.sample_ids))


def gather_samples(parts: list[np.ndarray], num_samples: int, batch: int, world: World) -> np.ndarray:
    """The rows of all ranks in the order of sample ids; raises UserError if an id is missing or duplicated."""
    ranks = range(world.world_size)
    counts = [sum(map(len, evaluation_batches(num_samples, batch, r, world.world_size))) for r in ranks]
    # A rank without a batch learns the number of columns from the others.
    width = torch.tensor([parts[0].shape[1] if parts else 0], device=world.device)
    widths = gather_rows(width, [1] * world.world_size)
    own = np.concatenate(parts) if parts else np.empty((0, int(widths.max())))
    everything = gather_rows(torch.from_numpy(own).to(world.device), counts).cpu().numpy()
    everything = everything[np.argsort(everything[:, 0], kind="stable")]
    if not np.array_equal(everything[:, 0], np.arange(num_samples)):
        raise UserError(
            f"gathered {len(everything)} predictions for a split of {num_samples} samples, or not one for each sample: "
            "run `cxr-dist verify` on the shards, and report this"
        )
    return everything


def read_index(data: DataConfig, manifest: Manifest, split: str) -> np.ndarray:
    """The index records of a split, in its order, [n] of dtype `format.manifest.index_dtype`."""
    with contextlib.closing(open_store(data, manifest, split)) as store:
        return np.concatenate([store.index(shard) for shard in range(len(store.shards))])


def _table(
    rows: np.ndarray, config: Config, manifest: Manifest, split: str, passes: int, match: ClassMatch | None
) -> Predictions:
    index, names = read_index(config.data, manifest, split), match.classes if match else manifest.classes
    labels = index["label"].astype(np.int16)
    if match is not None:
        labels, kept = match.labels(labels), match.evaluated(labels)
        index, labels, rows = index[kept], labels[kept], rows[kept]
    bounds = np.cumsum([1, len(names), len(names), len(names)])
    _, deterministic, mean, variance, entropies = np.split(rows, bounds, axis=1)
    summary = None
    if passes:
        summary = McSummary(
            mean=mean,
            variance=variance,
            predictive_entropy=entropies[:, 0],
            expected_entropy=entropies[:, 1],
            passes=passes,
        )
    return Predictions(
        task=manifest.task,
        classes=names,
        keys=[key.decode("ascii") for key in index["key"]],
        patients=[patient.decode("ascii") for patient in index["patient"]],
        labels=labels,
        probabilities=deterministic,
        mc=summary,
        not_evaluated=tuple(match.not_evaluated) if match else (),
    )
