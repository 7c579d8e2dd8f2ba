"""Does bf16 cost accuracy? The demo's baseline in float32 and in bf16, with the same seeds: mean validation AUC.

    python -m benchmarks.bf16_auc [--seeds 10] [--epochs 4] [--threads 2]

A seed fixes first weights, order and augmentation of the films, and dropout. So the two precisions differ by rounding
alone, and that is compared with what another seed does. Writes benchmarks/results/bf16_auc.json.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.hardware import describe_machine, result_path
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.run.preempt import StopRequest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards
from cxr_dist.train.assembly import train

RECIPE = Path(__file__).parents[1] / "shards" / "demo.yaml"
PRECISIONS = ("fp32", "bf16")


def shortened(shards: Path, out: Path, seed: int, precision: str, epochs: int) -> Config:
    """The demo's baseline for so many epochs, validated at the end."""
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
    """The mean AUC of the last validation, here the only one."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return float([line["validation"]["mean_auc"] for line in lines if "validation" in line][-1])


def main() -> None:
    """Train each seed in both precisions, print the table, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    aucs: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(load_recipe(RECIPE), None, folder / "shards", workers=2)
        for seed in range(options.seeds):
            for precision in PRECISIONS:
                out = folder / f"{precision}-{seed}"
                train(shortened(folder / "shards", out, seed, precision, options.epochs), StopRequest(0))
                aucs[precision].append(final_auc(out))
    report(aucs, vars(options))


def report(aucs: dict[str, list[float]], options: dict[str, int]) -> None:
    """Print the table with the two differences that matter, and write the result."""
    means = {name: statistics.mean(values) for name, values in aucs.items()}
    spreads = {name: statistics.stdev(values) for name, values in aucs.items()}
    pairs = [half - single for single, half in zip(aucs["fp32"], aucs["bf16"], strict=True)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"mean validation AUC after {options['epochs']} epochs, {options['seeds']} seeds, {device.type}")
    for name, values in aucs.items():
        print(f"  {name}: {means[name]:.4f} ± {spreads[name]:.4f}  ({', '.join(f'{v:.4f}' for v in values)})")
    difference = means["bf16"] - means["fp32"]
    print(f"  bf16 - fp32: {difference:+.4f}; a standard deviation over seeds in fp32: {spreads['fp32']:.4f}")
    result = {"what": "validation AUC in float32 and bf16", "options": options, "device": device.type}
    result |= {"aucs": aucs, "means": means, "standard deviations": spreads, "bf16 - fp32 by seed": pairs}
    result |= {"machine": describe_machine()}
    result_path("bf16_auc", device).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
