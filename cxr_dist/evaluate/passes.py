"""The deterministic and stochastic passes of a model over one batch, independent of ranks and splits."""

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.format.manifest import Task
from cxr_dist.model.classifier import Classifier, Encoders
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, mc_logits


@torch.no_grad()
def predict_passes(
    model: Classifier, batch: Batch, config: Config, task: Task, mc: McDropout, device: torch.device
) -> tuple[Floats, Floats | None]:
    """Probabilities [b, C] of the deterministic pass, and [P, b, C] of the stochastic passes (None if P = 0)."""
    batch = batch.to(device)
    inputs = inputs_of(model, batch)
    with config.autocast(device.type):
        features = model.encode(inputs)
        certain = probabilities(model.classify(features), task).cpu().numpy()
        if not mc.passes:
            return certain, None
        logits = mc_logits(model, inputs, features, batch.sample_ids, mc, config.seed)
        return certain, probabilities(logits, task).cpu().numpy()


@torch.no_grad()
def embeddings(model: Classifier, batch: Batch, config: Config, device: torch.device) -> Floats:
    """The vectors [b, width] that summarise the cases for the classification head, from the deterministic pass."""
    inputs = inputs_of(model, batch.to(device))
    with config.autocast(device.type):
        summary: torch.Tensor = model.summary(model.encode(inputs))
    result: Floats = summary.double().cpu().numpy()
    return result


def inputs_of(model: Encoders, batch: Batch) -> Inputs:
    """The model's inputs for a batch on its device, with images normalised and in the model's precision."""
    dtype = next(model.parameters()).dtype
    return Inputs.of(batch, None if batch.images is None else model.levels.normalise(batch.images, dtype))


def probabilities(logits: torch.Tensor, task: Task) -> torch.Tensor:
    """Softmax over the classes, or a sigmoid for each label, in float64."""
    return logits.double().softmax(-1) if task == "multiclass" else logits.double().sigmoid()
