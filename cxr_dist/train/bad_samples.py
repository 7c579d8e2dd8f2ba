"""RUN_DIR/bad_samples.jsonl: the damaged samples that training met, their replacements, and the limit on their number.

Rank 0 gathers the replaced samples of all ranks and broadcasts the number of distinct ones, so that all ranks stop
together. Records give the shard file and the sample number, and no key, source or content. They are sorted by draw, so
that the file is the same at any world size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cxr_dist.data.batch import Batch, Replaced
from cxr_dist.distributed.reduce import from_main, gather_rows, sum_over_ranks
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import json_lines
from cxr_dist.format.manifest import ShardEntry
from cxr_dist.format.stored_sample import REASONS
from cxr_dist.run.folder import MetricsLog

LEDGER = "bad_samples.jsonl"


class BadSamples:
    """Records damaged samples and limits the number of distinct ones (all ranks; rank 0 writes)."""

    def __init__(self, run_dir: Path, shards: Sequence[ShardEntry], limit: int, world: World) -> None:
        self.run_dir, self.shards, self.limit = run_dir, shards, limit
        self.world = world
        self._known: set[tuple[str, int]] = set()
        self._log: MetricsLog | None = None

    def open(self, resumed_step: int) -> None:
        """Read the existing file, without the steps that the resumed run repeats (rank 0)."""
        path = self.run_dir / LEDGER
        if not self.world.is_main or not path.exists():
            return
        self._log = MetricsLog(self.run_dir, resumed_step, LEDGER)
        self._known = {(str(line.get("shard")), int(line.get("sample", -1))) for line in json_lines(path)}

    def add(self, step: int, epoch: int, batches: Sequence[Batch]) -> None:
        """Record the samples that were replaced in a step (all ranks, each with its own micro-batches).

        `step` counts from 1 as in metrics.jsonl, `epoch` from 0. Raises UserError on all ranks if the limit is
        exceeded.
        """
        replaced = self._gathered([row for batch in batches for row in batch.replaced])
        if self.world.is_main:
            self._write([self._line(step, epoch, row) for row in sorted(replaced)])
        count = int(from_main(torch.tensor(len(self._known), device=self.world.device)))
        if count > self.limit:
            raise UserError(
                f"{count} damaged samples were drawn up to step {step}, and data.max_bad_samples is {self.limit}: "
                f"{LEDGER} in the run folder lists them; copy their shards again (`cxr-dist verify` lists all damage), "
                "or raise data.max_bad_samples, and start the same command again"
            )

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _gathered(self, own: Sequence[Replaced]) -> list[Replaced]:
        counts = torch.zeros(self.world.world_size, dtype=torch.int64, device=self.world.device)
        counts[self.world.rank] = len(own)
        rows = torch.tensor(own, dtype=torch.int64, device=self.world.device).reshape(-1, len(Replaced._fields))
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
