"""The cost of Monte-Carlo dropout: 30 passes of each scope beside one pass, and the original's 10 full passes.

    python -m benchmarks.mc_dropout [--batch 8] [--passes 30] [--repeats 3] [--threads 1]

DenseNet-121 at 224 pixels and a BERT of Bio_ClinicalBERT's shape, both with random weights (the time is the same),
token fusion, float32; reports of 32 to 128 tokens, evenly spread. The ways take turns; the medians and their spread
go into benchmarks/results/mc_dropout.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.hardware import describe_machine, result_path
from cxr_dist.config.model import ModelConfig
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, McScope, mc_logits, stochastic

BERT_BASE = {"model_type": "bert", "vocab_size": 28996}  # the rest are transformers' defaults: BERT-base
ORIGINAL_PASSES = 10
Way = Callable[[], object]


def build(device: torch.device) -> Classifier:
    """The enhanced model with random weights, in eval mode."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(BERT_BASE))
        torch.manual_seed(0)
        return build_classifier(ModelConfig(), 5, Path(folder)).eval().to(device)


def made_inputs(batch: int, device: torch.device) -> Inputs:
    """Random films and reports of 32 to 128 tokens, padded to the longest as the loader does."""
    lengths = torch.linspace(32, 128, batch).round().long()
    mask = (torch.arange(128) < lengths[:, None]).long()
    return Inputs(
        images=torch.randn(batch, 1, 224, 224).to(device),
        tokens=(torch.randint(1000, 28000, (batch, 128)) * mask).to(device),
        attention_mask=mask.to(device),
    )


@torch.no_grad()
def encode_and_sample(model: Classifier, inputs: Inputs, passes: int, scope: McScope) -> None:
    """What evaluation does with a batch: the deterministic answer, then the passes."""
    features = model.encode(inputs)
    model.classify(features)
    if passes:
        assert inputs.images is not None
        ids = torch.arange(len(inputs.images), device=inputs.images.device)
        mc_logits(model, inputs, features, ids, McDropout(passes=passes, scope=scope), seed=0)


@torch.no_grad()
def original(model: Classifier, inputs: Inputs) -> None:
    """The original notebook's way: the whole network once per pass, with its layers of dropout in training mode."""
    with stochastic(model):
        for _ in range(ORIGINAL_PASSES):
            model(*inputs)


def ways(model: Classifier, inputs: Inputs, passes: int) -> dict[str, Way]:
    """Name -> what is timed."""
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


def timed(way: Way, device: torch.device) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Take turns, print a table, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compared = ways(build(device), made_inputs(options.batch, device), options.passes)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for name in ("one pass", f"{options.passes} passes, head"):
        timed(compared[name], device)  # first calls choose kernels and fill caches
    for _ in range(options.repeats):
        for name, way in compared.items():
            seconds[name].append(timed(way, device))
    report(seconds, vars(options), device)


def report(seconds: dict[str, list[float]], options: dict[str, int], device: torch.device) -> None:
    """Print the table with the two ratios that matter, and write benchmarks/results/mc_dropout.json."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    passes = options["passes"]
    bound = medians["text encoder alone"] * passes + medians["image encoder alone"]
    ratios = {
        "head / one pass": medians[f"{passes} passes, head"] / medians["one pass"],
        f"text / ({passes} × text encoder + image encoder)": medians[f"{passes} passes, text"] / bound,
        "original / head": medians[f"original, {ORIGINAL_PASSES} passes"] / medians[f"{passes} passes, head"],
    }
    print(f"batch of {options['batch']} on {device.type}: seconds, median (lowest to highest)")
    for name, values in seconds.items():
        print(f"  {name:<24}{medians[name]:9.3f}  ({min(values):.3f} to {max(values):.3f})")
    for name, ratio in ratios.items():
        print(f"  {name:<50}{ratio:7.3f}")
    result = {"what": "Monte-Carlo dropout, seconds per batch", "options": options, "device": device.type}
    result |= {"seconds": seconds, "medians": medians, "ratios": ratios, "machine": describe_machine()}
    path = result_path("mc_dropout", device)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
