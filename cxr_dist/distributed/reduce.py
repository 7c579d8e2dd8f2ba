"""Sum, gather and broadcast tensors over the ranks (all ranks); the identity on a single rank.

There are no object collectives, because they use pickle. Callers reduce sums and counts, and divide once afterwards.
"""

import torch
import torch.distributed as dist


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place (all ranks)."""
    if not _alone():
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
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
