"""What metrics.json says of a run of contrastive pretraining, besides its zero-shot classification."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cxr_dist.distributed.world import World
from cxr_dist.evaluate.bootstrap import interval, patient_weights
from cxr_dist.evaluate.predict import read_index
from cxr_dist.evaluate.retrieval import CUTS, DIRECTIONS, Retrieval, embed_split, retrieve
from cxr_dist.inference.other_shards import EvaluatedShards

_RESAMPLES, _SEED = 1000, 0


def pretraining_blocks(shards: EvaluatedShards, split: str, world: World) -> dict[str, Any]:
    """The blocks `zero_shot` and `retrieval` of metrics.json (all ranks); empty for other runs and for ensembles."""
    member = shards.members[0]
    if len(shards.members) > 1 or member.pretrained is None:
        return {}
    own = member.pretrained
    config = replace(own.config, data=member.config.data)
    embedded = embed_split(own.network, config, shards.manifest, split, tokenizer=own.tokenizer, world=world)
    if not world.is_main:
        return {}
    found = retrieve(embedded)
    patients = [
        patient.decode("ascii") for patient in read_index(member.config.data, shards.manifest, split)["patient"]
    ]
    return {
        "zero_shot": {
            "prompts_from": own.prompts_from,
            "prompts": {name: asdict(each) for name, each in own.prompts.items()},
            "report_sections": list(own.config.data.text_sections),
        },
        "retrieval": retrieval_block(found, [patients[row] for row in found.rows]),
    }


def retrieval_block(found: Retrieval, patients: list[str]) -> dict[str, Any]:
    """Recalls with 95% intervals, from resampling the patients of the queries [n] among fixed candidates."""
    block: dict[str, Any] = {"n": len(found.rows), "patients": len(set(patients)), "candidates": found.candidates}
    if not patients:
        return block | {"reason": "no sample has a report in the sections that the run reads"}
    hits = {(d, k): (found.better[d] < k).astype(np.float64) for d in DIRECTIONS for k in CUTS}
    table = np.stack(list(hits.values()), axis=1)
    resampled = np.concatenate(
        [weights @ table / weights.sum(1, keepdims=True) for weights in patient_weights(patients, _RESAMPLES, _SEED)]
    )
    for column, (direction, k) in enumerate(hits):
        ends = interval(resampled[:, column])
        block.setdefault(direction, {})[f"recall_at_{k}"] = {
            "value": found.recall(direction, k),
            "low": ends["low"],
            "high": ends["high"],
            "chance": found.chance[direction][k],
        }
    return block | {"mean_recall": found.mean_recall, "n_bootstrap": _RESAMPLES}
