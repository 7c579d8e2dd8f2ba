"""Running the model over a split: canonical batches in, the split's predictions out, on every rank the same.

No collective inside the loop; at the end one gather, and it is an error if the sample ids that came back are
not exactly the split's. So the table does not depend on the number of ranks or shards.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import evaluation_batches
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import gather_rows
from cxr_dist.distributed.watch.progress import advance
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.passes import predict_passes
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import McSummary, summarise
from cxr_dist.format.manifest import Manifest, Task
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.monte_carlo import McDropout

_NO_PASSES = McDropout()


def predict_batch(
    model: Classifier, batch: Batch, config: Config, task: Task, mc: McDropout, device: torch.device
) -> np.ndarray:
    """One row per sample, float64 [b, 1 + C (+ 2 C + 2)]: id, probabilities, and the summary of the passes.

    The model is in eval mode; the masks of the stochastic passes follow from (seed, sample, pass).
    """
    certain, passes = predict_passes(model, batch, config, task, mc, device)
    columns = [batch.sample_ids[:, None].cpu().numpy(), certain]
    if passes is not None:
        found = summarise(passes, task)
        entropies = [found.predictive_entropy[:, None], found.expected_entropy[:, None]]
        columns += [found.mean, found.variance, *entropies]
    return np.concatenate(columns, axis=1, dtype=np.float64)


def predict_split(
    model: Classifier,
    config: Config,
    manifest: Manifest,
    split: str,
    *,
    tokenizer: ReportTokenizer | None,
    world: World,
    device: torch.device,
    mc: McDropout = _NO_PASSES,
) -> Predictions:
    """Predictions on a whole split (all ranks)."""
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
    )
    rows = _gather(
        [predict_batch(model, batch, config, manifest.task, mc, device) for batch in _heard(batches)],
        manifest.split(split).samples,
        config.data.evaluation_batch,
        world,
        device,
    )
    model.train(was_training)
    return _table(rows, config, manifest, split, mc.passes)


def _heard(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Each batch counts as progress of a long phase."""
    for batch in batches:
        yield batch
        advance()


def _gather(
    parts: list[np.ndarray], num_samples: int, batch: int, world: World, device: torch.device
) -> np.ndarray:
    """All ranks' rows, by sample id; raises where an id is missing or there twice."""
    ranks = range(world.world_size)
    counts = [sum(map(len, evaluation_batches(num_samples, batch, r, world.world_size))) for r in ranks]
    mine = np.concatenate(parts) if parts else None
    width = torch.tensor([mine.shape[1] if mine is not None else 0], device=device)
    widths = gather_rows(width, [1] * world.world_size)
    rows = torch.from_numpy(mine if mine is not None else np.empty((0, int(widths.max())))).to(device)
    everything = gather_rows(rows, counts).cpu().numpy()
    everything = everything[np.argsort(everything[:, 0], kind="stable")]
    if not np.array_equal(everything[:, 0], np.arange(num_samples)):
        raise UserError(
            f"the predictions of {len(everything)} samples came back for a split of {num_samples}, or not each "
            "once: run `cxr-dist verify` on the shards, and report this"
        )
    return everything


def _table(rows: np.ndarray, config: Config, manifest: Manifest, split: str, passes: int) -> Predictions:
    classes = len(manifest.classes)
    store = open_store(config.data, manifest, split)
    index = np.concatenate([store.index(shard) for shard in range(len(store.shards))])
    store.close()
    _, deterministic, mean, variance, entropies = np.split(
        rows, np.cumsum([1, classes, classes, classes]), axis=1
    )
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
        classes=manifest.classes,
        keys=[key.decode("ascii") for key in index["key"]],
        patients=[patient.decode("ascii") for patient in index["patient"]],
        labels=index["label"].astype(np.int16),
        probabilities=deterministic,
        mc=summary,
    )
