"""Compare the mean validation AUC of the demo's baseline in float32 and in bf16, with the same seeds.

    python -m benchmarks.bf16_auc [--seeds 10] [--epochs 4] [--threads 2]

A seed fixes the initial weights, the order and augmentation of the images, and dropout, so the two precisions differ
by rounding only. This difference is compared with the variation between seeds. Writes
benchmarks/results/bf16_auc.json.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks import page
from benchmarks.films import demo_shards
from benchmarks.harness import arguments, this_device, write_result
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train

PRECISIONS = ("fp32", "bf16")


def shortened(shards: Path, out: Path, seed: int, precision: str, epochs: int) -> Config:
    """The demo's baseline for `epochs` epochs, validated at the end."""
    config = named_run("demo-baseline")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, shards=str(shards)),
        train=dataclasses.replace(config.train, epochs=epochs, eval_every=10**6),
        seed=seed,
        precision=precision,
        out=str(out),
    )


def final_auc(run_dir: Path) -> float:
    """The mean AUC of the last validation."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return float([line["validation"]["mean_auc"] for line in lines if "validation" in line][-1])


def main() -> None:
    """Train every seed in both precisions, print the table and write the result."""
    options = arguments(__doc__, seeds=10, epochs=4, threads=2)
    torch.set_num_threads(options.threads)
    aucs: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as name:
        shards = demo_shards(Path(name))
        for seed in range(options.seeds):
            for precision in PRECISIONS:
                out = Path(name) / f"{precision}-{seed}"
                train(shortened(shards, out, seed, precision, options.epochs), StopRequest(0))
                aucs[precision].append(final_auc(out))
    report(aucs, options)


def report(aucs: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Write the result and print the table."""
    means = {name: statistics.mean(values) for name, values in aucs.items()}
    spreads = {name: statistics.stdev(values) for name, values in aucs.items()}
    pairs = [half - single for single, half in zip(aucs["fp32"], aucs["bf16"], strict=True)]
    device = this_device()
    found = {"standard deviations": spreads, "bf16 - fp32 by seed": pairs}
    what = "validation AUC in float32 and bf16"
    write_result("bf16_auc", what, options, device, aucs=aucs, means=means, **found)
    page.show("bf16_auc", device.type)


if __name__ == "__main__":
    main()
