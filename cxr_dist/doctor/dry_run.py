"""`cxr-dist plan`: describe what a run would do; refuse what training would refuse.

The manifest suffices, except for weighted sampling of a multilabel task, for which the shards' indices are counted.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cxr_dist.config.run import Config
from cxr_dist.data.loader import training_plan
from cxr_dist.data.place import open_manifest
from cxr_dist.data.plan import Plan
from cxr_dist.distributed.world import legal_world_sizes
from cxr_dist.evaluate.leakage import labels_in_text
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.shard_list import column
from cxr_dist.model.adapt import with_adapters
from cxr_dist.model.class_balance import class_balance
from cxr_dist.model.contrastive import build_network
from cxr_dist.model.weights import text_source
from cxr_dist.run.folder import with_recorded_class_weights
from cxr_dist.train.assembly import check_against, check_weights
from cxr_dist.train.memory.needs import describe_memory_needs
from cxr_dist.train.memory.settle import with_recorded_micro_batch


def describe(config: Config) -> dict[str, str]:
    """Return the lines to print as name -> value."""
    manifest = open_manifest(config.data)
    check_against(config, manifest)
    check_weights(config)
    config = with_recorded_micro_batch(with_recorded_class_weights(config))
    auto = config.data.micro_batch == "auto"
    # With `auto`, assume micro-batches of 1: they allow every world size that any other would, and read most shards.
    data = replace(config.data, micro_batch=1) if auto else config.data
    plan = training_plan(data, manifest, config.seed)
    steps = config.train.epochs * plan.steps_per_epoch
    if config.train.max_steps:
        steps = min(steps, config.train.max_steps)
    legal = legal_world_sizes(plan.num_lanes, exact=config.exact_sums)
    facts = {
        "training samples": f"{plan.num_samples} in {len(plan.shard_mass)} shards{_kind(manifest)}",
        "split": f"by {manifest.split_rule}",
        "steps per epoch": f"{plan.steps_per_epoch} of global batch {plan.global_batch}",
        "steps in all": str(steps),
        "lanes": "determined on the device when the run first starts (data.micro_batch auto)"
        if auto
        else f"{plan.num_lanes} of micro-batch {plan.micro_batch}",
        "legal world sizes": ", ".join(map(str, legal)),
    }
    names = [*manifest.classes, "none of them"]
    samples = plan.shard_group_counts.sum(axis=0)
    for name, drawn, have in zip(names, plan.expected_draws(), samples, strict=False):
        if have:
            facts[f"draws of {name}"] = f"{drawn:.1f} per epoch from {have} samples ({drawn / have:.2f} times each)"
    facts |= class_balance(config.data, manifest).in_words(config.loss.class_weights, manifest.classes)
    if config.model.uses_text:
        facts |= _about_reports(manifest, config.data.text_sections)
    facts["read by each node"] = _per_node(plan, int(column(manifest.split("train").shards, "bytes").sum()))
    parameters = num_parameters(config, len(manifest.classes))
    if parameters is None:
        return facts | {"parameters": "not known before the run starts"}
    facts["parameters"] = f"{parameters / 1e6:.1f} million"
    return facts | describe_memory_needs(config, len(manifest.classes), _text_folder(config), manifest.views)


def _kind(manifest: Manifest) -> str:
    return "" if manifest.views == 1 else f", each a study of up to {manifest.views} images"


def _about_reports(manifest: Manifest, sections: tuple[str, ...]) -> dict[str, str]:
    """Return how many samples have no report text, and a warning if the reports contain the labels."""
    samples = sum(split.samples for split in manifest.splits.values())
    facts = {"without report text": f"{manifest.without_text} of {samples} samples of all splits"}
    warning = labels_in_text(manifest.label_source, sections, manifest.labels_in_reports)
    return facts | ({"warning": warning} if warning else {})


def _per_node(plan: Plan, total_bytes: int) -> str:
    """Return the shards and bytes that a node reads in an epoch: its share, and a shard at the end of each lane."""
    shards, parts = len(plan.shard_mass), []
    for nodes in (n for n in (1, 2, 4, 8) if plan.num_lanes % n == 0):
        touched = min(shards, -(-shards // nodes) + plan.num_lanes // nodes)
        size = total_bytes * touched / shards
        shown = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
        parts.append(f"{touched} shards ({shown}) on {nodes}")
    return "at most " + ", ".join(parts) + (" nodes" if len(parts) > 1 else " node") + " in an epoch"


def num_parameters(config: Config, num_classes: int) -> int | None:
    """Return the number of parameters; None if the text encoder's size is known only when the run starts."""
    if config.model.uses_text and _text_folder(config) is None:
        return None
    with torch.device("meta"):
        model = with_adapters(build_network(config, num_classes, _text_folder(config)), config.model)
    return int(np.sum([p.numel() for p in model.parameters()]))


def _text_folder(config: Config) -> Path | None:
    return text_source(config.model) if config.model.uses_text else None
