"""The networks of the runs at full size with random weights, synthetic batches, and the package's training step.

DenseNet-121 with 224-pixel images of one channel, and BERT-base. Random weights take as long as pretrained ones.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.packing import packed_positions
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.engine import NewOptimizer
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.assembly import new_optimizer
from cxr_dist.train.step import TrainStep

BERT_BASE = {"model_type": "bert", "vocab_size": 28996}  # the rest are transformers' defaults: BERT-base
CLASSES, TOKENS = 5, 128


@contextmanager
def bert_folder(**changes: Any) -> Iterator[Path]:
    """A folder with BERT-base's config.json, like the text_encoder folder of a run."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(BERT_BASE | changes))
        yield Path(folder)


def build(device: torch.device, config: ModelConfig | None = None) -> Classifier:
    """The network in eval mode with random but reproducible weights; the enhanced one by default."""
    with bert_folder() as folder:
        torch.manual_seed(0)
        return build_classifier(config or ModelConfig(), CLASSES, folder).eval().to(device)


def configured(micro_batch: int, lanes: int) -> Config:
    """The enhanced run in float32 with `lanes` micro-batches per step, cross-entropy and no mixup."""
    config = named_run("enhanced")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, global_batch=micro_batch * lanes, micro_batch=micro_batch),
        train=dataclasses.replace(config.train, mixup_alpha=0.0),
        loss=dataclasses.replace(config.loss, name="cross_entropy", class_weights="none"),
        precision="fp32",
    )


def new_step(
    config: Config,
    model: Classifier,
    world: World | None = None,
    optimizer: NewOptimizer | None = None,
) -> TrainStep:
    """The package's training step, without class weights (all ranks); by default for one rank."""
    world = world or World()
    backend = new_backend(config, world, model, optimizer or new_optimizer(config))
    backend.prepare()
    loss = ClassificationLoss(name=config.loss.name, gamma=config.loss.gamma, class_weights=None, task="multiclass")
    return TrainStep(config, backend, loss, CLASSES, lanes_of(world, config.data.num_lanes, exact=config.exact_sums))


def synthetic_inputs(batch: int, device: torch.device, channels: int = 1) -> Inputs:
    """Random images, and reports of 32 to 128 tokens, evenly spread and padded to the longest as by the loader."""
    lengths = torch.linspace(32, TOKENS, batch).round().long()
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    return Inputs(
        images=torch.randn(batch, channels, 224, 224).to(device),
        tokens=(torch.randint(1000, 28000, (batch, TOKENS)) * mask).to(device),
        attention_mask=mask.to(device),
    )


def synthetic_batches(size: int, lanes: int, device: torch.device, *, packed: bool = False) -> list[Batch]:
    """A step's micro-batches on the host, as the loader gives them; `packed` lets the text encoder skip padding."""
    batches = []
    for _ in range(lanes):
        inputs = synthetic_inputs(size, torch.device("cpu"))
        assert inputs.attention_mask is not None
        batch = Batch(
            images=torch.randint(256, (size, 1, 224, 224), dtype=torch.uint8),
            tokens=inputs.tokens,
            attention_mask=inputs.attention_mask,
            token_positions=packed_positions(inputs.attention_mask) if packed else None,
            labels=torch.randint(CLASSES, (size, 1)),
            groups=torch.zeros(size, dtype=torch.int64),
            sample_ids=torch.arange(size),
        )
        batches.append(batch.pin_memory() if device.type == "cuda" else batch)
    return batches
