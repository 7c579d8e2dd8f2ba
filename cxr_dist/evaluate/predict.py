"""Running the model over a split: canonical batches in, the split's predictions out, on every rank the same.

No collective inside the loop; at the end one gather, and it is an error if the sample ids that came back are
not exactly the split's. So the table does not depend on the number of ranks or shards.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

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
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import McSummary, summarise
from cxr_dist.format.manifest import Manifest, Task
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.image_encoder import normalise
from cxr_dist.model.monte_carlo import Inputs, McDropout, mc_logits

Floats = NDArray[np.float64]
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


@torch.no_grad()
def predict_passes(
    model: Classifier, batch: Batch, config: Config, task: Task, mc: McDropout, device: torch.device
) -> tuple[Floats, Floats | None]:
    """Probabilities [b, C] of the deterministic pass, and [P, b, C] of the stochastic ones where there are any."""
    batch = batch.to(device)
    inputs = inputs_of(model, batch)
    with config.autocast(device.type):
        features = model.encode(
            inputs.images, inputs.tokens, inputs.attention_mask, batch.token_positions, inputs.view_rows
        )
        certain = probabilities(model.classify(features), task).cpu().numpy()
        if not mc.passes:
            return certain, None
        logits = mc_logits(model, inputs, features, batch.sample_ids, mc, config.seed)
        return certain, probabilities(logits, task).cpu().numpy()


def inputs_of(model: Classifier, batch: Batch) -> Inputs:
    """What the model takes of a batch that is on its device: films normalised, in its own precision."""
    dtype = next(model.parameters()).dtype
    images = normalise(batch.images, dtype) if batch.images is not None else None
    return Inputs(
        images=images, tokens=batch.tokens, attention_mask=batch.attention_mask, view_rows=batch.view_rows
    )


def probabilities(logits: torch.Tensor, task: Task) -> torch.Tensor:
    """Softmax over the classes, or a sigmoid for each label, in float64."""
    return logits.double().softmax(-1) if task == "multiclass" else logits.double().sigmoid()


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
    index = np.concatenate([np.asarray(store.index(shard)) for shard in range(len(store.shards))])
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
