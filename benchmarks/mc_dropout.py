"""Measure the cost of Monte-Carlo dropout: 30 passes of each scope, one pass, and the original's 10 full passes.

    python -m benchmarks.mc_dropout [--batch 8] [--passes 30] [--repeats 3] [--threads 1]

DenseNet-121 at 224 pixels and a BERT of the size of Bio_ClinicalBERT, with random weights, which take the same time as
pretrained ones; token fusion, float32, and reports of 32 to 128 tokens, evenly spread. The ways take turns. Writes
benchmarks/results/mc_dropout.json.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.full_size import build, synthetic_inputs
from benchmarks.harness import (
    arguments,
    in_turns,
    medians,
    show,
    show_numbers,
    this_device,
    timed,
    write_result,
)
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, McScope, mc_logits, stochastic

ORIGINAL_PASSES = 10
Way = Callable[[], object]


@torch.no_grad()
def encode_and_sample(model: Classifier, inputs: Inputs, passes: int, scope: McScope) -> None:
    """Process a batch as evaluation does: first the deterministic pass, then the stochastic ones."""
    features = model.encode(inputs)
    model.classify(features)
    if passes:
        assert inputs.images is not None
        ids = torch.arange(len(inputs.images), device=inputs.images.device)
        mc_logits(model, inputs, features, ids, McDropout(passes=passes, scope=scope), seed=0)


@torch.no_grad()
def original(model: Classifier, inputs: Inputs) -> None:
    """Run the whole network once per pass with dropout in training mode, as the original notebook does."""
    with stochastic(model):
        for _ in range(ORIGINAL_PASSES):
            model(*inputs)


def ways(model: Classifier, inputs: Inputs, passes: int) -> dict[str, Way]:
    """The functions to time, by name."""
    assert model.image is not None
    assert model.text is not None
    image, text = torch.no_grad()(model.image), torch.no_grad()(model.text)
    return {
        "one pass": lambda: encode_and_sample(model, inputs, 0, "head"),
        "image encoder alone": lambda: image(inputs.images),
        "text encoder alone": lambda: text(inputs.tokens, inputs.attention_mask),
        f"{passes} passes, head": lambda: encode_and_sample(model, inputs, passes, "head"),
        f"{passes} passes, text": lambda: encode_and_sample(model, inputs, passes, "text"),
        f"original, {ORIGINAL_PASSES} passes": lambda: original(model, inputs),
    }


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, batch=8, passes=30, repeats=3, threads=1)
    torch.set_num_threads(options.threads)
    device = this_device()
    compared = ways(build(device), synthetic_inputs(options.batch, device), options.passes)
    for name in ("one pass", f"{options.passes} passes, head"):
        compared[name]()  # the first calls choose kernels and fill caches
    clocked = {name: partial(timed, way, device) for name, way in compared.items()}
    report(in_turns(clocked, options.repeats, warm_up=0), options, device)


def report(seconds: dict[str, list[float]], options: argparse.Namespace, device: torch.device) -> None:
    """Print the table with three ratios, and write the result."""
    middle, passes = medians(seconds), options.passes
    bound = middle["text encoder alone"] * passes + middle["image encoder alone"]
    ratios = {
        "head / one pass": middle[f"{passes} passes, head"] / middle["one pass"],
        f"text / ({passes} × text encoder + image encoder)": middle[f"{passes} passes, text"] / bound,
        "original / head": middle[f"original, {ORIGINAL_PASSES} passes"] / middle[f"{passes} passes, head"],
    }
    print(f"batch of {options.batch} on {device.type}: seconds, median (lowest to highest)")
    show(seconds, 3)
    show_numbers(ratios)
    what = "Monte-Carlo dropout, seconds per batch"
    write_result("mc_dropout", what, options, device, seconds=seconds, medians=middle, ratios=ratios)


if __name__ == "__main__":
    main()
