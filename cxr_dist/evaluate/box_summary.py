"""The scores of heat maps against boxes as the block "explanations" of metrics.json, with intervals over patients."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.bootstrap import LEVEL, divide, interval, patient_weights
from cxr_dist.evaluate.box_scores import GAUSSIAN_DEVIATION, POINTING_TOLERANCE
from cxr_dist.evaluate.explain_boxes import COLUMNS, MAP_SEED, MAPS

REFERENCE = "centred_gaussian"
"""The map from which the explanations of a model should differ."""
EXPLANATIONS = ("grad_cam", "attention")
MAP_TITLES = {
    "grad_cam": "Grad-CAM",
    "attention": "The attention of the report",
    "centred_gaussian": "Centred Gaussian",
    "random": "Random map",
}
_MEASURES = {"hit_rate": "hit", "energy_inside": "inside"}
_NUM_BOOTSTRAP = 1000
_INTERVALS = (
    "over patients: Wilson with an effective sample size (hit rate), the same with the variance between patients and "
    "Student's t (energy inside), paired percentile bootstrap (differences)"
)


def explanations(
    table: Floats, patients: NDArray[np.bytes_], classes: Sequence[str], input_pixels: int
) -> dict[str, Any]:
    """The block "explanations" from a table of scores [findings, COLUMNS].

    Args:
        table: From `Explained.box_scores`.
        patients: The patient of each sample of the split, [n].
        classes: The model's classes.
        input_pixels: The side of the network's input.

    Raises UserError if no box can be scored, or if the model has no Grad-CAM.
    """
    shown = _column(table, "area") > 0
    if not shown.any():
        raise UserError(
            "no sample of the split has a box of a class of the model inside the centre crop that the model reads: "
            "choose another --split, or leave --boxes out"
        )
    scored = table[shown]
    if np.isnan(_column(scored, "grad_cam:hit")).all():
        raise UserError(
            "--boxes needs Grad-CAM, which this model does not have: the tokens of its image encoder do not form a "
            "grid over the image, or do not affect its answer. Leave --boxes out"
        )
    of_patients = np.unique(patients[scored[:, 0].astype(np.int64)], return_inverse=True)[1]
    rows_of = {name: _column(scored, "class") == index for index, name in enumerate(classes)}
    overall = _block(scored, of_patients)
    return {
        "statement": _statement(overall),
        "tolerance": POINTING_TOLERANCE,
        "input_pixels": input_pixels,
        "gaussian_deviation": GAUSSIAN_DEVIATION,
        "random_seed": MAP_SEED,
        "intervals": {"level": LEVEL, "method": _INTERVALS, "n_bootstrap": _NUM_BOOTSTRAP, "seed": MAP_SEED},
        "boxes_outside_crop": int(_column(table, "outside").sum()),
        "all": overall,
        "per_class": {name: _block(scored[rows], of_patients[rows]) for name, rows in rows_of.items() if rows.any()},
        "classes_without_boxes": [name for name, rows in rows_of.items() if not rows.any()],
    }


def _statement(block: dict[str, Any]) -> str:
    """What the scores over all classes say, in words."""
    reference = block["maps"][REFERENCE]
    sentences = [
        f"A centred Gaussian, which knows nothing of the image, points into a box for "
        f"{_percent(reference['hit_rate']['value'])} of {block['findings']} findings, with "
        f"{_percent(reference['energy_inside']['value'])} of its sum inside."
    ]
    for name in EXPLANATIONS:
        scores, differences = block["maps"][name], block[f"difference_to_{REFERENCE}"][name]
        if scores is None:
            continue
        hits, inside = (_with_interval(scores[measure]) for measure in _MEASURES)
        more, sums = (_verdict(differences[measure]) for measure in _MEASURES)
        sentences.append(f"{MAP_TITLES[name]} points into a box for {hits}, {more}, and has {inside} inside, {sums}.")
    return " ".join(sentences)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _with_interval(estimate: dict[str, float]) -> str:
    value, low, high = (_percent(estimate[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _verdict(difference: dict[str, Any]) -> str:
    """Whether a map differs from the reference, by the interval of the paired difference."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "which is not shown to differ from the Gaussian"
    return f"{'more' if difference['low'] > 0 else 'less'} than the Gaussian"


def _column(table: Floats, name: str) -> Floats:
    return table[:, COLUMNS.index(name)]


def _block(table: Floats, patients: NDArray[np.int64]) -> dict[str, Any]:
    """The scores of each map over some findings; null for a map that the model does not have."""
    maps = {name: _of_map(table, patients, name) for name in MAPS}
    return {
        "findings": len(table),
        "samples": len(np.unique(_column(table, "sample"))),
        "patients": len(np.unique(patients)),
        "boxes": int((_column(table, "boxes") - _column(table, "outside")).sum()),
        "area": float(_column(table, "area").mean()),
        "maps": maps,
        f"difference_to_{REFERENCE}": {
            name: None if maps[name] is None else dict(_differences(table, patients, name)) for name in EXPLANATIONS
        },
    }


def _of_map(table: Floats, patients: NDArray[np.int64], name: str) -> dict[str, Any] | None:
    hits, inside = _column(table, f"{name}:hit"), _column(table, f"{name}:inside")
    if np.isnan(hits).all():
        return None
    counts = _per_patient(np.ones(len(table)), patients)
    return {
        "hit_rate": _estimate(wilson.share(_per_patient(hits, patients), counts)),
        "energy_inside": _estimate(wilson.bounded_mean(_per_patient(inside, patients), counts)),
        "empty_maps": int(_column(table, f"{name}:empty").sum()),
    }


def _per_patient(values: Floats, patients: NDArray[np.int64]) -> Floats:
    return np.bincount(patients, values).astype(np.float64)[np.unique(patients)]


def _estimate(bounds: wilson.Bounds | None) -> dict[str, float | None]:
    assert bounds is not None
    return {"value": bounds.value, "low": bounds.low, "high": bounds.high}


def _differences(table: Floats, patients: NDArray[np.int64], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(measure, the map's mean minus that of the reference on the same findings, with its interval)."""
    weights = np.concatenate(list(patient_weights([str(p) for p in patients], _NUM_BOOTSTRAP, MAP_SEED)))
    several = len(np.unique(patients)) > 1
    for measure, score in _MEASURES.items():
        difference = _column(table, f"{name}:{score}") - _column(table, f"{REFERENCE}:{score}")
        resamples = divide(weights @ difference, weights.sum(axis=1))
        bounds = interval(resamples) if several else {"low": None, "high": None}
        yield measure, {"value": float(difference.mean()), "low": bounds["low"], "high": bounds["high"]}
