"""What a training run says at its start and at its end, as lines of text."""

from pathlib import Path

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.plan import Plan
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import Manifest
from cxr_dist.run.checkpoint import Progress

_INPUTS = {"image": "images", "text": "reports", "fused": "images and reports", "contrastive": "image-report pairs"}


def header(config: Config, manifest: Manifest, plan: Plan, world: World, total_steps: int) -> list[str]:
    """What will be trained, on what, and for how long, one fact a line."""
    ranks = f"{world.world_size} rank{'s' if world.world_size > 1 else ''}"
    facts = {
        "run": f"{config.run}, on {_INPUTS[config.model.mode]}, in {config.precision}",
        "device": f"{_device(world)}, {ranks}" + (f", {config.parallel}" if world.world_size > 1 else ""),
        "samples": f"{plan.num_samples} for training, {manifest.split('val').samples} for validation",
        "steps": f"{total_steps}, {plan.steps_per_epoch} per epoch, at most {config.train.epochs} epochs",
        "lanes": f"{plan.num_lanes} of micro-batch {plan.micro_batch}, global batch {plan.global_batch}",
        "folder": str(config.run_dir),
    }
    return [f"{name:<9}{value}" for name, value in facts.items()]


def closing(
    run_dir: Path,
    progress: Progress,
    *,
    step: int,
    steps_taken: int,
    total: int,
    seconds: float,
    score: str = "AUC",
) -> list[str]:
    """How a finished run went, and the next command. `steps_taken` are the steps of this start, in these seconds.

    `score` is the name of the metric whose mean chooses the best checkpoint.
    """
    lines = []
    if step < total:
        lines.append(f"ended early after step {step} of {total}: {progress.stale} validations without a better {score}")
    if progress.best_score is None:
        lines.append(f"no validation had a defined mean {score}")
    else:
        lines.append(f"best validation: mean {score} {progress.best_score:.3f} after step {progress.best_step}")
    lines.append(f"time: {steps_taken} step{'s' if steps_taken != 1 else ''} in {duration(seconds)}")
    return [*lines, f"next: cxr-dist evaluate {run_dir}"]


def stopped_line(run_dir: Path, step: int, total: int) -> str:
    """The last line of a run that was asked to stop."""
    return f"stopped: saved at step {step} of {total} in {run_dir}; the same command resumes"


def duration(seconds: float) -> str:
    """Format a duration, such as `3 h 5 min`, `4 min 10 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _device(world: World) -> str:
    return torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
