"""Measure how often a 95% interval covers the true value of each metric, on data sets whose truth is known.

    python -m benchmarks.coverage [--trials 400] [--resamples 400]

A data set has patients with one to three images, whose noise is correlated, and classes with few positive images. A
trial in which a metric is undefined is not counted. Writes benchmarks/results/coverage.json.
"""

import time

import numpy as np

from benchmarks.coverage.made import Design
from benchmarks.coverage.methods import METHODS
from benchmarks.harness import arguments, write_result
from cxr_dist.evaluate.intervals import MetricPath, resampled

RANKED = ("roc_auc", "average_precision")
SHARES = ("recall", "specificity", "precision", "accuracy", "balanced_accuracy", "f1")
PROMISED = 0.93
"""The least coverage of the intervals of metrics.json, apart from the error of the simulation."""


def designs() -> list[tuple[Design, list[MetricPath]]]:
    """Each design with the metrics that are judged there."""
    one, macro = ("per_class", "class 0"), ("macro",)
    ranked: list[MetricPath] = [(*branch, name) for branch in (one, macro) for name in RANKED]
    shares: list[MetricPath] = [(*branch, name) for branch in (one, macro) for name in SHARES]
    found = [
        (Design(positives=count, images=120, auc=auc), ranked) for auc in (0.8, 0.92, 0.98) for count in (6, 8, 10)
    ]
    found += [(Design(positives=count, images=120, auc=0.98, recall=0.95), shares) for count in (20, 25, 29)]
    found += [(Design(positives=count, images=120, auc=0.9, recall=0.7), shares) for count in (6, 8, 10)]
    losses: list[MetricPath] = [("log_loss",), ("brier",)]
    found += [
        (Design(positives=count, images=120, auc=auc, classes=1, random=True), losses)
        for auc in (0.8, 0.92)
        for count in (6, 10)
    ]
    return found


def cover(
    design: Design, paths: list[MetricPath], trials: int, resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Metric -> method -> {"coverage", "width" (median), "empty" (share of intervals without a width), "trials"}."""
    random, truths = np.random.default_rng(design.positives), design.truths()
    found: dict[MetricPath, dict[str, list[tuple[float, float]]]] = {p: {m: [] for m in METHODS} for p in paths}
    for trial in range(trials):
        predictions = design.draw(random)
        many = resampled(predictions, resamples, trial)
        for name, method in METHODS.items():
            intervals = method(predictions, many)
            for path in paths:
                low, high = intervals.get(path, (np.nan, np.nan))
                if not np.isnan(low):
                    found[path][name].append((low, high))
    table: dict[str, dict[str, dict[str, float]]] = {}
    for path, methods in found.items():
        table["/".join(path)] = {"true": {"value": truths[path]}}
        for name, bounds_of_trials in methods.items():
            if bounds_of_trials:
                low, high = np.array(bounds_of_trials).T
                table["/".join(path)][name] = {
                    "coverage": float(((low <= truths[path]) & (truths[path] <= high)).mean()),
                    "width": float(np.median(high - low)),
                    "empty": float((high <= low).mean()),
                    "trials": len(low),
                }
    return table


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, trials=(400, "data sets of each design"), resamples=400)
    started, results = time.perf_counter(), {}
    for design, paths in designs():
        results[design.name] = table = cover(design, paths, options.trials, options.resamples)
        print(f"\n{design.name}\n  {'coverage / median width':<36}" + "".join(f"{name:>16}" for name in METHODS))
        for metric, methods in table.items():
            cells = (methods.get(name) for name in METHODS)
            texts = (f"{cell['coverage']:.3f} / {cell['width']:.3f}" if cell else "" for cell in cells)
            print(f"  {metric:<36}" + "".join(f"{text:>16}" for text in texts), flush=True)
    ours = [each["cxr_dist"]["coverage"] for table in results.values() for each in table.values()]
    print(f"\nlowest coverage of cxr_dist: {min(ours):.3f}; promised: {PROMISED}, ± 0.02 in {options.trials} trials")
    what = "how often 95% intervals cover the true value, with few positives"
    write_result("coverage", what, options, lowest=min(ours), designs=results, seconds=time.perf_counter() - started)


if __name__ == "__main__":
    main()
