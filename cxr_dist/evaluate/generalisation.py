"""A run's own test split beside its evaluations on other shards: discrimination, calibration, operating points.

`cxr-dist evaluate RUN --shards OTHER --name NAME` writes RUN/evaluation/NAME, and its metrics.json says that it is
external. A difference between two data sets is not paired: the cases differ, and so does the population.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_dist.evaluate.ablation import interval_text
from cxr_dist.evaluate.calibration import scores
from cxr_dist.evaluate.calibration_line import calibration_line
from cxr_dist.evaluate.population import population
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import Estimate, RunResult, estimate_in, read_record

_PARTS = {"age_band": "Age", "sex": "Sex", "view": "View", "prevalence": "Positive labels"}
_Row = tuple[str, str, list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One run on one data set."""

    run: str
    name: str
    """The split for the run's own shards, otherwise the name that the evaluation was given."""
    evaluation: dict[str, Any]
    """Content of metrics.json."""
    predictions: Predictions

    @property
    def external(self) -> dict[str, Any] | None:
        """The block `external` of metrics.json; None for the run's own shards."""
        return self.evaluation.get("external")

    @property
    def size(self) -> str:
        """The number of images and patients in words."""
        metrics = self.evaluation["metrics"]
        return f"{metrics['n']} images of {metrics['patients']} patients"

    @property
    def auc(self) -> Estimate:
        """The macro ROC AUC over the classes that have positives and negatives."""
        return estimate_in(self.evaluation, "macro", "roc_auc")

    @property
    def evaluated_classes(self) -> list[str]:
        """The classes of the macro ROC AUC."""
        return [one.name for one in self.predictions.each_class() if one.has_both_sides]

    @property
    def scores(self) -> dict[str, float | None]:
        """`scores` of the headline probabilities: log loss, ECE, and the calibration line of all classes together."""
        return scores(self.predictions.probabilities, self.predictions.labels, self.predictions.task)

    @property
    def calibrated(self) -> str:
        """How the headline probabilities were calibrated, in words; an earlier version left them as they were."""
        calibration = self.evaluation["calibration"]
        if calibration is None or self.predictions.uncalibrated is None:
            return "not calibrated"
        method = calibration.get("method") or ("none" if calibration["temperature"] is None else "temperature")
        source = calibration["chosen_on"].get("source", "own validation")
        return "not calibrated" if method == "none" else f"{method} ({source})"

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """Class -> metrics at the threshold that was recorded for it; classes without a threshold are left out."""
        block = self.evaluation["operating_points"]
        per_class = {} if block is None else block["per_class"]
        return {name: point["applied"] for name, point in per_class.items() if point["threshold"] is not None}

    def at_thresholds(self, metric: str, classes: Sequence[str]) -> float | None:
        """The mean of recall or specificity over these classes at their thresholds."""
        values = [self.points[name][metric]["value"] for name in classes]
        return sum(values) / len(values) if values else None

    @property
    def per_class(self) -> dict[str, dict[str, Any]]:
        """Class -> threshold, recall and specificity there, and its own calibration line."""
        per_class = (self.evaluation["operating_points"] or {}).get("per_class", {})
        return {
            one.name: {
                "roc_auc": asdict(estimate_in(self.evaluation, "per_class", one.name, "roc_auc")),
                "threshold": per_class.get(one.name, {}).get("threshold"),
                **{key: self.points.get(one.name, {}).get(key) for key in ("recall", "specificity")},
                **calibration_line(one.score, one.truth),
            }
            for one in self.predictions.each_class()
        }

    def to_dict(self) -> dict[str, Any]:
        """The entry of comparison.json."""
        return {
            "run": self.run,
            "evaluation": self.name,
            "external": self.external,
            "macro_roc_auc": asdict(self.auc),
            "classes_in_macro": self.evaluated_classes,
            "calibrated": self.calibrated,
            **self.scores,
            "per_class": self.per_class,
            "population": self.population,
        }

    @property
    def population(self) -> dict[str, Any]:
        """The recorded population; for an evaluation of an earlier version, computed from its predictions."""
        return dict(self.evaluation.get("population") or population(self.predictions))


@dataclass(frozen=True, kw_only=True)
class Generalisation:
    """A run on its own test split and on other data."""

    own: Evaluated
    others: tuple[Evaluated, ...]

    @property
    def all(self) -> tuple[Evaluated, ...]:
        return (self.own, *self.others)

    @property
    def common_points(self) -> list[str]:
        """The classes that have sensitivity and specificity at a threshold in every evaluation."""

        def known(each: Evaluated, name: str) -> bool:
            applied = each.points.get(name)
            return applied is not None and None not in (applied["recall"]["value"], applied["specificity"]["value"])

        return [name for name in self.own.predictions.classes if all(known(each, name) for each in self.all)]

    @property
    def statements(self) -> list[str]:
        """One sentence for each external evaluation."""
        return [self._statement(other) for other in self.others]

    def _statement(self, other: Evaluated) -> str:
        here, there = len(self.own.evaluated_classes), len(other.evaluated_classes)
        classes = f" over {there} classes" if here != there else ""
        own = f" over {here}" if here != there else ""
        return (
            f"{self.own.run} reaches a macro ROC AUC of {interval_text(other.auc)}{classes} on {other.name} "
            f"({other.size}), and {interval_text(self.own.auc)}{own} on its own {self.own.name} split."
        )


def read_generalisation(folders: Sequence[Path], runs: Sequence[RunResult]) -> list[Generalisation]:
    """The runs that have external evaluations, with these in the order of their names."""
    found = []
    for folder, run in zip(folders, runs, strict=True):
        own = Evaluated(
            run=run.name,
            name=str(run.evaluation["split"]),
            evaluation=run.evaluation,
            predictions=run.predictions,
        )
        others = tuple(_external(folder, run.name))
        if others:
            found.append(Generalisation(own=own, others=others))
    return found


def _external(folder: Path, run: str) -> list[Evaluated]:
    evaluations = []
    for path in sorted((folder / "evaluation").glob("*/metrics.json")):
        evaluation = read_record(path)
        if evaluation.get("external"):
            predictions = Predictions.read_csv(path.parent / "predictions.csv")
            name = str(evaluation["external"]["name"])
            evaluations.append(Evaluated(run=run, name=name, evaluation=evaluation, predictions=predictions))
    return evaluations


def populations(found: Sequence[Generalisation]) -> dict[str, dict[str, Any]]:
    """Column -> population of each data set, the own split first; a name that means two data sets names its run."""
    columns: dict[str, dict[str, Any]] = {}
    for each in (evaluated for one in found for evaluated in one.all):
        described = each.population
        name = each.name if columns.get(each.name, described) == described else f"{each.name} ({each.run})"
        columns[name] = described
    return columns


def population_shift(columns: Mapping[str, Mapping[str, Any]]) -> list[_Row]:
    """(attribute, value, the share in each column); None where the data set has no such record."""
    rows: list[_Row] = []
    for part, title in _PARTS.items():
        values = dict.fromkeys(value for each in columns.values() for value in each[part])
        absent = None if part == "prevalence" else 0.0
        for value in values:
            shares = [each[part].get(value, absent) if each[part] else None for each in columns.values()]
            rows.append((title, value, shares))
    return rows
