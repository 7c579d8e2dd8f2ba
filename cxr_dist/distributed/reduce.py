"""Sum, gather and broadcast tensors over the ranks (all ranks); the identity on a single rank.

There are no object collectives, because they use pickle. Callers reduce sums and counts, and divide once afterwards.
"""

import torch
import torch.distributed as dist


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(values: torch.Tensor, *, as_tree: bool = False) -> torch.Tensor:
    """Sum over ranks, in place (all ranks); `as_tree` as `tree_sum_over_ranks` does."""
    if _alone():
        return values
    if as_tree:
        return tree_sum_over_ranks(values)
    dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def tree_sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum over a power of two of ranks as a binary tree, in place (all ranks): ((r0 + r1) + (r2 + r3)) + ….

    This is recursive doubling (Thakur et al. 2005, section 4): ranks whose numbers differ in one bit exchange their
    sums and both add that of the lower ranks to that of the higher ones, so that all ranks have the same bits. A rank
    sends the tensor log2(W) times; a ring all-reduce sends 2 (W - 1) / W of it.
    """
    rank, world_size, distance = dist.get_rank(), dist.get_world_size(), 1
    assert world_size & (world_size - 1) == 0, "lanes_of refuses other numbers of ranks"
    others = torch.empty_like(values)
    while distance < world_size:
        partner = rank ^ distance
        pair = [dist.P2POp(dist.isend, values, partner), dist.P2POp(dist.irecv, others, partner)]
        for request in dist.batch_isend_irecv(pair):
            request.wait()
        lower, higher = (values, others) if rank < partner else (others, values)
        torch.add(lower, higher, out=values)
        distance *= 2
    return values


def least_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Take the elementwise minimum over ranks, in place (all ranks)."""
    if not _alone():
        dist.all_reduce(values, op=dist.ReduceOp.MIN)
    return values


def from_main(values: torch.Tensor) -> torch.Tensor:
    """Copy rank 0's values to every rank, in place (all ranks)."""
    if not _alone():
        dist.broadcast(values, src=0)
    return values


def gather_rows(rows: torch.Tensor, rows_per_rank: list[int]) -> torch.Tensor:
    """Return the rows of all ranks in the order of ranks (all ranks).

    Args:
        rows: [rows_per_rank[rank], ...], on the device that the backend uses for communication.
        rows_per_rank: Number of rows of each rank, 0 or more; the same list on all ranks.
    """
    if _alone():
        return rows
    longest = max(rows_per_rank)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in rows_per_rank]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, rows_per_rank, strict=True)])


def wait_for_all() -> None:
    """Return when every rank has called this function (all ranks)."""
    if not _alone():
        dist.barrier()
