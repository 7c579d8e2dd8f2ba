"""Score Grad-CAM of a small model against the boxes of NIH ChestX-ray14.

    python -m benchmarks.explanations [--source DIR] [--epochs 10] [--size 128] [--seed 0] [--threads 1]

DIR holds the tables and images of the data set, whole or in part (shards/nih_cxr14.yaml); the default is nih-cxr14/ in
the folder of real data: ../shared/data, or the one that CXR_DIST_REAL_DATA names. A narrow DenseNet is trained on it
from random weights, and evaluated on a test split of 30% of the patients with `--boxes`. The model is much smaller, and
sees far fewer images, than published ones: the result says how the scores behave, not what Grad-CAM can do. Writes
benchmarks/results/explanations.json.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import ROOT, arguments, this_device, write_result
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run.preempt import StopRequest
from cxr_dist.shard.recipe import Split, load_recipe
from cxr_dist.shard.write import write_shards
from cxr_dist.train.assembly import train

_SPLIT = Split(by="patient", train=0.55, val=0.15, test=0.30, seed=42)  # a large test split has more of the few boxes
_MAPS = ("grad_cam", "centred_gaussian", "random")


def nih_shards(source: Path, out: Path, size: int, workers: int) -> Path:
    """Shards of the data set with images of `size` pixels."""
    recipe = load_recipe(ROOT / "shards" / "nih_cxr14.yaml")
    image = dataclasses.replace(recipe.image, short_side=size)
    write_shards(dataclasses.replace(recipe, image=image, split=_SPLIT), source, out, workers=workers)
    return out


def small_run(shards: Path, out: Path, size: int, epochs: int, seed: int) -> Config:
    """The demo's image model with images of `size` pixels."""
    config = named_run("demo-baseline")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, shards=str(shards), image_size=size),
        train=dataclasses.replace(config.train, epochs=epochs, early_stopping_patience=0),
        seed=seed,
        out=str(out),
    )


def main() -> None:
    """Shard, train, evaluate, print the scores and write the result."""
    options = arguments(__doc__, source=Path, epochs=10, size=128, seed=0, threads=1)
    data = Path(os.environ.get("CXR_DIST_REAL_DATA", ROOT.parent / "shared" / "data"))
    source = options.source or data / "nih-cxr14"
    if not source.is_dir():
        sys.exit("skipped: no images of NIH ChestX-ray14; name their folder with --source")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        shards = nih_shards(source, Path(name) / "shards", options.size, options.threads)
        run = Path(name) / "run"
        train(small_run(shards, run, options.size, options.epochs, options.seed), StopRequest(0))
        evaluation = evaluate_runs([run], run, "test", McDropout(), with_boxes=True)
    assert evaluation is not None
    report(evaluation, options)


def report(evaluation: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the result and print the table."""
    scores = evaluation["explanations"]
    for name, block in [("all", scores["all"]), *scores["per_class"].items()]:
        print(f"{name}: {block['findings']} findings of {block['patients']} patients, area {block['area']:.3f}")
        for each in _MAPS:
            values = [block["maps"][each][measure] for measure in ("hit_rate", "energy_inside")]
            cells = [f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for v in values]
            print(f"  {each:<20} hit rate {cells[0]}   energy inside {cells[1]}")
    print(scores["statement"])
    auc = {"value": evaluation["metrics"]["macro"]["roc_auc"]} | evaluation["intervals"]["macro"]["roc_auc"]
    classes = {name: of_class["roc_auc"] for name, of_class in evaluation["metrics"]["per_class"].items()}
    what = "Grad-CAM of a small model against the boxes of NIH ChestX-ray14"
    write_result("explanations", what, options, this_device(), macro_roc_auc=auc, roc_auc=classes, explanations=scores)


if __name__ == "__main__":
    main()
