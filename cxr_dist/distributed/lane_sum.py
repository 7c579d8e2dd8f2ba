"""Sums over the lanes of a step as one binary tree, whose bits do not depend on the number of ranks (`exact_sums`).

The K lanes are the leaves of ((l0 + l1) + (l2 + l3)) + …, where K and the number of ranks W are powers of two. A rank
has K/W consecutive lanes, which are a subtree, and `tree_sum_over_ranks` adds the subtrees. A sum costs log2(K/W)
spare copies, because lanes come one after the other and finished subtrees of different sizes wait for their partners.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from cxr_dist.distributed.reduce import sum_over_ranks

Key = Any
"""What identifies a tensor in every lane, such as its parameter."""


class LaneSum:
    """Add the tensors of a rank's lanes in their order, as a binary counter counts, and those of the last lane apart.

    The last lane is apart because DDP hands out its gradients bucket by bucket, while the backward pass is running.
    """

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, dict[Key, torch.Tensor]]] = []  # lanes in it, and their sums; larger ones first

    @property
    def num_spare(self) -> int:
        """Number of sums that are kept until the next lane comes."""
        return len(self._subtrees)

    def add(self, values: dict[Key, torch.Tensor]) -> None:
        """Add all tensors of a lane that is not the last one; they are overwritten, and must not be used again."""
        num_lanes = 1
        while self._subtrees and self._subtrees[-1][0] == num_lanes:
            _, earlier = self._subtrees.pop()
            _add_onto(earlier, values)
            values, num_lanes = earlier, 2 * num_lanes
        self._subtrees.append((num_lanes, values))

    def complete(self, keys: Sequence[Key], last: Sequence[torch.Tensor]) -> None:
        """Turn these tensors of the last lane into the sums over all lanes of the rank, in place.

        Each key must be given once per step, in any number of calls.
        """
        given = dict(zip(keys, last, strict=True))
        for _, earlier in reversed(self._subtrees):
            _add_onto(given, {key: earlier.pop(key) for key in keys if key in earlier})

    def rest(self) -> dict[Key, torch.Tensor]:
        """The sums of tensors that the last lane did not have, by key; afterwards the next step can begin."""
        rest: dict[Key, torch.Tensor] = {}
        for _, earlier in reversed(self._subtrees):
            _add_onto(rest, earlier)
        self._subtrees.clear()
        return rest


def _add_onto(sums: dict[Key, torch.Tensor], values: dict[Key, torch.Tensor]) -> None:
    """Add in place; the sum of two numbers has the same bits in both orders. A tensor that is only in one is kept."""
    both = [key for key in values if key in sums]
    if both:
        torch._foreach_add_([sums[key] for key in both], [values[key] for key in both])
    sums.update({key: value for key, value in values.items() if key not in sums})


def sum_of_lanes(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum over a rank's lanes, of which there is a power of two, of tensors of the same shape."""
    rows = torch.stack(list(values))
    assert len(rows) & (len(rows) - 1) == 0
    while len(rows) > 1:
        rows = rows[0::2] + rows[1::2]
    return rows[0]


def sum_bucket(
    lanes: LaneSum,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Communication hook of DistributedDataParallel: turns a `GradBucket` of the last lane into sums over all lanes."""
    parameters = bucket.parameters()
    lanes.complete(parameters, list(map(_laid_out_as, parameters, bucket.gradients())))
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(sum_over_ranks(bucket.buffer(), as_tree=True))
    return future


def _laid_out_as(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient in a bucket with the strides that DDP gives it, which are its parameter's, such as channels_last.

    `GradBucket.gradients` describes the same memory as if it were contiguous.
    """
    is_dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    if not is_dense:
        return gradient
    return gradient.as_strided(parameter.shape, parameter.stride(), gradient.storage_offset())
