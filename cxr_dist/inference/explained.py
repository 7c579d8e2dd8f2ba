"""The part of `cxr-dist evaluate --boxes` between a trained run and the block "explanations" of metrics.json."""

from typing import Any

from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.box_summary import explanations
from cxr_dist.evaluate.explain_boxes import Explained
from cxr_dist.evaluate.predict import read_index
from cxr_dist.inference.other_shards import EvaluatedShards


def check_can_be_explained(shards: EvaluatedShards, split: str) -> None:
    """Raise UserError if --boxes is not possible: for an ensemble, without images, and for shards without boxes."""
    require(
        len(shards.members) == 1,
        "--boxes explains one model, but an ensemble has several: evaluate each run with --boxes",
    )
    require(
        shards.members[0].config.model.uses_image,
        "--boxes compares heat maps over images with boxes, but this run's model reads no image: leave --boxes out",
    )
    if not shards.manifest.boxes:
        raise UserError(
            "--boxes needs shards with boxes: name a table of boxes in the recipe (`boxes:`), shard the source again, "
            "and evaluate with --shards NEW --name NAME"
        )
    stored = shards.manifest.boxes["stored"]
    require(
        any(stored[split].values()),
        f"--boxes needs boxes in the split to evaluate, but {split} has none; there are "
        + ", ".join(f"{sum(counts.values())} in {name}" for name, counts in stored.items()),
    )


def explain(shards: EvaluatedShards, split: str, world: World) -> dict[str, Any]:
    """The block "explanations" of one run on a split (all ranks)."""
    (member,) = shards.members
    explained = Explained(
        model=member.classifier,
        config=member.config,
        manifest=shards.manifest,
        tokenizer=member.tokenizer,
        match=shards.match,
    )
    table = explained.box_scores(split, world)
    patients = read_index(member.config.data, shards.manifest, split)["patient"]
    return explanations(table, patients, member.classes, member.config.data.image_size)
