"""Metrics within subgroups (view, sex, age band), with intervals and a note if a group has too few cases.

A ROC AUC depends on the number of positives and of negatives, not on the number of images: 300 images with three
positives say little. A group is therefore flagged if a class of its macro average has fewer than FEW of either.

Attributes come from the samples' JSON in the shards; an age is only kept as an age band.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cxr_dist.data.store import ShardStore
from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import accuracy, curves, mean_auc
from cxr_dist.evaluate.predictions import Predictions

ATTRIBUTES = ("view", "sex")
"""Fields of a sample's JSON that are used unchanged; `age`, in years, becomes `age_band`."""
FEW = 10
"""Fewer positive, or negative, images of a class are too few for a conclusion."""
UNKNOWN_VALUE = "not recorded"
_BANDS = ((18, "under 18"), (40, "18 to 39"), (65, "40 to 64"))


def read_attributes(store: ShardStore) -> dict[str, list[str]]:
    """Attribute -> value for each sample of a split, in order; attributes that no sample has are omitted."""
    sizes = [shard.samples for shard in store.shards]
    pairs = ((shard, sample) for shard, size in enumerate(sizes) for sample in range(size))
    return attributes_of(json.loads(store.read(shard, sample)["json"]) for shard, sample in pairs)


def attributes_of(samples: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """`read_attributes` for samples given as decoded JSON. A missing, null or blank value becomes an empty string."""
    attributes: dict[str, list[str]] = {name: [] for name in (*ATTRIBUTES, "age_band")}
    for sample in samples:
        for name in ATTRIBUTES:
            attributes[name].append(str(sample.get(name) or "").strip())
        attributes["age_band"].append(age_band(sample.get("age")))
    return {name: values for name, values in attributes.items() if any(values)}


def age_in_years(age: object) -> float | None:
    """52 for 52, "52" or "052Y"; None if `age` is not an age in years."""
    text = str(age if age is not None else "").strip().upper().removesuffix("Y")
    return float(text) if text.replace(".", "", 1).isdigit() else None


def age_band(age: object) -> str:
    """`40 to 64` for 52, "52" or "052Y"; an empty string if `age` is not an age in years."""
    years = age_in_years(age)
    return "" if years is None else next((band for limit, band in _BANDS if years < limit), "65 and over")


def subgroups(predictions: Predictions, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Attribute -> value -> {"n", "patients", accuracy, macro_roc_auc, "classes", "note"}.

    Each metric is {"value", "low", "high"}, null where undefined. "classes" lists the classes that enter the macro ROC
    AUC, because a subgroup may lack some. "note" is `few_note`. Attributes with a single value are omitted.
    """
    return {
        name: {
            value or UNKNOWN_VALUE: _within(predictions, values, value, n_bootstrap, seed)
            for value in sorted(set(values), key=lambda value: (value == "", value))
        }
        for name, values in predictions.attributes.items()
        if len(set(values)) > 1
    }


def _within(predictions: Predictions, values: list[str], value: str, n_bootstrap: int, seed: int) -> dict[str, Any]:
    group = predictions.select(np.flatnonzero(np.array(values) == value))
    estimates, bounds = (accuracy(group), mean_auc(group)), intervals(group, n_bootstrap, seed)
    result: dict[str, Any] = {"n": len(group), "patients": len(set(group.patients))}
    of_metrics = {"accuracy": bounds["accuracy"], "macro_roc_auc": bounds["macro"]["roc_auc"]}
    for (name, found), estimate in zip(of_metrics.items(), estimates, strict=True):
        result[name] = {"value": estimate, "low": found["low"], "high": found["high"]}
    return result | {"classes": list(curves(group)), "note": few_note(counts_of(group))}


def counts_of(predictions: Predictions) -> dict[str, tuple[int, int]]:
    """Class -> number of (positive, negative) samples, for the classes that enter the macro ROC AUC."""
    return {
        one.name: (int(one.truth.sum()), int((~one.truth).sum()))
        for one in predictions.each_class()
        if one.has_both_sides
    }


def few_note(counts: Mapping[str, tuple[int, int]]) -> str:
    """Which classes have too few positives or negatives, such as `too few: nodule (4 positive)`; empty if none has."""
    if not counts:
        return "no class has both positive and negative images"
    sides = [
        f"{name} ({number} {side})"
        for name, of_class in counts.items()
        for number, side in zip(of_class, ("positive", "negative"), strict=True)
        if number < FEW
    ]
    return f"too few: {', '.join(sides)}" if sides else ""
