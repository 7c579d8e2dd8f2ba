"""The plan: a pure function from (seed, epoch, lane, position) to a sample. It uses no files and knows no ranks.

A lane is one column of every step: global batch G and micro-batch b give K = G / b lanes. Each rank computes some of
the lanes, so the plan does not depend on the number of ranks. Position p of a lane is sample p mod b of the micro-batch
of step p // b of the epoch.

    place the weights of all samples end to end    |--shard 7--|--shard 2--|---shard 5---|   total mass T
    (the order of the shards changes each epoch)
    take N = steps x G evenly spaced draws          |  |  |  |  |  |  |  |  |  |  |  |  |    one random offset
    cut them into K lanes                          |---lane 0---|---lane 1---|---lane 2--|
    shuffle each lane inside windows                each has the draws of a few shards

This is systematic resampling (Kitagawa 1996). A sample of weight w is drawn floor(e) or ceil(e) times per epoch, where
e = N w / T, lanes have the same length, and a lane reads only its own stretch of the shards. A group of n samples of
weight w, which lie scattered over the mass, is drawn n floor(e) to n ceil(e) times, and n e times on average over the
offsets. Weights and positions are integers, so nothing depends on rounding. Example: for five samples with weights
1 1 2 1 1 (T = 6), N = 4 draws and offset 2, draw i falls at floor((6 i + 2) / 4) = 0, 2, 3, 5, which draws sample 0,
sample 2 twice, and sample 4.

To find the sample at a position, `window_draws` gives its draw, `locate` the shard of the draw and its place in the
shard's mass, and `sample_order` the sample at that place (draws.py combines the three).

    in webdataset                        here
    shardshuffle                         the order of the shards, a pure function of (seed, epoch)
    split_by_node, split_by_worker       lanes, which are equal stretches of draws and not lists of shards
    .shuffle(buffer)                     a permutation of each window, and of each shard's samples
    resampled=True, RandomMix            weights, with each sample's count exact to one draw
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import hash64, integer_below, permutation
from cxr_dist.errors import UserError

Integers = NDArray[np.int64]

# The first word of each hash, so that different decisions use different random numbers.
_SHARD_ORDER, _OFFSET, _WINDOW, _SAMPLE_ORDER, _AUGMENTATION, _REPLACEMENT = 1, 2, 3, 4, 5, 6
_UNIT_WEIGHT = 2**16  # the integer weight of the largest group


def group_weights(samples_per_group: Integers, temper: float) -> Integers:
    """Integer sampling weight of each group: (n_largest / n_group) ^ temper, in units of 1/65536.

    Args:
        samples_per_group: Numbers of samples in the training split, [groups]. An empty group gets weight 0.
        temper: 0 gives uniform sampling, 1 draws every non-empty group equally often.
    """
    counts = np.asarray(samples_per_group, np.float64)
    ratio = np.where(counts > 0, counts.max() / np.maximum(counts, 1), 0.0)
    return np.where(counts > 0, np.rint(_UNIT_WEIGHT * ratio**temper), 0).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The training stream of one split. Its memory grows with the number of shards, not of samples."""

    shard_group_counts: Integers
    """Number of samples of each shard in each sampling group, [S, groups]."""
    weights: Integers
    """Integer weight of a sample in each group (`group_weights`, or ones), [groups]."""
    global_batch: int
    micro_batch: int
    seed: int
    shuffle_shards: int = 8

    def __post_init__(self) -> None:
        if self.num_samples < self.global_batch:
            raise UserError(
                f"the training split has {self.num_samples} samples, fewer than data.global_batch "
                f"{self.global_batch}: choose a smaller global batch"
            )
        assert self.num_draws < 2**31, "positions are computed in 64 bits"

    @cached_property
    def shard_mass(self) -> Integers:
        """Sum of the weights of each shard's samples, [S]."""
        return np.asarray(self.shard_group_counts @ self.weights, dtype=np.int64)

    @cached_property
    def num_samples(self) -> int:
        return int(self.shard_group_counts.sum())

    @property
    def num_lanes(self) -> int:
        """K = G / b."""
        return self.global_batch // self.micro_batch

    @property
    def steps_per_epoch(self) -> int:
        """Number of samples // G. With equal weights, `n mod G` samples are left out, which differ between epochs."""
        return self.num_samples // self.global_batch

    @property
    def num_draws(self) -> int:
        """N, the number of draws in an epoch."""
        return self.steps_per_epoch * self.global_batch

    @property
    def draws_per_lane(self) -> int:
        """N / K, the same for all lanes."""
        return self.steps_per_epoch * self.micro_batch

    @property
    def window(self) -> int:
        """Number of draws shuffled together: those of `shuffle_shards` average shards, at most the whole lane."""
        wanted = -(-self.shuffle_shards * self.num_draws // len(self.shard_mass))
        return max(self.micro_batch, min(wanted, self.draws_per_lane))

    def expected_draws(self) -> NDArray[np.float64]:
        """Expected number of draws of each group in one epoch, [groups].

        A sample of the group is drawn floor(e) or ceil(e) times, where e is the group's expectation over its number of
        samples. The group's own number of draws differs by less than one for each of its samples, usually by far less,
        and not at all where e is an integer.
        """
        mass = self.shard_group_counts.sum(axis=0) * self.weights
        return np.asarray(self.num_draws * mass / mass.sum(), dtype=np.float64)

    @lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its process)
    def _epoch(self, epoch: int) -> tuple[Integers, Integers, int]:
        """The order of the shards [S], the mass before each shard in that order [S + 1], and the offset in [0, T)."""
        order = permutation(len(self.shard_mass), _SHARD_ORDER, self.seed, epoch)
        before = np.concatenate([[0], np.cumsum(self.shard_mass[order])])
        return order, before, integer_below(int(before[-1]), _OFFSET, self.seed, epoch)

    def locate(self, epoch: int, draws: Integers) -> tuple[Integers, Integers]:
        """The shard of each draw, and the draw's place in that shard's mass, in [0, shard_mass[shard])."""
        order, before, offset = self._epoch(epoch)
        quotient, remainder = divmod(int(before[-1]), self.num_draws)
        # floor((draw T + offset) / N) without 128-bit integers: draw * remainder < N^2 < 2^62.
        place = draws * quotient + offset // self.num_draws
        place += (draws * remainder + offset % self.num_draws) // self.num_draws
        rank_in_order = np.searchsorted(before, place, side="right") - 1
        return order[rank_in_order], place - before[rank_in_order]

    def window_draws(self, epoch: int, lane: int, window: int) -> Integers:
        """The draws of one window of a lane, in the order in which they are used."""
        start = window * self.window
        length = min(self.window, self.draws_per_lane - start)
        shuffled = permutation(length, _WINDOW, self.seed, epoch, lane, window)
        return lane * self.draws_per_lane + start + shuffled

    def sample_order(self, epoch: int, shard: int, groups: NDArray[np.int16]) -> tuple[Integers, Integers]:
        """A shard's samples in this epoch's order [n], and the cumulative sum of their weights [n].

        A draw at a place in the shard's mass takes the first sample whose cumulative sum is greater than the place.
        """
        order = permutation(len(groups), _SAMPLE_ORDER, self.seed, epoch, shard)
        return order, np.cumsum(self.weights[groups[order]])


def augmentation_key(seed: int, epoch: int, draws: Integers | int) -> NDArray[np.uint64]:
    """The 64-bit key of each draw, which determines its augmentation at any number of ranks and workers."""
    return hash64(_AUGMENTATION, seed, epoch, draws)


def replacement_order(seed: int, epoch: int, draw: int, sample: int, groups: NDArray[np.int16]) -> Integers:
    """The other samples of a shard in the order in which they may replace a damaged one, [n - 1].

    Samples of the same sampling group come first, so that each group is drawn as often as planned. They are of the same
    shard, so that the node reads no further shards.
    """
    order = permutation(len(groups), _REPLACEMENT, seed, epoch, draw)
    order = order[order != sample]
    own_group_first: Integers = order[np.argsort(groups[order] != groups[sample], kind="stable")]
    return own_group_first


def evaluation_batches(num_samples: int, batch: int, rank: int, world_size: int) -> list[range]:
    """The canonical evaluation batches of a rank: batch i holds samples [i b, (i + 1) b), where i = rank mod W."""
    starts = range(rank * batch, num_samples, world_size * batch)
    return [range(start, min(start + batch, num_samples)) for start in starts]
