"""RUN_DIR/bad_samples.jsonl: which damaged samples training met, what stood in for them, and when it is too many.

Every rank brings what its own micro-batches replaced; all learn the number of different damaged samples, and all
stop together. Lines name shard file and sample number, never a key, a source or content. They are sorted by draw,
so the file is the same at any world size.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cxr_dist.data.batch import Batch, Replaced
from cxr_dist.distributed.reduce import from_main, gather_rows, sum_over_ranks
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import ShardEntry
from cxr_dist.format.stored_sample import REASONS
from cxr_dist.run.folder import MetricsLog

LEDGER = "bad_samples.jsonl"


class BadSamples:
    """The ledger of a run and its budget of different damaged samples (all ranks; rank 0 writes)."""

    def __init__(
        self, run_dir: Path, shards: Sequence[ShardEntry], limit: int, world: World, device: torch.device
    ) -> None:
        self.run_dir, self.shards, self.limit = run_dir, shards, limit
        self.world, self.device = world, device
        self._known: set[tuple[str, int]] = set()
        self._log: MetricsLog | None = None

    def open(self, resumed_step: int) -> None:
        """Take up the ledger of the run so far, without the steps that will be done again (rank 0)."""
        path = self.run_dir / LEDGER
        if not self.world.is_main or not path.exists():
            return
        self._log = MetricsLog(self.run_dir, resumed_step, LEDGER)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self._known = {(line["shard"], line["sample"]) for line in lines}

    def add(self, step: int, epoch: int, batches: Sequence[Batch]) -> None:
        """Write what was replaced in a step (all ranks; each with the micro-batches it has).

        `step` counts from 1 as in metrics.jsonl, `epoch` from 0. Raises UserError, on all ranks, past the budget.
        """
        replaced = self._gathered([row for batch in batches for row in batch.replaced])
        if self.world.is_main:
            self._write([self._line(step, epoch, row) for row in sorted(replaced)])
        found = int(from_main(torch.tensor(len(self._known), device=self.device)))
        if found > self.limit:
            raise UserError(
                f"{found} damaged samples were drawn up to step {step}, and data.max_bad_samples is {self.limit}: "
                f"{LEDGER} in the run folder names them; copy their shards again (`cxr-dist verify` lists all that is "
                "wrong), or raise data.max_bad_samples, and start the same command again"
            )

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()

    def _gathered(self, own: Sequence[Replaced]) -> list[Replaced]:
        counts = torch.zeros(self.world.world_size, dtype=torch.int64, device=self.device)
        counts[self.world.rank] = len(own)
        rows = torch.tensor(own, dtype=torch.int64, device=self.device).reshape(-1, len(Replaced._fields))
        return [Replaced(*row) for row in gather_rows(rows, sum_over_ranks(counts).tolist()).tolist()]

    def _line(self, step: int, epoch: int, row: Replaced) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": epoch,
            "draw": row.draw,
            "shard": self.shards[row.shard].file,
            "sample": row.sample,
            "reason": REASONS[row.reason],
            "replaced_by": row.replacement,
        }

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        self._log = self._log or MetricsLog(self.run_dir, 0, LEDGER)
        for line in lines:
            self._log.write(line)
            self._known.add((line["shard"], line["sample"]))
