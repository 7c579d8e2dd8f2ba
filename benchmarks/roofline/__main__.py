"""Measure how close DenseNet-121 and BERT-base come to the device's limits, and the phases of a training step.

    python -m benchmarks.roofline [--micro-batch 4] [--lanes 2] [--turns 3] [--precisions fp32 bf16] [--threads 2]

In the roofline model (Williams et al. 2009), work takes at least the longer of operations / (rate of the largest matrix
product) and bytes / (rate of a copy); ceilings.py measures both rates. Bytes are the inputs and outputs of every
operation that runs, as if no cache kept anything between operations, so a fused kernel can reach a larger share.
Operations are those of the model on real tokens only. Weights are random, images have 224 pixels and reports 32 to 128
tokens. phases.py measures the phases of the enhanced run's step. Writes benchmarks/results/roofline.json, on a GPU
roofline-cuda.json.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import page
from benchmarks.full_size import build, configured, synthetic_batches
from benchmarks.harness import arguments, this_device, write_result
from benchmarks.roofline.ceilings import Ceilings, fastest, measure_ceilings
from benchmarks.roofline.phases import Loaded, load_steps, measure_phases
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.image_encoder import IMAGENET
from cxr_dist.train.flops import BACKWARD, count_flops

Work = Callable[[], object]
_SECONDS = 4.0  # for each measurement


class Traffic(TorchDispatchMode):
    """Adds up the bytes of the inputs and outputs of every operation except views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count its bytes."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in str(func):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def measured(work: Work, operations: float, samples: int, device: torch.device, ceilings: Ceilings) -> dict[str, Any]:
    """A row of the table: the work and time of a pass over a micro-batch, and its shares of the ceilings."""
    with Traffic() as traffic:
        work()
    moved, seconds = float(traffic.bytes), fastest(work, device, _SECONDS)
    by_products = operations / ceilings.operations_per_second
    by_bytes = moved / ceilings.bytes_per_second
    return {
        "operations_per_sample": operations / samples,
        "bytes_per_sample": moved / samples,
        "operations_per_byte": operations / moved,
        "seconds_per_sample": seconds / samples,
        "of_product_ceiling": by_products / seconds,
        "of_copy_ceiling": by_bytes / seconds,
        "longer": "products" if by_products > by_bytes else "bytes",
        "of_roofline": max(by_products, by_bytes) / seconds,
    }


def encoder_rows(
    model: Classifier, size: int, device: torch.device, precision: str, ceilings: Ceilings
) -> dict[str, dict[str, Any]]:
    """The rows by `ENCODER, PASS`, for both encoders, with and without the backward pass."""
    assert model.image is not None
    assert model.text is not None
    [batch] = synthetic_batches(size, 1, device, packed=True)
    inputs = batch.to(device)
    assert inputs.images is not None
    images = IMAGENET.normalise(inputs.images)
    works: dict[str, tuple[str, Callable[[], torch.Tensor]]] = {
        "DenseNet-121": ("image", lambda: model.image(images)[0]),
        "BERT-base": (
            "text",
            lambda: model.text(inputs.tokens, inputs.attention_mask, inputs.token_positions),
        ),
    }
    flops, found = count_flops(model, 224), {}
    assert flops is not None
    forward = flops.forward(batch)
    for name, (part, run) in works.items():
        for trained in (False, True):
            model.train(trained)
            operations = forward[part] * (1 + BACKWARD if trained else 1)
            row = measured(_pass(run, device, precision, trained), operations, size, device, ceilings)
            found[f"{name}, {'forward and backward' if trained else 'forward'}"] = row
            model.zero_grad(set_to_none=True)
    return found


def _pass(run: Callable[[], torch.Tensor], device: torch.device, precision: str, trained: bool) -> Work:
    def work() -> None:
        with torch.set_grad_enabled(trained):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = run()
            if trained:
                outputs.float().sum().backward()  # type: ignore[no-untyped-call]

    return work


def measure(device: torch.device, precision: str, options: argparse.Namespace, loaded: Loaded) -> dict[str, Any]:
    """The tables of one precision."""
    ceilings = measure_ceilings(device, precision)
    encoders = encoder_rows(build(device), options.micro_batch, device, precision, ceilings)
    config = dataclasses.replace(configured(options.micro_batch, options.lanes), precision=precision)
    phases = measure_phases(config, build(device).train(), device, loaded, options.turns, ceilings)
    return {"ceilings": dataclasses.asdict(ceilings), "encoders": encoders, "phases": phases}


def main() -> None:
    """Measure ceilings, encoders and phases at each precision, write the result and print the tables."""
    device = this_device()
    cuda = device.type == "cuda"
    options = arguments(
        __doc__,
        micro_batch=64 if cuda else 4,
        lanes=2,
        turns=(20 if cuda else 3, "number of steps whose phases are timed"),
        precisions=["fp32", "bf16"],
        threads=os.cpu_count(),
    )
    torch.set_num_threads(options.threads)
    loaded = load_steps(configured(options.micro_batch, options.lanes), options.turns)
    tables = {precision: measure(device, precision, options, loaded) for precision in options.precisions}
    what = "rooflines of the encoders and phases of a training step"
    write_result("roofline", what, options, device, precisions=tables)
    page.show("roofline", device.type)


if __name__ == "__main__":
    main()
