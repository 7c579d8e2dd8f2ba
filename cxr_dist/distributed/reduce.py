"""Sums, gathers and broadcasts of tensors over the ranks (all ranks take part); the identity in a world of one.

Tensors only: object collectives use pickle. Sums and counts cross ranks; the division comes once, after.
"""

import torch
import torch.distributed as dist


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in place (all ranks)."""
    if not _alone():
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def least_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The smallest of all ranks' values, in place (all ranks)."""
    if not _alone():
        dist.all_reduce(values, op=dist.ReduceOp.MIN)
    return values


def from_main(values: torch.Tensor) -> torch.Tensor:
    """Rank 0's values on every rank, in place (all ranks)."""
    if not _alone():
        dist.broadcast(values, src=0)
    return values


def gather_rows(rows: torch.Tensor, rows_per_rank: list[int]) -> torch.Tensor:
    """All ranks' rows in the order of ranks (all ranks).

    Args:
        rows: [rows_per_rank[rank], ...], on the device that the backend communicates from.
        rows_per_rank: known to everyone beforehand; ranks may have none.
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
    """Return when every rank has come here (all ranks)."""
    if not _alone():
        dist.barrier()
