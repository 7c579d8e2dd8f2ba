"""Write docs/explanation/speed.md from benchmarks/results: tables for each topic, by device.

    python -m benchmarks.page

All figures come from the results. `make bench` and `make bench-gpu` run this module last.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT, medians, result_path

PAGE = ROOT / "docs" / "explanation" / "speed.md"
DEVICES = {"cpu": "", "cuda": "-cuda"}  # device: suffix of its results' names
MIB, GIB = 2**20, 2**30

Result = dict[str, Any]
INTRODUCTION = """\
# Speed, memory and scaling

This page is written by `python -m benchmarks.page` from the files in `benchmarks/results`, which also hold every single
measurement, the options and the versions. `make bench` repeats all measurements, and `make bench-gpu` those on a GPU.
The models are DenseNet-121 with 224-pixel images of one channel and BERT-base, with random weights, which take the same
time as pretrained ones. Times are medians; the ways that a table compares took turns in one run.
"""


def markdown(header: str, rows: Iterable[str]) -> str:
    """A Markdown table whose columns after the first are numbers; ` | ` separates the cells of `header` and `rows`."""
    lines = [header, " | ".join(["---", *["---:"] * header.count(" | ")]), *rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def cells(*texts: str) -> str:
    """A row of these cells."""
    return " | ".join(texts)


def training(result: Result) -> str:
    """Samples per second of each way of benchmarks.original."""
    parts = []
    for run, kinds in result["runs"].items():
        rows = []
        for kind, table in kinds.items():
            rates, first = table["medians"], table["first update, seconds"]
            original = next(iter(rates.values()))
            end = "" if kind == "step" else f", {kind}"
            rows += [
                f"{name}{end} | {rate:.2f} | {rate / original:.2f} × | {first[name]:.1f}"
                for name, rate in rates.items()
            ]
        parts.append(markdown(f"{run} | samples per second | relative to the original | first update, s", rows))
    return "\n".join(parts)


def ceilings(result: Result) -> str:
    """Operations, bytes and shares of the ceilings for both encoders."""
    parts = []
    for precision, tables in result["precisions"].items():
        most = tables["ceilings"]
        parts.append(
            f"{precision}: matrix products reach {most['operations_per_second'] / 1e12:.2f} TFLOP/s, copies "
            f"{most['bytes_per_second'] / 1e9:.1f} GB/s.\n"
        )
        rows = (
            f"{name} | {row['operations_per_sample'] / 1e9:.1f} | {row['bytes_per_sample'] / 1e6:.0f} | "
            f"{row['seconds_per_sample'] * 1e3:.2f} | {row['of_product_ceiling']:.0%} | {row['of_copy_ceiling']:.0%}"
            for name, row in tables["encoders"].items()
        )
        parts.append(markdown("per sample | GFLOP | MB | ms | share of product rate | share of copy rate", rows))
    return "\n".join(parts)


def phases(result: Result) -> str:
    """The phases of the enhanced run's step, three columns per precision."""
    tables = {precision: each["phases"] for precision, each in result["precisions"].items()}

    def figures(row: Result) -> str:
        of_ceiling = f"{row['of_ceiling']:.0%}" if "of_ceiling" in row else ""
        return f"{row['seconds'] * 1e3:.1f} | {row['share']:.1%} | {of_ceiling}"

    names = next(iter(tables.values()))
    rows = (cells(phase, *(figures(table[phase]) for table in tables.values())) for phase in names)
    header = cells("", *(f"{name}, ms | share of the step | share of product rate" for name in tables))
    size = f"{result['options']['lanes']} micro-batches of {result['options']['micro_batch']}"
    return f"A step of {size}; `data` is the work of one loader, parallel to the step.\n\n{markdown(header, rows)}"


def text(result: Result) -> str:
    """Operations on padding and times, by layout of the reports."""
    layouts = ["padded to the limit", "padded to the longest", "packed"]
    rows = (
        cells(f"{name}, {size}", *(f"{shares[layout]:.1%}" for layout in layouts))
        for name, table in result["shares_on_padding"].items()
        for size, shares in table.items()
        if size.startswith("micro-batch")
    )
    padding = markdown(cells("share of operations on padding", *layouts), rows)
    times = {precision: medians(result["times"][precision]["seconds"]) for precision in ("fp32", "bf16")}
    rows = (cells(precision, *(f"{found[layout]:.3f}" for layout in layouts)) for precision, found in times.items())
    words = f"A micro-batch of {result['options']['batch']} reports with the lengths of Open-i's:"
    return f"{padding}\n{words}\n\n{markdown(cells('forward and backward, s', *layouts), rows)}"


def memory(result: Result) -> str:
    """Predicted and measured bytes, and the largest micro-batches."""

    def name(row: Result) -> str:
        setting = row["gradient_checkpointing"] or "off"
        ranks = "1 rank" if row["ranks"] == 1 else f"{row['ranks']} ranks, {row['parallel']}"
        return f"{row['run']}, {row['precision']}, checkpointing {setting}, {ranks}"

    def figures(row: Result, *keys: str) -> str:
        if "allocated" not in row:
            return cells(f"{row['predicted'] / MIB:.0f}", "out of memory", *[""] * (len(keys) - 1))
        return cells(*(f"{row[key] / MIB:.0f}" for key in keys), f"{row['error']:+.1%}")

    rows = (
        cells(name(row), str(row["micro_batch"]), figures(row, "predicted", "allocated", "process"))
        for row in result["rows"]
    )
    found = result["largest_micro_batch"]
    largest = (
        cells(
            f"{name(row)} | {row['micro_batch']} | {row['largest'] or ''}",
            figures(row, "predicted", "allocated"),
        )
        for row in found
    )
    words = f"The largest micro-batch whose step stays below {found[0]['limit'] / GIB:.1f} GiB per rank:"
    table = markdown("MiB per rank | micro-batch | predicted | tensors | process | error", rows)
    header = " | predicted | measured | predicted MiB | tensors MiB | error"
    return f"{table}\n{words}\n\n{markdown(header, largest)}"


def scaling(result: Result) -> str:
    """Measured steps, bytes by engine, and predictions for larger clusters."""
    measured, first = result["measured"], result["measured"]["1"]
    weak_1, strong_1 = (statistics.median(each) for each in (first["weak"]["fp32"]["with"], first["strong"]))
    rows = []
    for ranks, found in measured.items():
        weak, strong = statistics.median(found["weak"]["fp32"]["with"]), statistics.median(found["strong"])
        efficiency = strong_1 / strong / int(ranks)
        rows.append(f"{ranks} | {weak:.2f} | {weak_1 / weak:.0%} | {strong:.2f} | {efficiency:.0%}")
    header = f"ranks | weak, s | efficiency | {result['options']['lanes']} lanes, s | efficiency"
    parts = [markdown(header, rows)]
    crossing = [
        f"{ranks} ranks, {name} | {found['bytes_sent'] / 1e6:.0f} | {len(found['buckets'])} | "
        f"{found['all_reduce_alone']:.2f} | {statistics.median(found['with']):.2f} | "
        f"{statistics.median(found['without']):.2f}"
        for ranks, each in measured.items()
        if ranks != "1"
        for name, found in each["weak"].items()
    ]
    header = "gradients | MB sent per rank | buckets | all-reduce alone, s | step, s | step without all-reduce, s"
    engines = (
        cells(name, *(f"{size / 1e6:.0f}" for size in each["model_bytes_by_formula_by_lanes"].values()))
        for name, each in result["bytes_by_engine"].items()
    )
    parts += [
        markdown(header, crossing) if crossing else "",
        "Bytes by engine at 2 ranks, from formulas that agreed with the bytes counted for a small network:\n",
        markdown("MB sent per rank | 1 lane | 4 lanes", engines),
    ]
    if check := result["check"]:
        ranks, crowding = check["ranks"], check["ranks_per_core"]
        rows = [
            f"{name} | {seconds:.2f} | {check['measured_seconds'][name]:.2f} | {check['error'][name]:+.0%}"
            for name, seconds in check["predicted_seconds"].items()
        ]
        parts.append(f"Predicted from 1 and 2 ranks for {ranks} ranks, {crowding:.0f} per core:\n")
        parts.append(markdown(" | predicted, s | measured, s | error", rows))
    return "\n".join([*parts, predicted(result["predicted"])])


def predicted(found: Result) -> str:
    """Predicted all-reduce and shortest step, by network and ranks."""
    rows: dict[str, list[str]] = {}
    for row in found["rows"]:
        name = f"{row['network']}, {'float32' if row['comm_hook'] == 'none' else 'bf16'}"
        cell = f"{row['weak']['all_reduce_seconds'] * 1e3:.0f} / {row['shortest_step_seconds'] * 1e3:.0f}"
        rows.setdefault(name, [name]).append(cell)
    ranks = sorted({row["ranks"] for row in found["rows"]})
    return (
        "**Predicted, not measured**: milliseconds of the all-reduce, and of the shortest step of one micro-batch "
        f"that is still {found['efficiency_of_shortest_step']:.0%} efficient, with {found['gpus_per_node']} GPUs per "
        "node and NVLink; the network rate is that of a node. A longer step is at least as efficient.\n\n"
        + markdown(cells("network, gradients", *map(str, ranks)), (cells(*row) for row in rows.values()))
        + f"\nAssumptions: {'; '.join(found['assumptions'])}; links reach "
        f"{found['links']['share_of_nominal']:.0%} of their nominal rate.\n"
    )


def exact_sums(result: Result) -> str:
    """Seconds and bytes of a step with the plain sum and with exact sums, and the memory of a rank."""
    rows = []
    for ranks, found in result["measured"].items():
        seconds, ratio, sent = medians(found["seconds"]), found["ratio_of_seconds"], found["bytes_sent"]
        ratios = f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        crossing = f"{sent['plain'] / 1e6:.0f} | {sent['exact'] / 1e6:.0f}"
        rows.append(f"{ranks} | {seconds['plain']:.2f} | {seconds['exact']:.2f} | {ratios} | {crossing}")
    options = result["options"]
    machine = result["machine"]
    words = (
        f"A step of {options['lanes']} lanes of {options['micro_batch']}; ratios are those of {options['turns']} pairs "
        f"and their range. The load average was {machine['load_average']:.0f} on {machine['cpus']} cores."
    )
    header = "ranks | plain, s | exact, s | exact / plain | MB sent per rank, plain | exact"
    needs = (
        f"{name} | {row['predicted'] / MIB:.0f} | {row['allocated'] / MIB:.0f} | {row['error']:+.1%}"
        for name, row in result["memory"].items()
    )
    text = f"{words}\n\n{markdown(header, rows)}"
    if not result["memory"]:
        return text
    table = markdown("ranks × lanes per rank | predicted MiB per rank | tensors | error", needs)
    return f"{text}\nExact sums, micro-batch {options['memory_micro_batch']}:\n\n{table}"


def startup(result: Result) -> str:
    """Seconds of each phase of a start, and of commands."""
    ways = result["starts"]
    names = dict.fromkeys(phase for spent in ways.values() for phase in spent if phase != "total")
    rows = (
        cells(phase, *(f"{spent[phase]:.1f}" if phase in spent else "" for spent in ways.values()))
        for phase in [*names, "total"]
    )
    commands = (f"{name} | {seconds:.2f}" for name, seconds in result["commands"].items())
    header = cells("seconds until the end of the first step", *ways)
    return f"{markdown(header, rows)}\n{markdown(' | s', commands)}"


def accuracy(result: Result) -> str:
    """Validation AUCs by precision."""
    means, spreads = result["means"], result["standard deviations"]
    rows = (f"{name} | {means[name]:.3f} | {spreads[name]:.3f}" for name in result["aucs"])
    differences = result["bf16 - fp32 by seed"]
    words = f"{statistics.mean(differences):+.3f} ± {statistics.stdev(differences):.3f}"
    options = result["options"]
    return (
        f"Validation AUC of the demo's baseline after {options['epochs']} epochs, over {options['seeds']} seeds:\n\n"
        + markdown(" | mean | standard deviation over seeds", rows)
        + f"\nThe difference bf16 - float32 with the same seed is {words} (mean ± standard deviation).\n"
    )


SECTIONS: tuple[tuple[str, str, Callable[[Result], str]], ...] = (
    ("From the original notebook to this package", "original", training),
    ("Device limits, and the encoders' share of them", "roofline", ceilings),
    ("Phases of a training step", "roofline", phases),
    ("Reports without padding", "text", text),
    ("Memory", "memory", memory),
    ("Scaling", "scaling", scaling),
    ("Exact sums", "exact_sums", exact_sums),
    ("Start-up", "startup", startup),
    ("Accuracy in bf16", "bf16_auc", accuracy),
)


def page(results: Path) -> str:
    """The whole page, with the devices that were measured."""
    parts = [INTRODUCTION]
    if not any(results.glob("*-cuda.json")):
        parts.append("No GPU was available; all figures are those of a CPU.\n")
    for title, name, describe in SECTIONS:
        parts.append(f"## {title}\n")
        if name == "original":
            parts.append("![Samples per second of the original notebook and after each change](../images/speed.svg)\n")
        for end in DEVICES.values():
            path = results / f"{name}{end}.json"
            if path.is_file():
                result = json.loads(path.read_text())
                parts += [f"*{_machine(result)}; `python -m benchmarks.{name}`*\n", describe(result)]
    return "\n".join(parts)


def show(name: str, device_type: str) -> None:
    """Print the tables of a result."""
    result = json.loads(result_path(name, device_type).read_text(encoding="utf-8"))
    print("\n".join(describe(result) for _, of, describe in SECTIONS if of == name))


def _machine(result: Result) -> str:
    machine = result["machine"]
    device = machine["gpu"] or f"{machine['processor']}, {machine['cpus']} cores"
    return f"{device}, torch {machine['versions']['torch']}, {machine['date']}"


if __name__ == "__main__":
    PAGE.write_text(page(RESULTS))
