"""A manifest in, the boxes of the data-flow figure out: from source rows to splits, and what was left out why."""

from dataclasses import dataclass

from cxr_dist.format.manifest import Manifest

SPLIT_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True, kw_only=True)
class Box:
    """One split: its size and what is in it."""

    name: str
    samples: int
    patients: int
    classes: dict[str, str]
    """Class -> number of positives, and how many are unknown where some are."""


@dataclass(frozen=True, kw_only=True)
class DataFlow:
    """Every source row is either left out, for one reason, or in one split."""

    source_rows: int
    left_out: dict[str, int]
    """Reason -> rows, the commonest first."""
    kept: int
    """Images; a study's sample holds several."""
    unit: str
    """What a sample is: `images` or `studies`."""
    split_by: str
    splits: tuple[Box, ...]


def data_flow(manifest: Manifest) -> DataFlow:
    """The figure's numbers, as the manifest has them."""
    return DataFlow(
        source_rows=manifest.source_rows,
        left_out=dict(sorted(manifest.left_out.items(), key=lambda item: (-item[1], item[0]))),
        kept=manifest.source_rows - sum(manifest.left_out.values()),
        unit=manifest.unit,
        split_by=manifest.split_rule,
        splits=tuple(_box(manifest, name) for name in manifest.splits),
    )


def _box(manifest: Manifest, name: str) -> Box:
    split = manifest.splits[name]
    classes = {}
    for class_name, counts in split.label_counts.items():
        unknown = f" (+ {counts['unknown']} unknown)" if counts["unknown"] else ""
        classes[class_name] = f"{counts['positive']}{unknown}"
    return Box(
        name=SPLIT_NAMES.get(name, name), samples=split.samples, patients=split.patients, classes=classes
    )
