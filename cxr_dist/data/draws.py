"""Find the samples of an epoch's draws: the plan gives the place in a shard, and the shard's index the sample there."""

from collections.abc import Sequence

import numpy as np

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import Integers, Plan
from cxr_dist.data.store import ShardStore
from cxr_dist.format.manifest import Manifest

NOT_REPLACED = -1


def samples_of(plan: Plan, store: ShardStore, epoch: int, draws: Integers) -> tuple[Integers, Integers]:
    """The number of the shard and of the sample in it for each draw [n] of an epoch."""
    shards, places = plan.locate(epoch, draws)
    samples = np.empty_like(draws)
    for shard in np.unique(shards):
        order, mass = plan.sample_order(epoch, int(shard), store.index(int(shard))["group"])
        inside = shards == shard
        samples[inside] = order[np.searchsorted(mass, places[inside], side="right")]
    return shards, samples


def keys_of(
    config: DataConfig, manifest: Manifest, plan: Plan, epoch: int, draws: Sequence[tuple[int, int]]
) -> list[str]:
    """Keys of the samples that were read for the draws of an epoch.

    Each draw comes with the number of the sample that replaced a damaged one, or NOT_REPLACED.
    """
    store = open_store(config, manifest, "train")
    try:
        shards, samples = samples_of(plan, store, epoch, np.array([draw for draw, _ in draws]))
        replacements = np.array([replacement for _, replacement in draws])
        read = np.where(replacements == NOT_REPLACED, samples, replacements)
        pairs = zip(shards.tolist(), read.tolist(), strict=True)
        return [store.index(shard)[sample]["key"].decode("ascii") for shard, sample in pairs]
    finally:
        store.close()
