"""What the shortcut controls see of the samples of a split: view, age and sex, and a thumbnail of the image."""

import contextlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.data.random import permutation
from cxr_dist.data.store import SampleError, ShardStore
from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.subgroups import ATTRIBUTES, age_in_years
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.shard_list import column
from cxr_dist.format.stored_sample import DamagedSample, decode_facts, decode_jpeg

SIDE = 16
"""Width and height of a thumbnail in pixels."""
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}


@dataclass(frozen=True, kw_only=True)
class ControlFeatures:
    """The features and labels of n samples, in the order of the split."""

    keys: list[str]
    patients: list[str]
    labels: NDArray[np.int16]
    """[n, L], as in `Predictions.labels`."""
    attributes: dict[str, list[str]]
    """`view`, `sex` and `age` (the decade, such as `50`) -> value of each sample; empty where it is not recorded."""
    thumbnails: Floats
    """[n, SIDE · SIDE], grey values from 0 to 1; of a study its first image."""


def read_control_features(
    data: DataConfig, manifest: Manifest, split: str, most: int | None = None, seed: int = 0
) -> ControlFeatures:
    """Read a split's features, or those of `most` samples that are drawn by a hash of `seed`.

    Raises UserError if a shard or a sample is missing or damaged.
    """
    total = manifest.split(split).samples
    rows = np.arange(total) if most is None or total <= most else np.sort(permutation(total, seed)[:most])
    if not len(manifest.split(split).shards):
        raise UserError("the shards are not at hand")
    with contextlib.closing(open_store(data, manifest, split)) as store:
        first = np.concatenate([[0], np.cumsum(column(store.shards, "samples"))])
        shards = np.searchsorted(first, rows, side="right") - 1
        pairs = zip(shards.tolist(), (rows - first[shards]).tolist(), strict=True)
        samples = [_sample(store, shard, sample, manifest.image["short_side"]) for shard, sample in pairs]
    names = (*ATTRIBUTES, "age")
    return ControlFeatures(
        keys=[record["key"].decode("ascii") for record, _, _ in samples],
        patients=[record["patient"].decode("ascii") for record, _, _ in samples],
        labels=np.stack([record["label"] for record, _, _ in samples]).astype(np.int16),
        attributes={name: [values[name] for _, values, _ in samples] for name in names},
        thumbnails=np.stack([thumbnail for _, _, thumbnail in samples]),
    )


def _sample(store: ShardStore, shard: int, sample: int, short_side: int) -> tuple[np.void, dict[str, str], Floats]:
    """A sample's index record, attributes and thumbnail."""
    stored = store.read(shard, sample)
    try:
        facts = decode_facts(stored["json"])
        flag = next(flag for factor, flag in _REDUCED.items() if short_side >= SIDE * factor or factor == 1)
        pixels = decode_jpeg(stored["jpg"], short_side, flag)
    except DamagedSample as damage:
        raise SampleError(store.shards[shard].file, sample, damage.reason) from None
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    age = age_in_years(facts.get("age"))
    values = {name: str(facts.get(name) or "").strip() for name in ATTRIBUTES}
    values["age"] = "" if age is None else str(int(age) // 10 * 10)
    return stored["record"], values, small.astype(np.float64).ravel() / 255
