"""Measure the overhead of the training step over a bare PyTorch loop.

    python -m benchmarks.step [--micro-batch 4] [--lanes 2] [--steps 1] [--turns 9] [--threads 1]

Both use the same enhanced model (DenseNet-121 at 224 pixels and BERT-base, random weights), micro-batches, optimizer
and loss in float32, and take turns (bare, ours, ours, bare). The bare loop is that of a tutorial: copy, convert,
forward, loss and backward for each micro-batch, then clipping and fused AdamW. The package's step adds jitter, the
seeds of each lane, one denominator over all lanes, BatchNorm's statistics of each lane, and the check for values that
are not finite. Then the phases of the package's step are measured on batches of its loader, which leave out padding
(roofline/phases.py). Writes benchmarks/results/step.json, on a GPU step-cuda.json.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks import page
from benchmarks.full_size import build, configured, new_step, synthetic_batches
from benchmarks.harness import arguments, in_turns, medians, show, this_device, timed, write_result
from benchmarks.roofline.ceilings import measure_ceilings
from benchmarks.roofline.phases import Table, load_steps, measure_phases
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.image_encoder import IMAGENET

TARGET = 0.03  # largest overhead, as a share of the bare loop's time
Way = Callable[[], object]


def ours(config: Config, model: Classifier, device: torch.device, batches: list[Batch]) -> Way:
    """The package's training step."""
    step, numbers = new_step(config, model), itertools.count()
    return lambda: step(next(numbers), 0, batches, False)


def bare(config: Config, model: Classifier, device: torch.device, batches: list[Batch]) -> Way:
    """The training step of a tutorial."""
    optim = config.optim
    optimizer = torch.optim.AdamW(model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True)

    def step() -> None:
        for batch in (each.to(device) for each in batches):
            assert batch.images is not None
            logits = model(IMAGENET.normalise(batch.images), batch.tokens, batch.attention_mask)
            loss = functional.cross_entropy(logits, batch.labels[:, 0]) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Take turns, print the two medians and the overhead, write the result."""
    steps = (1, "in a row, in each turn; more on a GPU")
    options = arguments(__doc__, micro_batch=4, lanes=2, steps=steps, turns=9, threads=1)
    torch.set_num_threads(options.threads)
    device = this_device()
    config, model = configured(options.micro_batch, options.lanes), build(device).train()
    batches = synthetic_batches(options.micro_batch, options.lanes, device)

    def seconds_a_step(way: Way) -> float:
        return timed(way, device, options.steps) / options.steps

    ways = {"bare": bare(config, model, device, batches), "ours": ours(config, model, device, batches)}
    clocked = {name: partial(seconds_a_step, way) for name, way in ways.items()}
    seconds = in_turns(clocked, options.turns, warm_up=2)
    model.zero_grad(set_to_none=True)
    ceilings, loaded = measure_ceilings(device, config.precision), load_steps(config, options.turns)
    phases = measure_phases(config, model, device, loaded, options.turns, ceilings)
    report(seconds, phases, options, device)


def report(seconds: dict[str, list[float]], phases: Table, options: argparse.Namespace, device: torch.device) -> None:
    """Print medians, overhead and phases, and write the result."""
    middle = medians(seconds)
    pairs = [ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    overhead = {"of medians": middle["ours"] / middle["bare"] - 1, "in pairs": statistics.median(pairs) - 1}
    samples = f"{options.lanes} × {options.micro_batch} samples"
    print(f"{samples} on {device.type}: seconds per step, median (lowest to highest)")
    show(seconds, 4)
    for name, share in overhead.items():
        print(f"  overhead, {name:<12}{share:+8.2%}  (target: at most {TARGET:.0%})")
    print(page.phases({"precisions": {"fp32": {"phases": phases}}, "options": vars(options)}))
    found = {"seconds": seconds, "medians": middle, "overhead": overhead, "target": TARGET, "phases": phases}
    write_result("step", "the training step beside a bare PyTorch loop, seconds", options, device, **found)


if __name__ == "__main__":
    main()
