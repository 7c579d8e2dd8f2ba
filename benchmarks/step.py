"""What the training step adds to a bare PyTorch loop with the same model, micro-batches, optimizer and loss.

    python -m benchmarks.step [--micro-batch 4] [--lanes 2] [--steps 1] [--turns 9] [--threads 1]

The enhanced model (DenseNet-121 at 224 pixels and BERT-base, random weights), float32. The bare loop is what a
tutorial writes: to the device, to floats, forward, loss, backward for each micro-batch; clip, AdamW (fused, as in
ours). Ours adds all that the package promises: jitter, seeds of each lane, one denominator over all lanes,
BatchNorm's statistics of each lane, the check for values that are not finite. Both work on one set of weights and
take turns (bare, ours, ours, bare). Then ours by phase, on its loader's batches, which leave out padding
(phases.py). Medians go into benchmarks/results/step.json, from a GPU into step-cuda.json.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.ceilings import measure_ceilings
from benchmarks.hardware import describe_machine, result_path
from benchmarks.mc_dropout import build, made_inputs
from benchmarks.phases import CLASSES, Table, load_steps, measure_phases, new_step, show_phases
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.image_encoder import IMAGENET

TARGET = 0.03  # of the bare loop's time
Way = Callable[[int], object]


def configured(options: argparse.Namespace) -> Config:
    """The enhanced run with the benchmark's micro-batches."""
    config = named_run("enhanced")
    data = dataclasses.replace(
        config.data, global_batch=options.micro_batch * options.lanes, micro_batch=options.micro_batch
    )
    train = dataclasses.replace(config.train, mixup_alpha=0.0)
    loss = dataclasses.replace(config.loss, name="cross_entropy", class_weights="none")
    return dataclasses.replace(config, data=data, train=train, loss=loss, precision="fp32")


def made_batches(config: Config, device: torch.device) -> list[Batch]:
    """A step's micro-batches as the loader gives them, on the host."""
    size, found = config.data.global_batch // config.data.num_lanes, []
    for _ in range(config.data.num_lanes):
        inputs = made_inputs(size, torch.device("cpu"))
        batch = Batch(
            images=torch.randint(256, (size, 1, 224, 224), dtype=torch.uint8),
            tokens=inputs.tokens,
            attention_mask=inputs.attention_mask,
            labels=torch.randint(CLASSES, (size, 1)),
            groups=torch.zeros(size, dtype=torch.int64),
            sample_ids=torch.arange(size),
        )
        found.append(batch.pin_memory() if device.type == "cuda" else batch)
    return found


def ours(config: Config, model: Classifier, device: torch.device, batches: list[Batch]) -> Way:
    """The package's step."""
    step = new_step(config, model, device)
    return lambda number: step(number, 0, batches, False)


def bare(config: Config, model: Classifier, device: torch.device, batches: list[Batch]) -> Way:
    """A tutorial's step."""
    optim = config.optim
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True
    )

    def step(number: int) -> None:
        for batch in (each.to(device) for each in batches):
            assert batch.images is not None
            logits = model(IMAGENET.normalise(batch.images), batch.tokens, batch.attention_mask)
            loss = functional.cross_entropy(logits, batch.labels[:, 0]) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(way: Way, steps: int, device: torch.device) -> float:
    """Seconds of a step, over so many in a row."""
    start = time.perf_counter()
    for number in range(steps):
        way(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def measure(
    ways: dict[str, Way], options: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a step by way, turn by turn; the order is reversed in every second turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():  # kernels are chosen, moments and caches made
        timed(way, 2, device)
    for turn in range(options.turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(timed(ways[name], options.steps, device))
    return seconds


def main() -> None:
    """Take turns, print the two medians and the overhead, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1, help="in a row, in each turn; more on a GPU")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, model = configured(options), build(device).train()
    batches = made_batches(config, device)
    ways = {"bare": bare(config, model, device, batches), "ours": ours(config, model, device, batches)}
    seconds = measure(ways, options, device)
    model.zero_grad(set_to_none=True)
    ceilings, loaded = measure_ceilings(device, config.precision), load_steps(config, options.turns)
    phases = measure_phases(config, model, device, loaded, options.turns, ceilings)
    report(seconds, phases, vars(options), device)


def report(
    seconds: dict[str, list[float]], phases: Table, options: dict[str, int], device: torch.device
) -> None:
    """Print medians, overhead and phases, and write the result."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    overhead = {"of medians": medians["ours"] / medians["bare"] - 1, "in pairs": statistics.median(pairs) - 1}
    print(f"{options['lanes']} × {options['micro_batch']} samples on {device.type}: seconds a step, median")
    for name, values in seconds.items():
        print(f"  {name:<8}{medians[name]:9.4f}  ({min(values):.4f} to {max(values):.4f})")
    for name, share in overhead.items():
        print(f"  overhead, {name:<12}{share:+8.2%}  (target: at most {TARGET:.0%})")
    show_phases(f"{options['lanes']} × {options['micro_batch']} samples", phases)
    result = {"what": "the training step beside a bare PyTorch loop, seconds", "options": options}
    result |= {"device": device.type, "seconds": seconds, "medians": medians, "overhead": overhead}
    result |= {"target": TARGET, "phases": phases, "machine": describe_machine()}
    result_path("step", device).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
