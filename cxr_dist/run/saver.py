"""Writing checkpoints while training goes on: a copy in host memory, and one thread that writes it.

What stalls the training is the copy, and a write that is still under way when the next one is due. The thread
computes nothing with torch; writing, hashing and fsync run without Python's lock (safetensors 0.8).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch

from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Tensors, TrainingState

_ALIGNMENT = 64  # bytes; a multiple of every dtype's size


class HostBlock:
    """Copies of tensors in one block of host memory, which the next copies overwrite.

    The block is page-locked where there is CUDA: the copy runs at the bus's speed, but making such memory is slow.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)

    def of(self, *groups: Tensors) -> list[Tensors]:
        """Contiguous copies of all tensors, complete when this returns; valid until the next call."""
        room = sum(_room(tensor) for group in groups for tensor in group.values())
        if room > len(self._block):
            self._block = torch.empty(0, dtype=torch.uint8)  # the old block goes before the new one comes
            self._block = torch.empty(room, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        copies, offset = [], 0
        for group in groups:
            copied = {}
            for name, tensor in group.items():
                place = self._block[offset : offset + tensor.nbytes]
                copied[name] = place.view(tensor.dtype).view(tensor.shape)
                copied[name].copy_(tensor.detach(), non_blocking=True)
                offset += _room(tensor)
            copies.append(copied)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copies


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


class BackgroundSaver:
    """Writes checkpoints of a run, one at a time (rank 0); as a context, it leaves no write unfinished."""

    def __init__(self, run_dir: Path, keep: int, confirm: Callable[[], None] = lambda: None) -> None:
        self._run_dir, self._keep, self._confirm = run_dir, keep, confirm
        self._host = HostBlock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainingState, model: Tensors, optimizer: Tensors) -> None:
        """Copy the tensors, on any device, and begin to write; waits for the write before. Raises what that raised."""
        self.finish()
        copies = self._host.of(model, optimizer)
        self._writing = self._thread.submit(
            write, self._run_dir, state, *copies, keep=self._keep, confirm=self._confirm
        )

    def check(self) -> None:
        """Raise what a write has raised that ended meanwhile; never waits."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the write under way. Raises UserError where the disk is full."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            finally:
                del writing  # its error's traceback would hold this frame, and all tensors of its callers

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait. An error that is on its way is the one to tell, else that of the write is."""
        self._thread.shutdown()
        if error is None:
            self.finish()


def write(
    run_dir: Path,
    state: TrainingState,
    model: Tensors,
    optimizer: Tensors,
    *,
    keep: int,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint, mark it where it is the best, then delete old ones: at any moment one can be loaded."""
    checkpoint.save(run_dir, state, model, optimizer, confirm)
    if state.progress.best_step == state.step:
        checkpoint.mark_best(run_dir, state.step)
    checkpoint.prune(run_dir, newest=state.step, keep=keep)
