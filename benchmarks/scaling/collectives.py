"""Count the collectives that a block of code starts on this rank, with their bytes.

They are counted where torch's dispatcher passes them to the process group, so that DDP's reducer and DeepSpeed are
counted in the same way. The bytes that one rank sends follow from the ring algorithm. Messages from one rank to
another, of which exact sums consist, are counted as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One call of a collective on this rank."""

    name: str
    """The name in c10d, such as allreduce_ or _allgather_base_."""
    num_bytes: int
    """Bytes of its largest argument: the reduced tensor, or the whole gathered or scattered tensor."""

    def bytes_sent(self, world_size: int) -> float:
        """Bytes that one rank sends in a ring; Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009)."""
        if self.name in ("send", "recv_"):
            return self.num_bytes if self.name == "send" else 0
        share = (world_size - 1) / world_size
        return (2 if self.name.startswith("allreduce") else 1) * share * self.num_bytes


class CountCollectives(TorchDispatchMode):
    """Context manager that appends the collectives of its block to `found`, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective, then run it."""
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
