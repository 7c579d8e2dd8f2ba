"""The training run: restore; while steps remain: step, log, validate if due, save if due; close.

The state of a run is the model, the optimizer and `TrainingState`. The position in the data follows from the step, so
that a run can stop after any step.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from cxr_dist.config.file import to_plain
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.plan import Plan
from cxr_dist.distributed.engine import Backend
from cxr_dist.distributed.reduce import from_main, sum_over_ranks, wait_for_all
from cxr_dist.distributed.watch.progress import enter, first_step_done
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Encoders
from cxr_dist.run import checkpoint, restarts
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.claim import Claim
from cxr_dist.run.preempt import StopRequest
from cxr_dist.run.saver import BackgroundSaver
from cxr_dist.train.bad_samples import BadSamples
from cxr_dist.train.log_lines import closing
from cxr_dist.train.nonfinite import NonFiniteSteps, SampleKeys
from cxr_dist.train.profile import StepProfile
from cxr_dist.train.schedule import ema_decay, learning_rate
from cxr_dist.train.speed import Clock, Speed
from cxr_dist.train.step import StepResult, TrainStep
from cxr_dist.train.trackers import Trackers
from cxr_dist.train.validation import MOST_CLASSES_TRACKED, Validated


class Outcome(Enum):
    """How a run ended."""

    FINISHED = "finished"
    """All steps are done, or early stopping."""
    STOPPED = "stopped"
    """Asked to stop; the run has saved and can be resumed."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a run, which `assembly.py` or a test builds."""

    config: Config
    world: World
    run_dir: Path
    manifest_sha256: str
    meaning: dict[str, Any]
    """The record that each checkpoint keeps, from run/meaning.py."""
    model: Encoders
    backend: Backend
    step: TrainStep
    plan: Plan
    open_stream: Callable[[int], Iterator[Batch]]
    """This rank's micro-batches from a step on: for each step one per lane, in order."""
    validate: Callable[[Encoders], Validated]
    trackers: Trackers
    group_names: Sequence[str]
    """Names of the sampling groups, in their order: the classes, then samples without any of them."""
    bad_samples: BadSamples
    sample_keys: SampleKeys

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        steps = self.config.train.epochs * self.plan.steps_per_epoch
        return min(steps, self.config.train.max_steps) if self.config.train.max_steps else steps


def is_due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every `every` steps and at the end is due after this step."""
    return step == total or step % every == 0


class TrainingRun:
    """A run in progress (all ranks)."""

    def __init__(self, parts: Parts, stop: StopRequest) -> None:
        self.parts, self.stop = parts, stop
        self.train, self.total = parts.config.train, parts.total_steps
        per_epoch = parts.plan.steps_per_epoch
        self.eval_every = self.train.eval_every or per_epoch
        self.save_every = self.train.save_every or self.eval_every
        self.state = TrainingState(
            step=0,
            progress=Progress(),
            manifest_sha256=parts.manifest_sha256,
            config=to_plain(parts.config),
            meaning=parts.meaning,
        )
        self.drawn = torch.zeros(parts.plan.shard_group_counts.shape[1], dtype=torch.int64)
        limit = self.train.max_nonfinite_steps
        self._nonfinite = NonFiniteSteps(limit, parts.world, parts.trackers.say, parts.sample_keys)
        self._frozen: bool | None = None  # whether the parallel wrapper was built with frozen encoders
        self._saved_step = -1
        self._started = 0, time.monotonic()  # step and time at which this start took over
        self._claim = Claim(parts.run_dir)
        self._saver = BackgroundSaver(parts.run_dir, self.train.keep_checkpoints, self._claim.check)
        self._clock = Clock()
        self._speed = Speed(parts.config, parts.model, parts.world, self._clock)
        folder = parts.run_dir / "profile" if parts.world.is_main else None
        self._profile = StepProfile(self.train.profiled_steps, folder, parts.trackers.say, self._clock.paused)

    def run(self) -> Outcome:
        """Train until the run is finished or asked to stop (all ranks)."""
        with self._saver:  # finishes a write that has begun, also after an error
            self.restore()
            outcome = self.take_steps()
            self.save()
        wait_for_all()  # the first rank that exits may cause rank 0 to be killed, so the save comes first
        return outcome

    def take_steps(self) -> Outcome:
        """While steps remain: step, log, validate if due, save if due (all ranks)."""
        stream = self.parts.open_stream(self.state.step)
        self.validate_if_due()
        self._clock.start(self.state.step)
        with self._profile:
            while not self.finished:
                with self._profile.step(self.state.step + 1):
                    result = self.one_step(stream)
                self.log_if_due(result)
                if result.stop_requested and self.state.step < self.total:
                    return Outcome.STOPPED
                self.validate_if_due()
                self.save_if_due()
        return Outcome.FINISHED

    @property
    def finished(self) -> bool:
        """Whether all steps are done or early stopping applies."""
        patience = self.train.early_stopping_patience
        return self.state.step >= self.total or bool(patience and self.state.progress.stale >= patience)

    @property
    def epoch(self) -> int:
        """Epoch of the next step, counted from 0."""
        return self.state.step // self.parts.plan.steps_per_epoch

    def restore(self) -> None:
        """Load the newest valid checkpoint, chosen by rank 0, if there is one (all ranks)."""
        enter("restoring")
        parts, step = self.parts, torch.tensor(-1, device=self.parts.backend.device)
        newest = None
        if parts.world.is_main:
            self._claim.take()
            newest, skipped = checkpoint.newest_valid(parts.run_dir)
            for reason in skipped:
                parts.trackers.say(f"skipped a checkpoint: {reason}")
            step.fill_(newest.state.step if newest else -1)
        chosen = int(from_main(step))
        if chosen >= 0:
            loaded = newest or checkpoint.load(parts.run_dir / "checkpoints" / f"step-{chosen:08d}")
            if loaded.state.manifest_sha256 != parts.manifest_sha256:
                raise UserError("the checkpoint was trained on other shards (manifest sha256): choose another --out")
            parts.backend.restore(loaded.model, loaded.optimizer)
            self.state = dataclasses.replace(loaded.state, config=self.state.config, meaning=parts.meaning)
            self._saved_step = chosen
            if parts.world.is_main:
                checkpoint.mend_best(parts.run_dir, self.state)
        self._wrap()
        parts.bad_samples.open(self.state.step)
        parts.trackers.open(self.state.step, self.total)
        if parts.world.is_main:
            restarts.note_start(parts.run_dir, self.state.step)
        self._started = self.state.step, time.monotonic()

    def closing_lines(self) -> list[str]:
        """What rank 0 says at the end of a finished run."""
        first, started = self._started
        return closing(
            self.parts.run_dir,
            self.state.progress,
            step=self.state.step,
            steps_taken=self.state.step - first,
            total=self.total,
            seconds=time.monotonic() - started,
            score="recall" if self.parts.config.model.is_contrastive else "AUC",
        )

    def one_step(self, stream: Iterator[Batch]) -> StepResult:
        """Read this rank's micro-batches and update the model once (all ranks)."""
        parts, step, epoch = self.parts, self.state.step, self.epoch
        self._wrap()
        enter("waiting for data", step + 1)
        with self._clock.waiting(), record_function("waiting for data"):
            batches = [next(stream) for _ in parts.step.lanes]
        for batch in batches:
            self.drawn += torch.bincount(batch.groups, minlength=len(self.drawn))
        scale = self.state.progress.plateau_scale
        parts.backend.learning_rate = learning_rate(parts.config.optim, step, self.total, scale)
        parts.backend.ema_decay = ema_decay(parts.config.optim, step)
        enter("forward and backward")
        result = parts.step(step, epoch, batches, self.stop.requested)
        self.state = dataclasses.replace(self.state, step=step + 1)
        if result.num_replaced:
            parts.bad_samples.add(step + 1, epoch, batches)
        self._nonfinite.follow(step + 1, epoch, result, batches)
        first_step_done(parts.run_dir, step + 1, parts.world, result.numbers.read, parts.trackers.say)
        self._speed.count(batches, frozen=bool(self._frozen))
        return result

    def log_if_due(self, result: StepResult) -> None:
        """Log the step if it is due (all ranks, because the loss is summed over ranks)."""
        if not is_due(self.state.step, self.train.log_every, self.total):
            return
        enter("logging")
        self._nonfinite.settle()
        values = {
            "loss": float(sum_over_ranks(result.loss.clone(), as_tree=self.parts.config.exact_sums)),
            "learning_rate": self.parts.backend.learning_rate,
            "gradient_norm": result.gradient_norm,
            **{name: float(value) for name, value in result.values.items()},
        } | self._speed.lap(self.state.step)
        if self.parts.world.is_main:
            self._claim.check()
        self.track({f"train/{name}": value for name, value in values.items()})

    def validate_if_due(self) -> None:
        """Validate once at each step at which it is due, also across a resume (all ranks)."""
        step, progress = self.state.step, self.state.progress
        if step == 0 or step == progress.validated_step or not is_due(step, self.eval_every, self.total):
            return
        enter("validation", step)
        self._nonfinite.settle()
        with self._clock.paused():
            with self.parts.backend.whole_model():
                validated = self.parts.validate(self.parts.model)
            self.parts.model.train()
            self.track(validated.values | self.draws())
            progress = progress.after(validated.score, step, self.parts.config.optim)
            self.state = dataclasses.replace(self.state, progress=progress)
            if progress.best_step == step:
                self.save()
            self.parts.trackers.figures(validated.draw, step)

    def draws(self) -> dict[str, float]:
        """draws/GROUP -> number of samples drawn since the last call, summed over ranks; {} for many (all ranks)."""
        counts = sum_over_ranks(self.drawn.to(self.parts.backend.device)).tolist()
        self.drawn.zero_()
        named = zip(self.parts.group_names, counts, strict=False)
        return {f"draws/{name}": n for name, n in named} if len(counts) <= MOST_CLASSES_TRACKED else {}

    def track(self, values: dict[str, float]) -> None:
        """Pass values of this step to the trackers."""
        epoch = round(self.state.step / self.parts.plan.steps_per_epoch, 4)
        self.parts.trackers.log({"epoch": epoch, **values}, self.state.step)

    def save_if_due(self) -> None:
        """Save if it is due (all ranks). Raises the error of the previous write (rank 0)."""
        self._saver.check()
        if is_due(self.state.step, self.save_every, self.total):
            self.save()

    def save(self) -> None:
        """Start writing a checkpoint of this step unless there is one already (all ranks)."""
        if self._saved_step == self.state.step:
            return
        enter("saving", self.state.step)
        self._nonfinite.settle()
        with self._clock.paused():
            parts = self.parts
            model, optimizer = parts.backend.model_tensors(), parts.backend.optimizer_tensors()
            if parts.world.is_main:
                self._saver.save(self.state, model, optimizer)
            self._saved_step = self.state.step

    def _wrap(self) -> None:
        """Freeze or unfreeze the encoders for the epoch, and rebuild the wrapper if that changes (all ranks)."""
        frozen = self.parts.config.encoders_frozen(self.epoch)
        if frozen == self._frozen:
            return
        self._frozen = frozen
        self.parts.model.train()
        self.parts.model.set_encoders_frozen(frozen)
        self.parts.backend.prepare()
