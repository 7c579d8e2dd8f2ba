"""The passes of a model over one batch: films and token ids in, probabilities out. No rank and no split enters."""

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.format.manifest import Task
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.image_encoder import normalise
from cxr_dist.model.monte_carlo import Inputs, McDropout, mc_logits

Floats = NDArray[np.float64]


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
