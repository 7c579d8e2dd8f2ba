"""Draw the random properties of a synthetic study: the patient's build and age, the finding and how plain it is.

They depend only on (seed, study). Studies of the same patient share build and age.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

PhantomFinding = Literal["normal", "cardiomegaly", "effusion", "opacity", "nodule"]
FINDINGS: dict[PhantomFinding, float] = {
    "normal": 0.36, "cardiomegaly": 0.16, "effusion": 0.16, "opacity": 0.17, "nodule": 0.15,
}  # fmt: skip
"""PhantomFinding -> expected share of the studies."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """The chest of a patient, in unit coordinates of the image."""

    half_width: float
    apex: float
    dome: float
    heart_ratio: float
    """Heart width over chest width without cardiomegaly."""
    ribs: float
    """Height of the first rib."""
    stoutness: float
    """Soft tissue over the lungs, 0 to 1."""
    breasts: float
    """Shadow over the lower lungs, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One visit of a patient."""

    number: int
    patient: int
    age: int
    """Years."""
    build: Build
    finding: PhantomFinding
    plainness: float
    """How clearly the image shows the finding, from 0 (barely) to 1 (plainly)."""
    side: Literal["right", "left"]
    """Side of the finding, as seen by the patient."""
    zone: Literal["upper", "mid", "lower"]
    """Height of the finding in the lung."""
    has_lateral: bool

    @property
    def sex(self) -> Literal["F", "M"]:
        """F if the image shows breasts, else M."""
        return "F" if self.build.breasts > 0 else "M"

    @property
    def views(self) -> tuple[str, ...]:
        """The projections of the study."""
        return ("PA", "LATERAL") if self.has_lateral else ("PA",)


def draw_study(seed: int, number: int) -> Study:
    """Draw study `number` of the data set `seed`."""
    # Every fifth study is a second visit of the previous patient.
    patient = number - 1 if number % 5 == 4 else number
    rng = np.random.default_rng([seed, 1, number])
    names, shares = list(FINDINGS), list(FINDINGS.values())
    return Study(
        number=number,
        patient=patient,
        age=int(np.random.default_rng([seed, 4, patient]).integers(19, 91)),
        build=_draw_build(np.random.default_rng([seed, 0, patient])),
        finding=names[int(rng.choice(len(names), p=shares))],
        plainness=float(rng.beta(1.3, 1.2)),
        side="right" if rng.random() < 0.5 else "left",
        zone=("upper", "mid", "lower")[int(rng.integers(3))],
        has_lateral=bool(rng.random() < 0.25),
    )


def _draw_build(rng: np.random.Generator) -> Build:
    return Build(
        half_width=float(rng.uniform(0.335, 0.39)),
        apex=float(rng.uniform(0.10, 0.15)),
        dome=float(rng.uniform(0.68, 0.77)),
        heart_ratio=float(np.clip(rng.normal(0.455, 0.03), 0.39, 0.52)),
        ribs=float(rng.uniform(0.13, 0.17)),
        stoutness=float(rng.uniform(0.0, 1.0)),
        breasts=float(max(0.0, rng.uniform(-1.0, 1.0))),
    )
