"""What saving a checkpoint costs the training: written in the foreground and in the background.

    python -m benchmarks.checkpoint [--steps 10] [--batch 2] [--repeats 3] [--threads 1] [--folder DIR]

The enhanced model (DenseNet-121 and BERT-base, random weights) with Adam's moments, trained on made batches: so many
steps without a save, with one in the foreground, and with one in the background, in turns. The stall of a save is
what it adds to the steps, the slower ones during the write included. Writes benchmarks/results/checkpoint.json.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.hardware import describe_machine
from benchmarks.mc_dropout import build, made_inputs
from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.engine import Backend
from cxr_dist.distributed.world import World
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.saver import BackgroundSaver, write

TARGET = 0.05  # of the time of the steps between two saves
Saved = dict[str, list[float]]


def trained(device: torch.device) -> Backend:
    """The enhanced model under its optimizer."""
    config, model = named_run("enhanced"), build(device).train()
    backend = new_backend(config, World(), device, model, torch.optim.AdamW)
    backend.prepare()
    return backend


def one_step(backend: Backend, batch: int) -> None:
    """Forward, backward and update, complete when this returns."""
    inputs = made_inputs(batch, backend.device)
    with backend.accumulate(is_last=True):
        logits = backend.forward(*inputs)
        backend.backward(logits.square().mean())
    backend.update()
    if backend.device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def steps_with(
    backend: Backend, options: argparse.Namespace, save: Callable[[], object]
) -> tuple[float, float]:
    """(seconds of so many steps after a save, seconds until the save returned)."""
    returned = timed(save)
    seconds = sum(timed(lambda: one_step(backend, options.batch)) for _ in range(options.steps))
    return returned + seconds, returned


def measure(backend: Backend, options: argparse.Namespace, run_dir: Path) -> tuple[Saved, int]:
    """Seconds by way, and the bytes of a checkpoint; each way's writing ends before the next one's turn."""
    seconds: Saved = {
        f"{way}{what}": [] for way in ("none", "foreground", "background") for what in ("", ", call")
    }
    saver, step = BackgroundSaver(run_dir, keep=1), 0

    def now() -> tuple[TrainingState, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        nonlocal step
        step += 1
        state = TrainingState(step=step, progress=Progress(), manifest_sha256="")
        return state, backend.model_tensors(), backend.optimizer_tensors()

    ways: dict[str, Callable[[], object]] = {
        "none": lambda: None,
        "foreground": lambda: write(run_dir, *now(), keep=1),
        "background": lambda: saver.save(*now()),
    }
    with saver:
        for save in ways.values():  # kernels are chosen, caches filled, the block of host memory taken
            steps_with(backend, argparse.Namespace(batch=options.batch, steps=1), save)
            saver.finish()
        for _ in range(options.repeats):
            for way, save in ways.items():
                whole, returned = steps_with(backend, options, save)
                seconds[way].append(whole)
                seconds[f"{way}, call"].append(returned)
                saver.finish()
    files = (run_dir / "checkpoints" / f"step-{step:08d}").iterdir()
    return seconds, sum(file.stat().st_size for file in files)


def summary(seconds: Saved, size: int, steps: int) -> dict[str, float]:
    """Medians: the step, each way's stall, and after how many steps a save may follow within the target."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    step = medians["none"] / steps
    found = {"gigabytes": size / 1e9, "step seconds": step}
    found["foreground GB/s (write, sha256, fsync)"] = size / 1e9 / medians["foreground, call"]
    for way in ("foreground", "background"):
        stall = max(0.0, medians[way] - medians["none"])
        found[f"{way}: seconds until save returns"] = medians[f"{way}, call"]
        found[f"{way}: stall seconds in {steps} steps"] = stall
        found[f"{way}: stall share at {steps} steps between saves"] = stall / medians["none"]
        found[f"{way}: fewest steps between saves within {TARGET:.0%}"] = math.ceil(stall / step / TARGET)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="on the file system to measure; default: the temporary one"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds, size = measure(trained(device), options, Path(folder))
    found = summary(seconds, size, options.steps)
    for name, value in found.items():
        print(f"  {name:<56}{value:10.3f}")
    settings = {name: value for name, value in vars(options).items() if name != "folder"}
    result = {"what": "what saving costs the training", "options": settings, "device": device.type}
    result |= {"summary": found, "seconds": seconds, "machine": describe_machine()}
    path = Path(__file__).parent / "results" / "checkpoint.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
