"""A step of contrastive pretraining with cached gradients (Gao et al. 2021, arXiv 2101.06983).

The loss compares every image with every report of the global batch, which need not fit a device. So a step takes:

    1. a forward pass of each lane without a graph, of which only the embeddings are kept
    2. the embeddings of all lanes on every rank, in the order of lanes
    3. the loss and its gradient by embedding, the same on all ranks
    4. a second forward pass of each lane with the same dropout masks and in the same BatchNorm batch, and its backward
       pass from that gradient

The chain rule makes the sum over lanes the gradient of one batch in one process, for any number of ranks.
"""

from collections.abc import Sequence

import torch

from cxr_dist.data.batch import Batch
from cxr_dist.data.random import hash64
from cxr_dist.data.transfer import HostCopy
from cxr_dist.distributed.reduce import gather_rows, sum_over_ranks
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.contrastive import Pairs, pair_loss
from cxr_dist.train.step import DROPOUT, StepResult, TrainStep


class ContrastiveStep(TrainStep):
    """Callable that updates a `Contrastive` network once from the micro-batches of a step (all ranks).

    A rank holds the embeddings of the global batch, and the activations of one micro-batch at a time.
    """

    def __call__(self, step: int, epoch: int, batches: list[Batch], stop: bool) -> StepResult:
        """Two forward passes and a backward pass over this rank's lanes, then one update. `epoch` counts from 0."""
        replaced = sum(len(batch.replaced) for batch in batches)
        flags = HostCopy(sum_over_ranks(torch.tensor([float(stop), float(replaced)]).to(self.backend.device)))
        self.statistics.start()
        lanes = list(zip(self.lanes, batches, strict=True))
        with torch.no_grad():
            own = [self.rows(step, epoch, lane, batch) for lane, batch in lanes]
        enter("exchanging embeddings")
        result = pair_loss(self.in_lane_order(own), self.pairs(batches))
        enter("forward and backward")
        of_lane = result.gradient.chunk(self.config.data.num_lanes)
        for lane, batch in lanes:
            self.backward(step, epoch, lane, batch, of_lane[lane])
        enter("update")
        norm = self.backend.update()
        self.statistics.finish(keep=norm.isfinite())
        self.backend.average(norm)
        finite = [torch.where(rows.isfinite().all(), 0.0, torch.nan) for rows in own]
        numbers = HostCopy(torch.stack([norm.double(), *(value.double() for value in finite)]))
        stopping, num_replaced = flags.read()
        return StepResult(
            # One rank has the whole loss, so that the sum over ranks is exact.
            loss=result.loss if self.backend.world.is_main else torch.zeros_like(result.loss),
            numbers=numbers,
            stop_requested=stopping > 0,
            num_replaced=int(num_replaced),
            values={"temperature": result.temperature, "masked_pairs": result.masked},
        )

    def rows(self, step: int, epoch: int, lane: int, batch: Batch) -> torch.Tensor:
        """The embeddings of a micro-batch, [b, 2 D + 1]; the same each time that it is called."""
        inputs = self.prepared(step, epoch, lane, batch).inputs
        torch.manual_seed(int(hash64(DROPOUT, self.config.seed, step, lane)) >> 1)
        return self.backend.forward(*inputs)

    def backward(self, step: int, epoch: int, lane: int, batch: Batch, gradient: torch.Tensor) -> None:
        """Forward and backward pass of one micro-batch, from the gradient [b, 2 D + 1] of its embeddings."""
        with self.backend.accumulate(is_last=lane == self.lanes[-1]):
            rows = self.rows(step, epoch, lane, batch)
            self.backend.backward((rows * gradient).sum())
        self.statistics.add()

    def pairs(self, batches: Sequence[Batch]) -> Pairs:
        """What is alike in the global batch, in the order of lanes (all ranks)."""
        columns = [self._reports(batch) for batch in batches]
        if self.config.pretrain.same_label:
            columns = [torch.cat([c, batch.labels], 1) for c, batch in zip(columns, batches, strict=True)]
        rows = self.in_lane_order([each.to(self.backend.device) for each in columns])
        return Pairs(reports=rows[:, :2], labels=rows[:, 2:] if self.config.pretrain.same_label else None)

    @staticmethod
    def _reports(batch: Batch) -> torch.Tensor:
        """`Batch.report_ids`; for a batch that was made to try the memory, different reports."""
        return (1 + batch.sample_ids)[:, None].expand(-1, 2) if batch.report_ids is None else batch.report_ids

    def in_lane_order(self, of_lanes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Rows [b, ...] of the lanes of this rank to [G, ...] of all lanes, in the order of lanes (all ranks)."""
        world, data = self.backend.world, self.config.data
        own = torch.cat(list(of_lanes))
        rows = gather_rows(own, [len(own)] * world.world_size)
        if world.world_size == 1:
            return rows
        ranks = [World(rank=rank, world_size=world.world_size) for rank in range(world.world_size)]
        gathered = [lane for rank in ranks for lane in lanes_of(rank, data.num_lanes, exact=self.config.exact_sums)]
        order = torch.tensor(gathered, device=rows.device).argsort()
        return rows.view(len(gathered), -1, *rows.shape[1:])[order].flatten(0, 1)
