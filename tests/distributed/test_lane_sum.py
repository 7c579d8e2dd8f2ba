"""A sum over lanes has the bits of one binary tree, however many ranks share the lanes."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.distributed.lane_sum import LaneSum, sum_of_lanes


def tree(values):
    """The definition: the sum of the first half plus the sum of the second half."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return tree(values[:half]) + tree(values[half:])


def of_rank(lanes, name="a"):
    """What a rank with these lanes computes, and the most sums that it kept at a time."""
    total, most = LaneSum(), 0
    for value in lanes[:-1]:
        total.add({name: value.clone()})
        most = max(most, total.num_spare)
    last = lanes[-1].clone()
    total.complete([name], [last])
    assert total.rest() == {}
    return last, most


@given(lanes=st.integers(0, 6), ranks=st.integers(0, 6), seed=st.integers(0, 2**32))
def test_any_number_of_ranks_gives_the_bits_of_the_tree(lanes, ranks, seed):
    num_lanes, world_size = 2 ** max(lanes, ranks), 2**ranks
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(num_lanes, 5, generator=random) * 10.0 ** torch.randint(
        -6, 6, (num_lanes, 1), generator=random
    )
    per_rank = num_lanes // world_size
    found = [of_rank(list(values[r * per_rank : (r + 1) * per_rank])) for r in range(world_size)]
    assert tree([sums for sums, _ in found]).equal(tree(list(values)))
    assert max(most for _, most in found) <= math.log2(per_rank)
    blocks = [sum_of_lanes(values[r * per_rank : (r + 1) * per_rank]) for r in range(world_size)]
    assert tree(blocks).equal(tree(list(values)))


def test_another_order_has_other_bits():
    """Otherwise the other tests would show nothing."""
    values = torch.randn(16, 100, generator=torch.Generator().manual_seed(0))
    assert not tree(list(values)).equal(tree(list(values.flip(0).roll(1, 0))))


def test_a_parameter_that_some_lanes_do_not_use_is_summed_over_the_others():
    total, one = LaneSum(), torch.ones(2)
    total.add({"a": one.clone()})
    total.add({"a": one.clone(), "b": one.clone()})
    total.add({"b": one.clone()})
    last = one.clone()
    total.complete(["a"], [last])
    assert last.tolist() == [3, 3]
    assert total.rest()["b"].tolist() == [2, 2]
    assert total.num_spare == 0
