"""What the report alone and the image alone reach, and what each adds to the other, by paired differences.

Each fused run is compared to one run that reads only the report and to one that reads only the image: the first of the
same named run (so that recipe and input are not confounded), otherwise the first. A run of the same seed comes first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cxr_dist.evaluate.paired import Difference, holm, p_text
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.run.folder import training_differences

MAIN = "macro_roc_auc"
"""The metric of the statements, and the one whose p-values are adjusted."""
_NAMED = 3  # settings in a statement


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A fused run, a run that lacks one of its inputs, and the differences fused - single."""

    fused: RunResult
    single: RunResult
    differences: Mapping[str, Difference]
    """Metric -> fused minus single."""

    @property
    def removed(self) -> str:
        """The input that `single` lacks: `image` or `report`."""
        return "image" if self.single.mode == "text" else "report"

    @property
    def kept(self) -> str:
        """The input that `single` reads."""
        return "report" if self.single.mode == "text" else "image"

    @property
    def other_settings(self) -> list[str]:
        """The settings other than the input in which the two runs differ, and which change what is trained."""
        names = [line.split(":")[0] for line in training_differences(self.fused.config, self.single.config)]
        return [name for name in names if name not in ("run", "model.mode")]

    @property
    def alone(self) -> str:
        """What the single input reaches."""
        reached = self.single.estimate("macro", "roc_auc")
        return f"The {self.kept} alone ({self.single.name}) reaches a macro ROC AUC of {interval_text(reached)}."

    @property
    def added(self) -> str:
        """What the other input adds, in words that follow from the interval of the paired difference."""
        difference = self.differences[MAIN]
        pair = f"{self.fused.name} − {self.single.name}, {p_text(difference)}"
        if difference.value is None:
            return f"What the {self.removed} adds is not defined ({self.fused.name} − {self.single.name})."
        if difference.low is not None and difference.low > 0:
            return f"The {self.removed} adds {interval_text(difference)}: {pair}."
        signed = interval_text(difference, signed=True)
        if difference.high is not None and difference.high < 0:
            return f"With the {self.removed}, the result is worse: {signed}, {pair}."
        return f"For the {self.removed}, no difference is shown: {signed}, {pair}."

    @property
    def caution(self) -> str:
        """That the runs differ in more than their input, or an empty string."""
        names = self.other_settings
        if not names:
            return ""
        more = f" and {len(names) - _NAMED} more settings" if len(names) > _NAMED else ""
        return f"They also differ in {', '.join(names[:_NAMED])}{more}: not all of this is due to the input."

    @property
    def statement(self) -> str:
        """The sentences of the page, the terminal and comparison.json."""
        return " ".join(filter(None, (self.alone, self.added, self.caution)))

    def to_dict(self) -> dict[str, Any]:
        """The entry of comparison.json."""
        return {
            "run": self.fused.name,
            "compared_to": self.single.name,
            "removed": self.removed,
            "other_settings": self.other_settings,
            "statement": self.statement,
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
        }


def pairs_of(runs: Sequence[RunResult]) -> Iterator[tuple[RunResult, RunResult]]:
    """Yields each fused run with the report-only run, then with the image-only run, that it is compared to."""
    for fused in (run for run in runs if run.mode == "fused"):
        for mode in ("text", "image"):
            singles = [run for run in runs if run.mode == mode]
            if singles:
                yield fused, max(singles, key=partial(_likeness, fused))


def _likeness(a: RunResult, b: RunResult) -> tuple[bool, bool]:
    return a.config.run == b.config.run, a.config.seed == b.config.seed


def adjusted(table: Sequence[Mapping[str, Difference]]) -> list[Mapping[str, Difference]]:
    """The differences of one table, with the p-values of the main metric adjusted for their number by Holm's method."""
    family = holm([differences[MAIN] for differences in table])
    return [dict(differences) | {MAIN: main} for differences, main in zip(table, family, strict=True)]


def interval_text(estimate: Estimate | Difference, signed: bool = False) -> str:
    """`0.038 (0.011 to 0.067)`, or with a sign where it may be negative; the value alone without an interval."""

    def written(value: float) -> str:
        return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")

    if estimate.value is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{written(estimate.value)} (no interval)"
    return f"{written(estimate.value)} ({written(estimate.low)} to {written(estimate.high)})"
