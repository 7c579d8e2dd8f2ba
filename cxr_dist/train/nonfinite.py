"""Steps whose loss or gradient is not finite: reported, counted, and an error if there are too many in a row.

The device has already skipped the update. The host reads the results of a step after the next step is queued, so that
it does not wait for the device, and before operations that wait anyway: a log line, a validation or a checkpoint.
"""

import math
from collections.abc import Callable, Sequence

import torch

from cxr_dist.data.batch import Batch
from cxr_dist.data.draws import NOT_REPLACED
from cxr_dist.distributed.reduce import gather_rows
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.train.step import StepResult

SampleKeys = Callable[[int, Sequence[tuple[int, int]]], list[str]]
"""Maps an epoch and (draw, replacement) pairs to the keys of the samples that were read (`data.draws.keys_of`)."""
_SHOWN = 5  # sample keys in the message


class NonFiniteSteps:
    """Checks the steps of a run (all ranks)."""

    def __init__(
        self,
        limit: int,
        world: World,
        say: Callable[[str], None],
        sample_keys: SampleKeys,
    ) -> None:
        self.limit, self.world = limit, world
        self.say, self.sample_keys = say, sample_keys
        self._in_a_row = 0
        self._last: tuple[int, int, StepResult, Sequence[Batch]] | None = None

    def follow(self, step: int, epoch: int, result: StepResult, batches: Sequence[Batch]) -> None:
        """Call after a step was queued; checks the previous step (all ranks).

        `step` counts from 1 as in metrics.jsonl, `epoch` from 0. Raises UserError on all ranks if more than `limit`
        updates in a row were skipped.
        """
        self.settle()
        self._last = (step, epoch, result, batches)

    def settle(self) -> None:
        """Check the last step, after waiting for it to finish (all ranks). Raises as `follow` does."""
        if self._last is None:
            return
        (step, epoch, result, batches), self._last = self._last, None
        if math.isfinite(result.gradient_norm):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self.say(f"step {step}: loss or gradient not finite, update left out")
        if self._in_a_row > self.limit:
            raise UserError(
                f"loss or gradient not finite in {self._in_a_row} steps in a row, up to step {step}, where "
                f"{self._what(epoch, result, batches)}: lower optim.lr, use --precision fp32, or look at these samples"
            )

    def _what(self, epoch: int, result: StepResult, batches: Sequence[Batch]) -> str:
        """The samples of the micro-batches, on all ranks, whose loss is not finite; if there are none, of all."""
        rows = self._gathered(result, batches)
        bad = [row for row in rows if not row[2]]
        draws = sorted((draw, replacement) for draw, replacement, _ in bad or rows)
        keys = self.sample_keys(epoch, draws[:_SHOWN])
        more = f" and {len(draws) - len(keys)} more" if len(draws) > len(keys) else ""
        what = "the loss is not finite in micro-batches" if bad else "all losses are finite but not the gradient"
        return f"{what} of {', '.join(keys)}{more}"

    def _gathered(self, result: StepResult, batches: Sequence[Batch]) -> list[list[int]]:
        """(draw, replacement, whether the loss of its micro-batch is finite) of all samples of a step (all ranks)."""
        own = []
        for batch, finite in zip(batches, result.lanes_finite, strict=True):
            replacements = {row.draw: row.replacement for row in batch.replaced}
            own += [[d, replacements.get(d, NOT_REPLACED), finite] for d in batch.sample_ids.tolist()]
        rows = torch.tensor(own, dtype=torch.int64, device=self.world.device)
        gathered: list[list[int]] = gather_rows(rows, [len(own)] * self.world.world_size).tolist()
        return gathered
