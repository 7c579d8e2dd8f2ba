"""Draw docs/images/speed.svg from the results of benchmarks.original: samples per second by way, run and device.

    python -m benchmarks.original.picture

The picture has no background and mid-tone colours, which can be read on white and on black.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import ROOT, result_path
from benchmarks.resized_run.picture import BLUE, GREEN, INK, QUIET, STYLE

PICTURE = ROOT / "docs" / "images" / "speed.svg"
_BAR = 0.24  # inches
_NAMES = {"enhanced": "enhanced (image and report)", "baseline": "baseline (image)"}


def draw(path: Path = PICTURE) -> None:
    """Write the picture; equal results give equal bytes."""
    files = [result_path("original", kind) for kind in ("cpu", "cuda")]
    results = [json.loads(file.read_text()) for file in files if file.is_file()]
    runs = list(results[0]["runs"])
    rows = max(len(_bars(result["runs"][run])) for result in results for run in runs)
    with mpl.rc_context(STYLE | {"svg.hashsalt": "speed"}):
        size = (5.2 * len(results), (rows * _BAR + 0.9) * len(runs))
        figure = Figure(figsize=(max(size[0], 8.6), size[1]), layout="constrained")
        panels = figure.subplots(len(runs), len(results), squeeze=False)
        for column, result in enumerate(results):
            for row, run in enumerate(runs):
                _draw_panel(panels[row][column], result, run)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _bars(tables: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    """Name, samples per second, multiple of the original and colour of each bar; the whole loops come last."""
    found = []
    for kind, table in tables.items():
        original = next(iter(table["medians"].values()))
        for name, rate in table["medians"].items():
            words = f"{name}, {kind}" if kind != "step" else name
            colour = QUIET if rate is original else BLUE if kind == "step" else GREEN
            found.append((words, rate, rate / original, colour))
    return found


def _draw_panel(axes: Axes, result: dict[str, Any], run: str) -> None:
    bars = _bars(result["runs"][run])
    names, rates, times, colours = zip(*bars, strict=True)
    places = [row + 0.6 * (row >= len(result["runs"][run]["step"]["medians"])) for row in range(len(bars))]
    axes.barh(places, rates, color=colours, height=0.72)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.16)
    for place, rate, multiple in zip(places, rates, times, strict=True):
        shown = f" {rate:,.{2 if rate < 10 else 1 if rate < 100 else 0}f}"
        words = shown if multiple == 1 else f"{shown}  ({multiple:.{2 if multiple < 10 else 0}f} ×)"
        axes.text(rate, place, words, va="center", fontsize=9)
    axes.set_title(f"{_NAMES.get(run, run)} on {_device(result)}", fontsize=10, color=INK, loc="left")
    axes.set_xlabel("Samples per second")


def _device(result: dict[str, Any]) -> str:
    gpu = result["machine"]["gpu"]
    return " ".join(gpu.split()[:2]) if result["device"] == "cuda" else f"{result['options']['threads']} CPU cores"


if __name__ == "__main__":
    draw()
