"""What crosses ranks: a block of code in, each collective that it starts on this rank with its bytes out.

Counted where torch's dispatcher hands them to the process group, so that DDP's reducer and DeepSpeed are counted
alike. Bytes on the wire follow from the algorithm (a ring), and are what one rank sends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One call on this rank."""

    name: str
    """As c10d has it: allreduce_, _allgather_base_, …"""
    num_bytes: int
    """Of the largest of its tensor lists: all of a reduced tensor, the whole of a gathered or scattered one."""

    def bytes_sent(self, world_size: int) -> float:
        """By one rank of a ring; Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009)."""
        share = (world_size - 1) / world_size
        return (2 if self.name.startswith("allreduce") else 1) * share * self.num_bytes


class CountCollectives(TorchDispatchMode):
    """Context manager: `found` has the collectives of the block, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a collective and do it."""
        if func.namespace == "c10d" and (sizes := [_bytes(each) for each in args]) and max(sizes):
            self.found.append(Collective(name=func._schema.name.removeprefix("c10d::"), num_bytes=max(sizes)))
        return func(*args, **(kwargs or {}))


def _bytes(value: object) -> int:
    return sum(tensor.nbytes for tensor in _tensors(value))


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
