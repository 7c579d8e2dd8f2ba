"""The variation between seeds: runs that differ in nothing but their seed.

A bootstrap interval says how a result would vary with other test patients. It does not contain what another random
start, order and augmentation of the training would change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.run.folder import training_differences

_Paths = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Two or more runs that differ only in their seed."""

    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        """The names of the runs."""
        return ", ".join(run.name for run in self.runs)

    def values(self, *path: str) -> list[float | None]:
        """The metric of each run."""
        return [run.estimate(*path).value for run in self.runs]

    def mean(self, *path: str) -> float | None:
        """The mean over the runs in which the metric is defined."""
        known = self._known(path)
        return float(np.mean(known)) if known else None

    def standard_deviation(self, *path: str) -> float | None:
        """The standard deviation of the seeds (divided by their number - 1); None with fewer than two values."""
        known = self._known(path)
        return float(np.std(known, ddof=1)) if len(known) > 1 else None

    def to_dict(self, paths: _Paths) -> dict[str, Any]:
        """The entry of comparison.json."""
        metrics = {
            name: {
                "values": self.values(*path),
                "mean": self.mean(*path),
                "standard_deviation": self.standard_deviation(*path),
            }
            for name, path in paths.items()
        }
        return {
            "runs": [run.name for run in self.runs],
            "seeds": [run.config.seed for run in self.runs],
            "metrics": metrics,
        }

    def _known(self, path: tuple[str, ...]) -> list[float]:
        return [value for value in self.values(*path) if value is not None]


def seed_groups(runs: Sequence[RunResult]) -> list[SeedGroup]:
    """The groups of runs that differ only in their seed; ensembles are not grouped."""
    groups: list[list[RunResult]] = []
    for run in (run for run in runs if len(run.members) == 1):
        same = next((group for group in groups if _differ_in_seed(group[0], run)), None)
        if same is None:
            groups.append([run])
        elif all(run.config.seed != other.config.seed for other in same):
            same.append(run)
    return [SeedGroup(runs=tuple(group)) for group in groups if len(group) > 1]


def _differ_in_seed(a: RunResult, b: RunResult) -> bool:
    """Whether two runs have the same settings and training data, apart from their seed."""
    names = [line.split(":")[0] for line in training_differences(a.config, b.config)]
    return set(names) <= {"seed"} and a.environment.get("manifest_sha256") == b.environment.get("manifest_sha256")
