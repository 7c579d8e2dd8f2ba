"""The plan: which sample stands at (epoch, lane, position). Integers in, integers out; no files, no ranks.

A lane is one micro-batch's place in every step: global batch G and micro-batch b make K = G / b lanes, fixed
by the configuration. A rank computes some lanes, so how many ranks there are changes nothing here. Position p of a
lane is sample p mod b of the micro-batch of step p // b of the epoch.

    lay all samples' weights end to end        |--shard 7--|--shard 2--|---shard 5---|   mass T
    (shards in an order new each epoch)
    take N = steps x G evenly spaced draws      |  |  |  |  |  |  |  |  |  |  |  |  |    one random offset
    cut them into K lanes                      |---lane 0---|---lane 1---|---lane 2--|
    shuffle each lane inside windows            a few shards' worth of draws each

That is systematic resampling (Kitagawa 1996): a sample of weight w is drawn floor(e) or ceil(e) times per
epoch, e = N w / T, lanes are equally long, and a lane touches only its own stretch of the shards. Weights
and positions are integers, so nothing depends on rounding. Five samples of weights 1 1 2 1 1 (T = 6), N = 4 draws,
offset 2: draw i lands at floor((6 i + 2) / 4) = 0, 2, 3, 5, which is sample 0, twice sample 2, and sample 4.

To look a position up: `window_draws` says which draw it uses, `locate` in which shard that draw lands and where in
the shard's mass, and `sample_order` which of the shard's samples lies there (draws.py does the three).

    in webdataset                        here
    shardshuffle                         the order of the shards, a pure function of (seed, epoch)
    split_by_node, split_by_worker       lanes: equal stretches of draws, not lists of shards
    .shuffle(buffer)                     a permutation of each window, and of each shard's samples
    resampled=True, RandomMix            weights, with counts that are exact to one draw
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import hash64, integer_below, permutation
from cxr_dist.errors import UserError

Integers = NDArray[np.int64]

# First words of the hashes, so that the same (seed, epoch) never feeds two decisions.
_SHARD_ORDER, _OFFSET, _WINDOW, _SAMPLE_ORDER, _AUGMENTATION, _REPLACEMENT = 1, 2, 3, 4, 5, 6
_UNIT_WEIGHT = 2**16  # the integer weight of the commonest group


def group_weights(samples_per_group: Integers, temper: float) -> Integers:
    """Integer sampling weight of each group: (n_largest / n_group) ^ temper, in units of 1/65536.

    Args:
        samples_per_group: [G] samples of the training split; empty groups get weight 0.
        temper: 0 is uniform, 1 draws every non-empty group equally often.
    """
    counts = np.asarray(samples_per_group, np.float64)
    ratio = np.where(counts > 0, counts.max() / np.maximum(counts, 1), 0.0)
    return np.where(counts > 0, np.rint(_UNIT_WEIGHT * ratio**temper), 0).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The training stream of one split. Memory grows with the number of shards, not of samples."""

    shard_group_counts: Integers
    """[S, groups] samples of each shard in each sampling group."""
    weights: Integers
    """[groups] integer weight of a sample of each group (`group_weights`, or ones)."""
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
        """[S] sum of the weights of each shard's samples."""
        return np.asarray(self.shard_group_counts @ self.weights, dtype=np.int64)

    @cached_property
    def num_samples(self) -> int:
        """Samples in the split."""
        return int(self.shard_group_counts.sum())

    @property
    def num_lanes(self) -> int:
        """K = G / b."""
        return self.global_batch // self.micro_batch

    @property
    def steps_per_epoch(self) -> int:
        """Samples // global batch: at equal weights `n mod G` samples sit out, other ones each epoch."""
        return self.num_samples // self.global_batch

    @property
    def num_draws(self) -> int:
        """N, draws per epoch."""
        return self.steps_per_epoch * self.global_batch

    @property
    def draws_per_lane(self) -> int:
        """N / K, the same for all lanes."""
        return self.steps_per_epoch * self.micro_batch

    @property
    def window(self) -> int:
        """Draws that are shuffled together: those of `shuffle_shards` average shards, or the whole lane."""
        wanted = -(-self.shuffle_shards * self.num_draws // len(self.shard_mass))
        return max(self.micro_batch, min(wanted, self.draws_per_lane))

    def expected_draws(self) -> NDArray[np.float64]:
        """[groups] expected draws of each group in one epoch; the real number differs by rounding only."""
        mass = self.shard_group_counts.sum(axis=0) * self.weights
        return np.asarray(self.num_draws * mass / mass.sum(), dtype=np.float64)

    @lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its process)
    def _epoch(self, epoch: int) -> tuple[Integers, Integers, int]:
        """Shard order [S], mass before each shard in that order [S + 1], and the epoch's offset in [0, T)."""
        order = permutation(len(self.shard_mass), _SHARD_ORDER, self.seed, epoch)
        before = np.concatenate([[0], np.cumsum(self.shard_mass[order])])
        return order, before, integer_below(int(before[-1]), _OFFSET, self.seed, epoch)

    def locate(self, epoch: int, draws: Integers) -> tuple[Integers, Integers]:
        """Shard of each draw, and the draw's place in that shard's mass, [0, shard_mass[shard])."""
        order, before, offset = self._epoch(epoch)
        quotient, remainder = divmod(int(before[-1]), self.num_draws)
        # floor((draw T + offset) / N) without 128-bit integers: draw * remainder < N^2 < 2^62.
        place = draws * quotient + offset // self.num_draws
        place += (draws * remainder + offset % self.num_draws) // self.num_draws
        turn = np.searchsorted(before, place, side="right") - 1  # of the shard in the epoch's order
        return order[turn], place - before[turn]

    def window_draws(self, epoch: int, lane: int, window: int) -> Integers:
        """The draws of one window of a lane in the order in which they are used."""
        start = window * self.window
        length = min(self.window, self.draws_per_lane - start)
        shuffled = permutation(length, _WINDOW, self.seed, epoch, lane, window)
        return lane * self.draws_per_lane + start + shuffled

    def sample_order(self, epoch: int, shard: int, groups: NDArray[np.int16]) -> tuple[Integers, Integers]:
        """A shard's samples in this epoch's order [n], and the running sum of their weights [n].

        A draw at `place` of the shard's mass takes the first sample whose running sum is greater.
        """
        order = permutation(len(groups), _SAMPLE_ORDER, self.seed, epoch, shard)
        return order, np.cumsum(self.weights[groups[order]])


def augmentation_key(seed: int, epoch: int, draws: Integers | int) -> NDArray[np.uint64]:
    """One 64-bit word per draw from which all its augmentation follows; no rank or worker enters."""
    return hash64(_AUGMENTATION, seed, epoch, draws)


def replacement_order(seed: int, epoch: int, draw: int, sample: int, groups: NDArray[np.int16]) -> Integers:
    """The other samples of a shard in the order in which they stand in for a damaged one, [n - 1].

    Those of its own sampling group come first, so that what was drawn of each class stays as planned; no other
    shard is touched, so that a node reads no more than it would have.
    """
    order = permutation(len(groups), _REPLACEMENT, seed, epoch, draw)
    order = order[order != sample]
    own_group_first: Integers = order[np.argsort(groups[order] != groups[sample], kind="stable")]
    return own_group_first


def evaluation_batches(num_samples: int, batch: int, rank: int, world_size: int) -> list[range]:
    """The canonical evaluation batches of a rank: batch i holds samples [i b, (i + 1) b), i = rank mod W."""
    starts = range(rank * batch, num_samples, world_size * batch)
    return [range(start, min(start + batch, num_samples)) for start in starts]
