"""The numbers of the page's data-flow figure, from a manifest: source rows, excluded rows with reasons, and splits."""

from dataclasses import dataclass

from cxr_dist.format.manifest import Manifest, SplitEntry

SPLIT_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True, kw_only=True)
class Box:
    """One split: its size and its class counts."""

    name: str
    samples: int
    patients: int
    classes: dict[str, str]
    """Class -> number of positive labels, followed by the number of unknown labels if there are any."""


@dataclass(frozen=True, kw_only=True)
class DataFlow:
    """Every source row is either excluded for one reason or part of one split."""

    source_rows: int
    left_out: dict[str, int]
    """Reason -> number of rows, the most frequent reason first."""
    kept: int
    """Number of images; a sample that is a study holds several."""
    unit: str
    """What a sample is: `images` or `studies`."""
    split_by: str
    splits: tuple[Box, ...]


def data_flow(manifest: Manifest) -> DataFlow:
    """Take the numbers of the figure from a manifest."""
    return DataFlow(
        source_rows=manifest.source_rows,
        left_out=dict(sorted(manifest.left_out.items(), key=lambda item: (-item[1], item[0]))),
        kept=manifest.source_rows - sum(manifest.left_out.values()),
        unit=manifest.unit,
        split_by=manifest.split_rule,
        splits=tuple(_box(_title(name), split) for name, split in manifest.splits.items()),
    )


def _title(name: str) -> str:
    return SPLIT_NAMES.get(name, name.replace("fold", "Fold "))


def _box(name: str, split: SplitEntry) -> Box:
    classes = {}
    for class_name, counts in split.label_counts.items():
        unknown = f" (+ {counts['unknown']} unknown)" if counts["unknown"] else ""
        classes[class_name] = f"{counts['positive']}{unknown}"
    return Box(name=name, samples=split.samples, patients=split.patients, classes=classes)
