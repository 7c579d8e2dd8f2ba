"""How near DenseNet-121 and BERT-base come to what the device can do, and where a training step's time goes.

    python -m benchmarks.roofline [--micro-batch 4] [--lanes 2] [--turns 3] [--precisions fp32 bf16] [--threads 2]

The roofline model (Williams et al. 2009): work of so many operations and bytes takes at least the longer of
operations / (rate of the largest matrix product) and bytes / (rate of a copy), both measured here (ceilings.py). Bytes
are the inputs and outputs of every operation that runs, as if no cache kept anything between two of them: what fused
kernels would save is in the achieved share. Operations are the model's, on real tokens only.
Weights are random; films have 224 pixels, reports 32 to 128 tokens. Then the phases of the enhanced run's step
(phases.py), by precision. Results go into benchmarks/results/roofline.json, from a GPU into roofline-cuda.json.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.ceilings import Ceilings, fastest, measure_ceilings
from benchmarks.hardware import describe_machine, result_path
from benchmarks.mc_dropout import build, made_inputs
from benchmarks.phases import Loaded, load_steps, measure_phases, show_phases
from benchmarks.step import configured
from cxr_dist.data.batch import Batch
from cxr_dist.data.packing import packed_positions
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.flops import BACKWARD, count_flops

Work = Callable[[], object]
_SECONDS = 4.0  # for each figure


class Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's inputs and outputs; a view moves none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in str(func):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def measured(
    work: Work, operations: float, samples: int, device: torch.device, ceilings: Ceilings
) -> dict[str, Any]:
    """A row: what a pass over a micro-batch does and takes, and its shares of the ceilings."""
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
    """`ENCODER, PASS` -> row, for both encoders, forward alone and with the backward pass."""
    assert model.image is not None
    assert model.text is not None
    inputs = made_inputs(size, device)
    assert inputs.attention_mask is not None
    positions = packed_positions(inputs.attention_mask.cpu()).to(device)
    works: dict[str, tuple[str, Callable[[], torch.Tensor]]] = {
        "DenseNet-121": ("image", lambda: model.image(inputs.images)[0]),
        "BERT-base": ("text", lambda: model.text(inputs.tokens, inputs.attention_mask, positions)),
    }
    flops, found = count_flops(model, 224), {}
    assert flops is not None
    forward = flops.forward(_as_batch(inputs.images, inputs.tokens, inputs.attention_mask))
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


def _as_batch(*tensors: torch.Tensor | None) -> Batch:
    images, tokens, mask = (None if each is None else each.cpu() for each in tensors)
    assert images is not None
    rows = torch.arange(len(images))
    return Batch(
        images=images, tokens=tokens, attention_mask=mask, labels=rows[:, None], groups=rows, sample_ids=rows
    )


def show_encoders(rows: dict[str, dict[str, Any]]) -> None:
    """Print one precision's rows."""
    print(
        f"  {'per sample':<36}{'GFLOP':>8}{'MB':>8}{'FLOP/B':>8}{'ms':>9}{'products':>10}{'copy':>8}{'roof':>8}"
    )
    for name, row in rows.items():
        print(
            f"  {name:<36}{row['operations_per_sample'] / 1e9:>8.1f}{row['bytes_per_sample'] / 1e6:>8.0f}"
            f"{row['operations_per_byte']:>8.1f}{row['seconds_per_sample'] * 1e3:>9.2f}"
            f"{row['of_product_ceiling']:>10.1%}{row['of_copy_ceiling']:>8.1%}{row['of_roofline']:>8.1%}"
        )


def main() -> None:
    """Measure ceilings, encoders and phases at each precision, print the tables, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--micro-batch", type=int, default=64 if cuda else 4)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20 if cuda else 3, help="steps whose phases are timed")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if cuda else "cpu")
    loaded = load_steps(configured(options), options.turns)
    tables = {precision: measure(device, precision, options, loaded) for precision in options.precisions}
    result = {"what": "rooflines of the encoders and phases of a training step", "options": vars(options)}
    result |= {"device": device.type, "precisions": tables, "machine": describe_machine()}
    result_path("roofline", device).write_text(json.dumps(result, indent=1) + "\n")


def measure(
    device: torch.device, precision: str, options: argparse.Namespace, loaded: Loaded
) -> dict[str, Any]:
    """All tables of one precision."""
    ceilings = measure_ceilings(device, precision)
    print(
        f"{precision} on {device.type}: products {ceilings.operations_per_second / 1e12:.2f} TFLOP/s, "
        f"copy {ceilings.bytes_per_second / 1e9:.1f} GB/s; {options.micro_batch} samples at once"
    )
    encoders = encoder_rows(build(device), options.micro_batch, device, precision, ceilings)
    show_encoders(encoders)
    config = dataclasses.replace(configured(options), precision=precision)
    phases = measure_phases(config, build(device).train(), device, loaded, options.turns, ceilings)
    show_phases(f"{precision}, {options.lanes} × {options.micro_batch} samples", phases)
    return {"ceilings": dataclasses.asdict(ceilings), "encoders": encoders, "phases": phases}


if __name__ == "__main__":
    main()
