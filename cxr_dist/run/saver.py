"""Writing checkpoints in the background: the tensors are copied to host memory, and a thread writes the copy.

Training waits only for the copy, and for the previous write if that is not finished yet. The thread computes nothing
with torch; writing, hashing and fsync release Python's global interpreter lock (safetensors 0.8).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from cxr_dist.distributed.engine import Tensors
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import TrainingState

_ALIGNMENT = 64  # bytes; a multiple of every dtype's size


class HostBlock:
    """Copies of tensors in a block of host memory that is reused.

    With CUDA the block is pinned: copies to it are fast, but allocating it is slow.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)

    def of(self, *groups: Tensors) -> list[Tensors]:
        """Contiguous copies of all tensors. They are complete on return and valid until the next call."""
        room = sum(_room(tensor) for group in groups for tensor in group.values())
        if room > len(self._block):
            self._block = torch.empty(0, dtype=torch.uint8)  # free the old block before allocating the new one
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
    """Writes the checkpoints of a run, one at a time (rank 0). As a context manager it finishes the last write."""

    def __init__(self, run_dir: Path, keep: int, confirm: Callable[[], None] = lambda: None) -> None:
        self._run_dir, self._keep, self._confirm = run_dir, keep, confirm
        self._host = HostBlock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainingState, model: Tensors, optimizer: Tensors) -> None:
        """Copy the tensors, from any device, and start writing. Waits for the previous write and raises its error."""
        self.finish()
        copies = self._host.of(model, optimizer)
        self._writing = self._thread.submit(
            write, self._run_dir, state, *copies, keep=self._keep, confirm=self._confirm
        )

    def check(self) -> None:
        """Raise the error of a write that has ended in the meantime; never waits."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the current write. Raises UserError if the disk is full."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            finally:
                del writing  # the traceback of an error would keep this frame, and the tensors of its callers, alive

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Wait for the last write. Its error is raised unless another error is already being raised."""
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
    """Write a checkpoint, mark it if it is the best, then delete old ones, so that one can always be loaded."""
    checkpoint.save(run_dir, state, model, optimizer, confirm)
    if state.progress.best_step == state.step:
        checkpoint.mark_best(run_dir, state.step)
    checkpoint.prune(run_dir, newest=state.step, keep=keep)
