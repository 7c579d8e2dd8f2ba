"""Print the closing tables of `cxr-dist shard`: samples by split and class, and excluded rows by reason."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from cxr_dist.format.escape import terminal_text
from cxr_dist.format.left_out import FAILURES
from cxr_dist.format.manifest import Manifest, SplitEntry

_MOST_CLASSES = 50  # a longer table would push what follows it out of sight


def print_summary(manifest: Manifest, console: Console) -> None:
    """Print a table with a column per split, then a table with a row per reason for excluding rows."""
    console.print(_splits(manifest))
    if manifest.left_out:
        console.print(_left_out(manifest))
    if manifest.boxes:
        console.print(terminal_text(_boxes(manifest)))
    if manifest.without_text:
        console.print(f"Without any text of a report: {manifest.without_text:,} {manifest.unit}.")
    if manifest.redacted:
        counts = manifest.redacted.values()
        console.print(
            f"Redacted: {sum(counts):,} label terms in the reports; {sum(count == 0 for count in counts)} of "
            f"{len(counts)} listed terms were never found."
        )
    if manifest.made_data:
        console.print("These images and reports are synthetic: results on them have no clinical meaning.")


def _boxes(manifest: Manifest) -> str:
    """One line: the boxes in each split, and those left out by reason."""
    stored = ", ".join(f"{sum(counts.values()):,} {name}" for name, counts in manifest.boxes["stored"].items())
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in manifest.boxes["left_out"].items())
    return f"Boxes stored with the samples: {stored}. Left out: {left_out or 'none'}."


def _splits(manifest: Manifest) -> Table:
    table = Table(title=terminal_text(f"Split by {manifest.split_rule}"), title_justify="left")
    table.add_column("")
    for name in manifest.splits:
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[SplitEntry], str]]] = [
        ("shards", lambda split: f"{len(split.shards):,}"),
        ("patients", lambda split: f"{split.patients:,}"),
        (manifest.unit, lambda split: f"{split.samples:,}"),
    ]
    for title, cell in rows:
        table.add_row(title, *map(cell, manifest.splits.values()), end_section=title == manifest.unit)
    for class_name in manifest.classes[:_MOST_CLASSES]:
        table.add_row(
            terminal_text(class_name), *(_count(manifest, split, class_name) for split in manifest.splits.values())
        )
    notes = ["classes: present / absent / unknown"] if manifest.task == "multilabel" else []
    if len(manifest.classes) > _MOST_CLASSES:
        notes.append(f"the first {_MOST_CLASSES} of {len(manifest.classes)} classes; manifest.json has all")
    table.caption = "\n".join(notes) or None
    return table


def _count(manifest: Manifest, split: SplitEntry, class_name: str) -> str:
    counts = split.label_counts[class_name]
    if manifest.task == "multiclass":
        return f"{counts['positive']:,}"
    return f"{counts['positive']:,} / {counts['negative']:,} / {counts['unknown']:,}"


def _left_out(manifest: Manifest) -> Table:
    total = sum(manifest.left_out.values())
    table = Table(title=f"Left out: {total:,} of {manifest.source_rows:,} rows", title_justify="left")
    table.add_column("reason")
    table.add_column("kind")
    table.add_column("rows", justify="right")
    for reason, count in sorted(manifest.left_out.items(), key=lambda item: -item[1]):
        table.add_row(terminal_text(reason), "failed" if reason in FAILURES else "chosen", f"{count:,}")
    return table
