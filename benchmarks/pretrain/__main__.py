"""Measure what contrastive pretraining costs: seconds of a step, bytes that a rank sends, and predicted memory.

    python -m benchmarks.pretrain [--micro-batch 2] [--lanes 4] [--turns 3] [--ranks 1 2] [--parts time memory]

The steps of the runs pretrain and enhanced (DenseNet-121 at 224 pixels, BERT-base, random weights, float32) compute the
same samples in the same processes and take turns, with gloo and one thread a rank on the CPU, or NCCL and one GPU each;
the ratio is the median over pairs of neighbours. The memory of a rank of the run pretrain is that which `cxr-dist plan`
predicts for a GPU, for larger and larger global batches of the same micro-batch. A part that is not measured keeps its
earlier results. Writes benchmarks/results/pretrain.json.
"""

import argparse
import dataclasses
import json
import statistics
from typing import Any

from benchmarks.full_size import CLASSES, bert_folder
from benchmarks.harness import arguments, found_by_ranks, result_path, show, this_device, write_result
from cxr_dist.config.named import named_run
from cxr_dist.train.memory.footprint import footprint
from cxr_dist.train.memory.needs import peak, with_checkpointing

Found = dict[str, Any]
WHAT = "contrastive pretraining beside a plain step"
PARTS = {"measured": "time", "memory": "memory"}  # key of the result: part
GLOBAL_BATCHES, CHECKPOINTING = (64, 256, 1024, 4096), ("off", "all")


def measured(ranks: int, options: argparse.Namespace) -> Found:
    """Seconds and bytes of both steps at this number of ranks, and the ratio of the seconds."""
    found: Found = found_by_ranks(ranks, "benchmarks.pretrain.ranks", options)
    pairs = zip(found["seconds"]["pretrain"], found["seconds"]["plain"], strict=True)
    ratios = [ours / plain for ours, plain in pairs]
    found["ratio_of_seconds"] = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    print(f"{ranks} ranks: seconds of a step, and bytes that a rank sends")
    show(found["seconds"], 2, lambda name: f"{found['bytes_sent'][name] / 1e6:.2f} MB")
    print(f"  ratio of seconds {found['ratio_of_seconds']}")
    return found


def memory(micro_batch: int) -> Found:
    """Checkpointing -> global batch -> bytes of a rank of eight, in bf16 with DDP, for a GPU."""
    found: Found = {}
    run = named_run("pretrain")
    with bert_folder() as folder:
        for setting in CHECKPOINTING:
            for size in GLOBAL_BATCHES:
                data = dataclasses.replace(run.data, global_batch=size, micro_batch=micro_batch)
                config = with_checkpointing(dataclasses.replace(run, data=data), setting)
                sizes = footprint(config, CLASSES, folder, "cuda")
                assert sizes is not None
                need = peak(sizes, "ddp", ranks=1, several=True, averaged=False)
                found.setdefault(setting, {})[str(size)] = need
                print(f"  checkpointing {setting}, global batch {size}: {need / 2**30:.2f} GiB", flush=True)
    return found


def main() -> None:
    """Measure and write the result."""
    options = arguments(
        __doc__,
        micro_batch=2,
        lanes=(4, "of a step, over all ranks"),
        turns=3,
        ranks=[1, 2],
        parts=["time", "memory"],
        memory_micro_batch=16,
    )
    device = this_device()
    path = result_path("pretrain", device.type)
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    found: Found = {key: {} if part in options.parts else earlier.get(key, {}) for key, part in PARTS.items()}
    if "memory" in options.parts:
        found["memory"] = memory(options.memory_micro_batch)
        write_result("pretrain", WHAT, options, device, **found)
    for ranks in options.ranks if "time" in options.parts else []:
        found["measured"][str(ranks)] = measured(ranks, options)
        write_result("pretrain", WHAT, options, device, **found)


if __name__ == "__main__":
    main()
