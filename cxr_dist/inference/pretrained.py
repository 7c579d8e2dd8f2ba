"""A run of contrastive pretraining, opened as a zero-shot classifier of images."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.text import ReportTokenizer, tokenizer_of
from cxr_dist.format.prompts import ClassPrompts, prompts_of
from cxr_dist.inference.description import Description
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.contrastive import Contrastive
from cxr_dist.model.zero_shot import zero_shot_classifier
from cxr_dist.run.trained_on import training_manifest


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The network that a zero-shot classifier was made of."""

    network: Contrastive
    config: Config
    """Of the run; the classifier's has `model.mode image`."""
    tokenizer: ReportTokenizer
    prompts: ClassPrompts
    prompts_from: str
    """`recipe` or `class names`."""


def zero_shot(
    network: Contrastive, description: Description, folder: Path, device: torch.device
) -> tuple[Classifier, Pretrained]:
    """The classifier by the prompts of the run's shards, for the classes of the description."""
    config, tokenizer = description.config, tokenizer_of(description.config, folder)
    assert tokenizer is not None
    manifest = training_manifest(folder, config, description.manifest_sha256)
    recipe = {} if manifest is None else manifest.recipe
    prompts, source = prompts_of(recipe, description.classes, description.task)
    classifier = zero_shot_classifier(network, tokenizer, list(prompts.values()), device)
    made_of = Pretrained(network=network, config=config, tokenizer=tokenizer, prompts=prompts, prompts_from=source)
    return classifier, made_of


def as_image_model(description: Description) -> Description:
    """The description of the zero-shot classifier, which reads no report."""
    config = description.config
    return replace(description, config=replace(config, model=replace(config.model, mode="image")))
