"""Compare how well the plan shuffles an epoch with a full permutation of the samples."""

import numpy as np

from cxr_dist.data.plan import Plan


def stream_of(plan: Plan, epoch: int) -> np.ndarray:
    """The samples of an epoch in training order, numbered by their place in storage from 0; equal weights."""
    sizes = plan.shard_group_counts.sum(axis=1)
    first = np.concatenate([[0], np.cumsum(sizes)])
    lanes = []
    for lane in range(plan.num_lanes):
        windows = range(-(-plan.draws_per_lane // plan.window))
        draws = np.concatenate([plan.window_draws(epoch, lane, window) for window in windows])
        shards, places = plan.locate(epoch, draws)
        samples = np.empty_like(draws)
        for shard in np.unique(shards):
            order, mass = plan.sample_order(epoch, int(shard), np.zeros(sizes[shard], np.int16))
            inside = shards == shard
            samples[inside] = first[shard] + order[np.searchsorted(mass, places[inside], side="right")]
        lanes.append(samples.reshape(-1, plan.micro_batch))
    return np.stack(lanes, axis=1).ravel()


def shuffling(order: np.ndarray, before: np.ndarray, batch: int, per_shard: int) -> dict[str, float]:
    """Measures of shuffling; `order` and `before` are the samples of an epoch and of the previous one.

    position_correlation: correlation of a sample's positions in the two epochs; 0 if they are unrelated.
    neighbour_distance: median distance of two samples that are adjacent in storage, as a share of the epoch.
    shards_per_batch: mean number of different shards in a global batch.
    """
    size = int(max(order.max(), before.max())) + 1
    place, earlier = np.full(size, -1), np.full(size, -1)
    place[order], earlier[before] = np.arange(len(order)), np.arange(len(before))
    both = (place >= 0) & (earlier >= 0)
    pairs = (place[:-1] >= 0) & (place[1:] >= 0)
    distance = np.abs(place[1:] - place[:-1])[pairs] / len(order)
    batches = (order[: len(order) // batch * batch] // per_shard).reshape(-1, batch)
    return {
        "position_correlation": float(np.corrcoef(place[both], earlier[both])[0, 1]),
        "neighbour_distance": float(np.median(distance)),
        "shards_per_batch": float(np.mean([len(set(row)) for row in batches.tolist()])),
    }


def shuffling_beside_a_permutation() -> dict[str, dict[str, float]]:
    """The measures for 16 lanes, for 2 lanes, and for a full permutation.

    There are 100 shards of 1,000 samples, a global batch of 256, and windows of 8 shards. One of 16 lanes is shorter
    than a window and so is shuffled as a whole; one of 2 lanes is six times as long as a window.
    """
    found = {}
    for lanes in (16, 2):
        plan = Plan(
            shard_group_counts=np.full((100, 1), 1000),
            weights=np.ones(1, np.int64),
            global_batch=256,
            micro_batch=256 // lanes,
            seed=0,
            shuffle_shards=8,
        )
        found[f"plan, {lanes} lanes"] = shuffling(stream_of(plan, 1), stream_of(plan, 0), 256, 1000)
    random = np.random.default_rng(0)
    before, order = (random.permutation(100_000)[: plan.num_draws] for _ in range(2))
    return found | {"full permutation": shuffling(order, before, 256, 1000)}
