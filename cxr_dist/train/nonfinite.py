"""Updates that were left out, because a loss or the gradient was not finite: said, counted, and too many in a row.

The device left the update out already. The host looks at a step's numbers when the next step is queued, so that it
never waits for the device, and before anything that waits anyway: a log line, a validation, a checkpoint.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cxr_dist.data.batch import Batch
from cxr_dist.data.draws import NOT_REPLACED
from cxr_dist.distributed.reduce import gather_rows
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.train.step import StepResult

SampleKeys = Callable[[int, Sequence[tuple[int, int]]], list[str]]
"""From an epoch and (draw, stand-in) pairs to the keys of the samples that were read (`data.draws.keys_of`)."""
_SHOWN = 5  # keys in the message


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A step that was queued, on this rank."""

    step: int
    epoch: int
    result: StepResult
    batches: Sequence[Batch]


class NonFiniteSteps:
    """Watches the steps of a run (all ranks)."""

    def __init__(
        self,
        limit: int,
        world: World,
        device: torch.device,
        say: Callable[[str], None],
        sample_keys: SampleKeys,
    ) -> None:
        self.limit, self.world, self.device = limit, world, device
        self.say, self.sample_keys = say, sample_keys
        self._in_a_row = 0
        self._last: _Taken | None = None

    def follow(self, step: int, epoch: int, result: StepResult, batches: Sequence[Batch]) -> None:
        """After a step was queued; looks at the one before (all ranks).

        `step` counts from 1 as in metrics.jsonl, `epoch` from 0. Raises UserError, on all ranks, where more than
        `limit` updates in a row were left out.
        """
        self.settle()
        self._last = _Taken(step=step, epoch=epoch, result=result, batches=batches)

    def settle(self) -> None:
        """Look at the last step, which waits for it to end (all ranks); raises as `follow` does."""
        taken, self._last = self._last, None
        if taken is None:
            return
        if math.isfinite(taken.result.gradient_norm):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self.say(f"step {taken.step}: loss or gradient not finite, update left out")
        if self._in_a_row > self.limit:
            raise UserError(
                f"loss or gradient not finite in {self._in_a_row} steps in a row, up to step {taken.step}, where "
                f"{self._what(taken)}: lower optim.lr, use --precision fp32, or look at these samples"
            )

    def _what(self, taken: _Taken) -> str:
        """Which samples the micro-batches hold whose loss is not finite, on any rank; else those of the whole step."""
        rows = self._gathered(taken)
        bad = [row for row in rows if not row[2]]
        draws = sorted((draw, stand_in) for draw, stand_in, _ in bad or rows)
        keys = self.sample_keys(taken.epoch, draws[:_SHOWN])
        more = f" and {len(draws) - len(keys)} more" if len(draws) > len(keys) else ""
        what = (
            "the loss is not finite in micro-batches of"
            if bad
            else "all losses are finite but not the gradient of"
        )
        return f"{what} {', '.join(keys)}{more}"

    def _gathered(self, taken: _Taken) -> list[list[int]]:
        """(draw, stand-in, whether its micro-batch's loss is finite) of all samples of a step (all ranks)."""
        own = []
        for batch, finite in zip(taken.batches, taken.result.lanes_finite, strict=True):
            stand_ins = {row.draw: row.replacement for row in batch.replaced}
            own += [[d, stand_ins.get(d, NOT_REPLACED), finite] for d in batch.sample_ids.tolist()]
        rows = torch.tensor(own, dtype=torch.int64, device=self.device)
        gathered: list[list[int]] = gather_rows(rows, [len(own)] * self.world.world_size).tolist()
        return gathered
