"""Measure how long saving a checkpoint delays training, in the foreground and in the background.

    python -m benchmarks.checkpoint [--steps 10] [--batch 2] [--repeats 3] [--threads 1] [--folder DIR]

The enhanced model (DenseNet-121 and BERT-base, random weights) with Adam's moments is trained on synthetic batches:
`--steps` steps without a save, with a save in the foreground, and with a save in the background, in turns. The stall
of a save is the time that it adds to these steps. Writes benchmarks/results/checkpoint.json.
"""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.full_size import build, configured, new_step, synthetic_batches
from benchmarks.harness import arguments, in_turns, medians, show_numbers, this_device, timed, write_result
from cxr_dist.config.named import named_run
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.saver import BackgroundSaver, write

TARGET = 0.05  # largest stall, as a share of the time of the steps between two saves
Saved = dict[str, list[float]]


class Training:
    """The enhanced model with its optimizer, a micro-batch and a run folder."""

    def __init__(self, device: torch.device, batch: int, run_dir: Path) -> None:
        config = dataclasses.replace(configured(batch, 1), precision=named_run("enhanced").precision)
        self.device, self.run_dir = device, run_dir
        self.train_step = new_step(config, build(device).train())
        self.batches = synthetic_batches(batch, 1, device)
        self.saves = 0

    def step(self) -> None:
        """Make one update."""
        self.train_step(0, 0, self.batches, False)

    def now(self) -> tuple[TrainingState, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The content of a checkpoint; every call counts one step more."""
        self.saves += 1
        state = TrainingState(step=self.saves, progress=Progress(), manifest_sha256="")
        backend = self.train_step.backend
        return state, backend.model_tensors(), backend.optimizer_tensors()

    def checkpoint_bytes(self) -> int:
        """The size of the last checkpoint."""
        files = (self.run_dir / "checkpoints" / f"step-{self.saves:08d}").iterdir()
        return sum(file.stat().st_size for file in files)


def measure(training: Training, options: argparse.Namespace) -> Saved:
    """For each way the seconds of a save with the steps after it, and the seconds until the save returned.

    A way has finished writing before the next one starts.
    """
    run_dir = training.run_dir
    with BackgroundSaver(run_dir, keep=1) as saver:
        saves: dict[str, Callable[[], object]] = {
            "none": lambda: None,
            "foreground": lambda: write(run_dir, *training.now(), keep=1),
            "background": lambda: saver.save(*training.now()),
        }

        def steps_after(save: Callable[[], object], steps: int) -> tuple[float, float]:
            returned = timed(save)
            seconds = returned + timed(training.step, training.device, steps)
            saver.finish()
            return seconds, returned

        for save in saves.values():  # chooses kernels, fills caches and allocates the host memory
            steps_after(save, 1)
        ways = {name: partial(steps_after, save, options.steps) for name, save in saves.items()}
        found = in_turns(ways, options.repeats, warm_up=0)
    seconds = {}
    for way, pairs in found.items():
        seconds[way], seconds[f"{way}, call"] = (list(each) for each in zip(*pairs, strict=True))
    return seconds


def summary(seconds: Saved, size: int, steps: int) -> dict[str, float]:
    """The medians of a step and of each way's stall, and the fewest steps between saves that keep the target."""
    middle = medians(seconds)
    step = middle["none"] / steps
    found = {"gigabytes": size / 1e9, "step seconds": step}
    found["foreground GB/s (write, sha256, fsync)"] = size / 1e9 / middle["foreground, call"]
    for way in ("foreground", "background"):
        stall = max(0.0, middle[way] - middle["none"])
        found[f"{way}: seconds until save returns"] = middle[f"{way}, call"]
        found[f"{way}: stall seconds in {steps} steps"] = stall
        found[f"{way}: stall share at {steps} steps between saves"] = stall / middle["none"]
        found[f"{way}: fewest steps between saves within {TARGET:.0%}"] = math.ceil(stall / step / TARGET)
    return found


def main() -> None:
    """Measure, print and write the result."""
    where = (Path, "a folder on the file system to measure; default: the temporary folder")
    options = arguments(__doc__, steps=10, batch=2, repeats=3, threads=1, folder=where)
    torch.set_num_threads(options.threads)
    device = this_device()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        training = Training(device, options.batch, Path(folder))
        seconds = measure(training, options)
        found = summary(seconds, training.checkpoint_bytes(), options.steps)
    show_numbers(found)
    what = "what saving costs the training"
    write_result("checkpoint", what, options, device, summary=found, seconds=seconds)


if __name__ == "__main__":
    main()
