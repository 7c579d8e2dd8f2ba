"""The plan keeps its promises for any shards, weights and batch sizes. No test needs a process or a file."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.plan.shuffling import shuffling_beside_a_permutation
from cxr_dist.data.draws import samples_of
from cxr_dist.data.plan import Plan, augmentation_key, evaluation_batches, group_weights, replacement_order
from cxr_dist.errors import UserError


def plan_of(
    counts: list[list[int]],
    weights: list[int] | None = None,
    global_batch: int = 4,
    micro_batch: int = 2,
    seed: int = 0,
    shuffle_shards: int = 2,
) -> Plan:
    table = np.array(counts, dtype=np.int64)
    weights = weights or [1] * table.shape[1]
    return Plan(
        shard_group_counts=table,
        weights=np.array(weights, dtype=np.int64),
        global_batch=global_batch,
        micro_batch=micro_batch,
        seed=seed,
        shuffle_shards=shuffle_shards,
    )


class Indices:
    """Stands for a store: `draws.samples_of` reads only the sampling group of each sample from a shard's index."""

    def __init__(self, plan: Plan) -> None:
        self.counts = plan.shard_group_counts

    def index(self, shard: int) -> dict[str, np.ndarray]:
        counts = self.counts[shard]
        return {"group": np.repeat(np.arange(len(counts)), counts).astype(np.int16)}


def drawn_samples(plan: Plan, epoch: int) -> list[tuple[int, int]]:
    """(shard, sample) of every draw of an epoch, by lane and window."""
    windows = range(-(-plan.draws_per_lane // plan.window))
    draws = [plan.window_draws(epoch, lane, window) for lane in range(plan.num_lanes) for window in windows]
    found = [samples_of(plan, Indices(plan), epoch, each) for each in draws]
    return [pair for shards, samples in found for pair in zip(shards.tolist(), samples.tolist(), strict=True)]


shard_tables = st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=2), min_size=1, max_size=9).filter(
    lambda rows: np.sum(rows) >= 12 and np.all(np.sum(rows, axis=1) > 0)
)


@settings(max_examples=60, deadline=None)
@given(shard_tables, st.integers(1, 50), st.integers(0, 5), st.sampled_from([(4, 2), (12, 3), (6, 6)]))
def test_each_sample_is_drawn_floor_or_ceil_of_its_expectation(rows, heavy, epoch, batches):
    plan = plan_of(rows, [7, 7 * heavy], *batches)
    times = Counter(drawn_samples(plan, epoch))
    assert sum(times.values()) == plan.num_draws
    mass = int(plan.shard_mass.sum())
    for shard, (light, rest) in enumerate(rows):
        for sample in range(light + rest):
            weight = 7 if sample < light else 7 * heavy
            low, remainder = divmod(plan.num_draws * weight, mass)
            assert times[shard, sample] in ({low, low + 1} if remainder else {low})


@settings(max_examples=40, deadline=None)
@given(shard_tables, st.integers(0, 3), st.sampled_from([(4, 2), (12, 3), (5, 1)]))
def test_equal_weights_draw_each_sample_at_most_once(rows, epoch, batches):
    plan = plan_of(rows, None, *batches)
    drawn = drawn_samples(plan, epoch)
    assert len(drawn) == len(set(drawn)) == plan.num_samples // batches[0] * batches[0]


def test_the_samples_that_are_left_out_change_every_epoch():
    plan = plan_of([[10, 3], [10, 0], [4, 4]], global_batch=10, micro_batch=5)
    everyone = {(s, i) for s, n in enumerate([13, 10, 8]) for i in range(n)}
    out = [frozenset(everyone - set(drawn_samples(plan, epoch))) for epoch in range(20)]
    assert all(len(left) == 1 for left in out)
    assert len(set(out)) > 8


def test_lanes_have_the_same_length_and_partition_the_draws():
    plan = plan_of([[40, 9], [31, 2], [17, 5]], [3, 11], global_batch=12, micro_batch=3)
    lanes = [
        np.concatenate([plan.window_draws(4, lane, w) for w in range(-(-plan.draws_per_lane // plan.window))])
        for lane in range(plan.num_lanes)
    ]
    assert {len(lane) for lane in lanes} == {plan.draws_per_lane}
    assert sorted(np.concatenate(lanes)) == list(range(plan.num_draws))


def test_a_lane_touches_only_its_stretch_of_the_shards():
    plan = plan_of([[100, 0]] * 64, global_batch=64, micro_batch=8)
    for lane in range(plan.num_lanes):
        draws = lane * plan.draws_per_lane + np.arange(plan.draws_per_lane)
        assert len(np.unique(plan.locate(2, draws)[0])) <= 64 / plan.num_lanes + 2


def test_the_order_differs_between_epochs_and_seeds_and_is_the_same_for_the_same_seed():
    rows = [[50, 3]] * 6
    first = drawn_samples(plan_of(rows, [1, 5], seed=1), 0)
    assert drawn_samples(plan_of(rows, [1, 5], seed=1), 0) == first
    assert drawn_samples(plan_of(rows, [1, 5], seed=1), 1) != first
    assert drawn_samples(plan_of(rows, [1, 5], seed=2), 0) != first


def test_short_lanes_shuffle_like_a_full_permutation_and_long_lanes_within_windows():
    measured = shuffling_beside_a_permutation()
    full, short, long = measured["full permutation"], measured["plan, 16 lanes"], measured["plan, 2 lanes"]
    for quality in (short, full):
        # 4.5 standard errors of an uncorrelated sample
        assert abs(quality["position_correlation"]) < 4.5 / 100_000**0.5
    # In long lanes the samples of a shard move together, so only the permutation of the shards counts.
    assert abs(long["position_correlation"]) < 3 / 100**0.5
    assert short["neighbour_distance"] == pytest.approx(full["neighbour_distance"], rel=0.05)
    assert short["shards_per_batch"] == pytest.approx(full["shards_per_batch"], rel=0.05)
    # Neighbouring samples stay inside their window, which spans 8 of a lane's 50 shards.
    assert long["neighbour_distance"] == pytest.approx(full["neighbour_distance"] * 8 / 50, rel=0.15)
    assert long["shards_per_batch"] >= 15


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0])
def test_group_weights_follow_the_inverse_frequency(temper):
    counts = np.array([900, 90, 10, 0])
    weights = group_weights(counts, temper)
    assert weights[3] == 0
    np.testing.assert_allclose(weights[:3] / weights[0], (900 / counts[:3]) ** temper, rtol=1e-4)


def test_an_epoch_draws_each_group_as_often_as_expected():
    plan = plan_of([[90, 4], [80, 2], [75, 1]], list(group_weights(np.array([245, 7]), 1.0)), 12, 4)
    heavy = sum(sample >= [90, 80, 75][shard] for shard, sample in drawn_samples(plan, 0))
    assert abs(heavy - plan.expected_draws()[1]) <= 7
    np.testing.assert_allclose(plan.expected_draws(), plan.num_draws / 2, rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(shard_tables, st.integers(1, 50), st.integers(0, 5))
def test_a_group_differs_from_its_expectation_by_less_than_one_for_each_sample(rows, heavy, epoch):
    plan = plan_of(rows, [7, 7 * heavy], 4, 2)
    samples, expected = plan.shard_group_counts.sum(axis=0), plan.expected_draws()
    groups = [int(sample >= rows[shard][0]) for shard, sample in drawn_samples(plan, epoch)]
    for group, drawn in enumerate(np.bincount(groups, minlength=2)):
        of_sample = expected[group] / max(1, samples[group])
        # Rounded, because the expectation is a quotient in floating point.
        assert samples[group] * np.floor(of_sample + 1e-9) <= drawn <= samples[group] * np.ceil(of_sample - 1e-9)


def test_a_group_of_scattered_samples_may_differ_by_more_than_rounding():
    """Over the offsets, the mean is the expectation; single epochs are off by several draws."""
    plan = plan_of([[40, 20]] * 5, [3, 5], 12, 4)
    heavy = [sum(sample >= 40 for _, sample in drawn_samples(plan, epoch)) for epoch in range(60)]
    expected = plan.expected_draws()[1]
    assert max(abs(drawn - expected) for drawn in heavy) > 1
    assert np.mean(heavy) == pytest.approx(expected, rel=0.01)


def test_positions_are_exact_with_a_billion_samples():
    plan = plan_of([[10_000_000, 7]] * 100, [65536, 65536 * 999], global_batch=8192, micro_batch=32)
    draws = np.array([0, 1, plan.num_draws // 2, plan.num_draws - 1])
    order, before, offset = plan._epoch(3)
    shards, places = plan.locate(3, draws)
    for draw, shard, place in zip(draws.tolist(), shards, places, strict=True):
        exact = (draw * int(before[-1]) + offset) // plan.num_draws
        assert int(before[list(order).index(shard)]) + int(place) == exact


def test_a_split_smaller_than_the_global_batch_is_refused():
    with pytest.raises(UserError, match=r"3 samples, fewer than data\.global_batch 4"):
        plan_of([[2, 1]])


def test_a_split_as_large_as_the_global_batch_is_an_epoch_of_one_step():
    plan = plan_of([[2, 1], [1, 0]])
    assert (plan.steps_per_epoch, plan.num_draws) == (1, 4)
    assert sorted(drawn_samples(plan, 0)) == [(0, 0), (0, 1), (0, 2), (1, 0)]


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 9))
def test_evaluation_batches_cover_the_split_once_at_any_world_size(samples, batch, world_size):
    parts = [evaluation_batches(samples, batch, rank, world_size) for rank in range(world_size)]
    assert sorted(i for part in parts for b in part for i in b) == list(range(samples))
    whole = set(evaluation_batches(samples, batch, 0, 1))
    assert {b for part in parts for b in part} == whole


def test_every_order_and_key_depends_on_each_of_its_arguments():
    """A changed seed, epoch, lane, window, shard or draw alone gives other random numbers."""
    plans, groups = [plan_of([[40, 0]] * 6, seed=seed) for seed in (0, 1)], np.zeros(40, np.int16)
    draws = np.arange(plans[0].num_draws)
    windows = [plan.window_draws(e, 1, w) % plan.window for plan in plans for e in (0, 1) for w in (0, 1)]
    lanes = [plans[0].window_draws(0, lane, 0) - lane * plans[0].draws_per_lane for lane in (0, 1)]
    samples = [plan.sample_order(epoch, shard, groups)[0] for plan in plans for epoch in (0, 1) for shard in (0, 1)]
    shards = [plan.locate(epoch, draws)[0] for plan in plans for epoch in (0, 1)]
    keys = [augmentation_key(seed, epoch, draws) for seed in (0, 1) for epoch in (0, 1)]
    others = [replacement_order(s, e, d, 7, groups) for s in (0, 1) for e in (0, 1) for d in (0, 1)]
    for results in (windows, lanes, samples, shards, keys, others):
        assert len({tuple(result.tolist()) for result in results}) == len(results)
    assert len(set(augmentation_key(0, 0, draws).tolist())) == len(draws)


@given(st.integers(1, 40), st.data())
def test_replacements_are_all_other_samples_with_the_same_group_first(length, data):
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), np.int16)
    sample, draw = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 2**31))
    order = replacement_order(1, 2, draw, sample, groups)
    assert sorted(order) == [i for i in range(length) if i != sample]
    same = (groups[order] == groups[sample]).tolist()
    assert same == sorted(same, reverse=True)
    assert order.tolist() == replacement_order(1, 2, draw, sample, groups).tolist()


def test_the_replacement_differs_from_draw_to_draw():
    groups = np.zeros(50, np.int16)
    assert len({int(replacement_order(0, 0, draw, 7, groups)[0]) for draw in range(200)}) > 30


def test_replacements_of_either_kind_keep_their_random_order():
    """The order is that of the same draw if all samples are of one group, with the own group moved to the front."""
    groups = np.arange(300, dtype=np.int16) % 3
    shuffled = replacement_order(1, 2, 3, 7, np.zeros(300, np.int16))
    order = replacement_order(1, 2, 3, 7, groups)
    own = groups[shuffled] == groups[7]
    assert order.tolist() == [*shuffled[own], *shuffled[~own]]
