"""The predictions of one run on one split, and predictions.csv, which stores them without loss.

Metrics, intervals and figures are functions of this table alone. It holds opaque keys and patient hashes, never
report text or file names of the source.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.uncertainty import McSummary
from cxr_dist.files import open_regular, write_whole
from cxr_dist.format.escape import csv_line, csv_text
from cxr_dist.format.manifest import UNKNOWN, Task

_ATTRIBUTE = "attribute:"


@dataclass(frozen=True, kw_only=True)
class OneClass:
    """One class against the rest, on the m samples whose label is known."""

    name: str
    truth: Bools
    """[m], whether the class is present."""
    score: Floats
    """[m], predicted probability of the class, 0 to 1."""
    predicted: Bools
    """[m], whether the class is predicted."""
    known: Bools
    """[n], which of the split's samples have a known label."""

    @property
    def has_both_sides(self) -> bool:
        """Whether there are both positive and negative samples."""
        return bool(self.truth.any() and not self.truth.all())


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Labels and predictions for the n samples of one split, in the split's order."""

    task: Task
    classes: tuple[str, ...]
    keys: list[str]
    patients: list[str]
    """Opaque patient identifier of each sample; the bootstrap resamples patients."""
    labels: NDArray[np.int16]
    """[n, L]: the class index (L = 1), or for multilabel 1, 0 or -1 (unknown) for each class (L = C)."""
    probabilities: Floats
    """[n, C], from the deterministic pass, calibrated if there is a calibration. All metrics judge these."""
    uncalibrated: Floats | None = None
    """[n, C], `probabilities` before calibration; None if they are not calibrated."""
    mc: McSummary | None = None
    """Summary of the stochastic passes; None if none were run."""
    attributes: Mapping[str, list[str]] = field(default_factory=dict)
    """Attribute (view, sex, age band) -> value for each sample, empty if unknown. They define the subgroups."""
    not_evaluated: tuple[str, ...] = ()
    """Classes that the evaluated shards lack. No label of theirs is known, so all their metrics are undefined."""

    def __post_init__(self) -> None:
        n, width = len(self.keys), 1 if self.task == "multiclass" else len(self.classes)
        assert len(self.patients) == n
        assert self.labels.shape == (n, width)
        assert self.probabilities.shape == (n, len(self.classes))
        assert self.uncalibrated is None or self.uncalibrated.shape == self.probabilities.shape
        assert all(len(values) == n for values in self.attributes.values())
        if n == 0:
            raise UserError("no predictions: the split is empty")
        bad = int((~np.isfinite(self.probabilities).all(axis=1)).sum())
        if bad:
            raise UserError(
                f"{bad} of {n} samples have a probability that is not a number: the model diverged; "
                "evaluate an earlier checkpoint, or train again with a lower --optim.lr"
            )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The predicted labels; see `decide`."""
        return decide(self.probabilities, self.task)

    def one_class(self, index: int) -> OneClass:
        """Class `index` against the rest, on the samples whose label is known."""
        score = self.probabilities[:, index]
        if self.task == "multiclass":
            known = np.full(len(self), self.classes[index] not in self.not_evaluated)
            truth, predicted = self.labels[:, 0] == index, self.predicted == index
        else:
            known = self.labels[:, index] != UNKNOWN
            truth, predicted = self.labels[:, index] == 1, self.predicted[:, index] == 1
        return OneClass(
            name=self.classes[index],
            truth=truth[known],
            score=score[known],
            predicted=predicted[known],
            known=known,
        )

    def each_class(self) -> list[OneClass]:
        """`one_class` for every class, in order."""
        return [self.one_class(index) for index in range(len(self.classes))]

    @property
    def raw(self) -> Floats:
        """[n, C], the probabilities of the deterministic pass as the model gave them."""
        return self.probabilities if self.uncalibrated is None else self.uncalibrated

    def calibrated(self, calibrator: Calibrator | None) -> "Predictions":
        """These predictions with their raw probabilities calibrated, or, without a calibration, as they are."""
        if calibrator is None or calibrator.method == "none":
            return dataclasses.replace(self, probabilities=self.raw, uncalibrated=None)
        return dataclasses.replace(self, probabilities=calibrator.apply(self.raw, self.task), uncalibrated=self.raw)

    def select(self, rows: NDArray[np.int64]) -> "Predictions":
        """The samples at `rows`, [m] indices below n, in that order; an index may occur more than once."""
        return dataclasses.replace(
            self,
            keys=[self.keys[row] for row in rows],
            patients=[self.patients[row] for row in rows],
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            uncalibrated=None if self.uncalibrated is None else self.uncalibrated[rows],
            mc=None if self.mc is None else self.mc.select(rows),
            attributes={name: [values[row] for row in rows] for name, values in self.attributes.items()},
        )

    def write_csv(self, path: Path) -> None:
        """Write predictions.csv atomically. Floats are written so that they read back exactly."""
        columns = _columns(self)
        write_whole(path, "".join(map(csv_line, [columns, *zip(*columns.values(), strict=True)])))

    @classmethod
    def read_csv(cls, path: Path) -> "Predictions":
        """Read a file written by `write_csv`; raises UserError if it is missing, damaged or another kind of file."""
        if not path.is_file():
            raise UserError(f"no {path.name} in {path.parent}: run `cxr-dist evaluate`")
        try:
            with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            table = dict(zip(header, zip(*rows, strict=True), strict=True))
            return _from_table(header, table)
        except (KeyError, IndexError, ValueError, AssertionError, csv.Error) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{path.name} in {path.parent} is not a complete predictions table: run `cxr-dist evaluate` again"
            ) from None


def decide(probabilities: Floats, task: Task) -> NDArray[np.int64]:
    """Predicted labels from probabilities [n, C].

    Multiclass: [n], the most probable class, the first if several are equal. Multilabel: [n, C], 1 where p ≥ 0.5.
    """
    answers = probabilities.argmax(axis=1) if task == "multiclass" else probabilities >= 0.5
    return np.asarray(answers, dtype=np.int64)


def _columns(p: Predictions) -> dict[str, Sequence[str | int]]:
    """Column name -> n cells; `probability` is never calibrated, and `predicted` follows `calibrated` if there is one.

    `predicted` and `mutual_information` are derived, so reading ignores them.
    """
    columns: dict[str, Sequence[str | int]] = {"key": p.keys, "patient": p.patients}
    columns |= {_ATTRIBUTE + name: values for name, values in p.attributes.items()}
    if p.task == "multiclass":
        columns["label"] = [p.classes[label] for label in p.labels[:, 0]]
        columns["predicted"] = [p.classes[label] for label in p.predicted]
    else:
        for c, name in enumerate(p.classes):
            columns[f"label:{name}"] = ["" if v == UNKNOWN else str(v) for v in p.labels[:, c].tolist()]
            columns[f"predicted:{name}"] = p.predicted[:, c].tolist()
    columns |= _per_class("probability", p.classes, p.raw)
    if p.uncalibrated is not None:
        columns |= _per_class("calibrated", p.classes, p.probabilities)
    if p.mc is not None:
        columns |= _per_class("mc_mean", p.classes, p.mc.mean)
        columns |= _per_class("mc_variance", p.classes, p.mc.variance)
        for name in ("predictive_entropy", "expected_entropy", "mutual_information"):
            columns[name] = _exact(getattr(p.mc, name))
        columns["mc_passes"] = [p.mc.passes] * len(p)
    return columns


def _per_class(prefix: str, classes: tuple[str, ...], values: Floats) -> dict[str, list[str]]:
    return {f"{prefix}:{name}": _exact(values[:, c]) for c, name in enumerate(classes)}


def _exact(values: Floats) -> list[str]:
    return [repr(value) for value in values.tolist()]


def _from_table(header: list[str], table: dict[str, tuple[str, ...]]) -> Predictions:
    classes = tuple(name.removeprefix("probability:") for name in header if name.startswith("probability:"))
    task: Task = "multiclass" if "label" in table else "multilabel"
    if task == "multiclass":
        code = {name: c for c, name in enumerate(classes)}
        labels = [[code[csv_text(cell)]] for cell in table["label"]]
    else:
        columns = [[int(v) if v else UNKNOWN for v in table[f"label:{name}"]] for name in classes]
        labels = np.array(columns).T.tolist()
    raw, calibrated = _matrix("probability", classes, table), None
    if any(name.startswith("calibrated:") for name in header):
        calibrated = _matrix("calibrated", classes, table)
    return Predictions(
        task=task,
        classes=classes,
        keys=list(map(csv_text, table["key"])),
        patients=list(map(csv_text, table["patient"])),
        labels=np.array(labels, dtype=np.int16),
        probabilities=raw if calibrated is None else calibrated,
        uncalibrated=None if calibrated is None else raw,
        mc=_read_mc(classes, table) if "mc_passes" in table else None,
        attributes={
            name.removeprefix(_ATTRIBUTE): list(map(csv_text, table[name]))
            for name in header
            if name.startswith(_ATTRIBUTE)
        },
    )


def _matrix(prefix: str, classes: tuple[str, ...], table: dict[str, tuple[str, ...]]) -> Floats:
    return np.array([table[f"{prefix}:{name}"] for name in classes], dtype=np.float64).T.copy()


def _read_mc(classes: tuple[str, ...], table: dict[str, tuple[str, ...]]) -> McSummary:
    return McSummary(
        mean=_matrix("mc_mean", classes, table),
        variance=_matrix("mc_variance", classes, table),
        predictive_entropy=np.array(table["predictive_entropy"], dtype=np.float64),
        expected_entropy=np.array(table["expected_entropy"], dtype=np.float64),
        passes=int(table["mc_passes"][0]),
    )
