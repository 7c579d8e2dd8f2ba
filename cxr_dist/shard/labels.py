"""Map the label values of the source to classes.

Each record gets a tuple of small integers, or the reason why it is excluded. A multiclass label is (class,); a
multilabel label has 1, 0 or -1 (unknown) for each class, in the order of the classes.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cxr_dist.errors import UserError
from cxr_dist.format.left_out import DROPPED_LABEL, NO_CLASS, NO_LABEL, TOO_RARE
from cxr_dist.format.manifest import UNKNOWN
from cxr_dist.shard.recipe import Labels

_INVISIBLE = ("Cc", "Cf")  # control characters, and marks of format such as a zero-width blank


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The labels of a list of records, in the order of the records."""

    classes: tuple[str, ...]
    labels: list[tuple[int, ...] | str]
    """The label of each record, or the reason why the record is excluded."""


def assign_labels(
    rule: Labels, columns: Sequence[str], values: Sequence[tuple[str, ...]], occurring: Sequence[str]
) -> Labelled:
    """Apply the `labels` section of a recipe to the `values` of the selected records.

    `columns` are the classes if each has its own column (columns.labels), else empty. `occurring` holds all values of
    the source, selected or not. Raises UserError for a value in the recipe that matches none of them.
    """
    if columns:
        _check_classes(columns)
        return Labelled(classes=tuple(columns), labels=_assessed(rule, columns, values))
    known = Counter(value for value in occurring if value)
    _check_occurring(rule, known)
    kept = _kept(rule, values)
    class_values = rule.classes or {value: (value,) for value in sorted(kept)}
    classes = tuple(class_values)
    _check_classes(classes)
    index_of = {value: class_of(value, class_values) for value in known}
    if rule.task == "multilabel":
        return Labelled(classes=classes, labels=[_several(rule, row, index_of, len(classes)) for row in values])
    return Labelled(classes=classes, labels=[_single(rule, row[0], kept, index_of) for row in values])


def sampling_groups(labels: Sequence[tuple[int, ...]], num_classes: int) -> list[int]:
    """The sampling group of each label, as defined in `manifest.index_dtype`."""
    if all(len(label) == 1 for label in labels):
        return [label[0] for label in labels]
    positives = [sum(label[k] == 1 for label in labels) for k in range(num_classes)]
    return [
        min((k for k in range(num_classes) if label[k] == 1), key=lambda k: positives[k], default=num_classes)
        for label in labels
    ]


def _check_classes(classes: Sequence[str]) -> None:
    """Raise UserError for a single class, which any network predicts without looking, and for names that look alike."""
    if len(classes) == 1:
        raise UserError(
            f"the only class is {classes[0]!r}; at least two are needed: check the recipe's where, labels.drop and "
            "labels.min_count, and the column of labels"
        )
    seen: dict[str, str] = {}
    for name in classes:
        looks = _as_seen(name)
        if not looks:
            raise UserError(f"a class has the name {name!r}, of which nothing can be seen: give it a name")
        if looks in seen:
            raise UserError(
                f"the classes {seen[looks]!r} and {name!r} differ only in case, blanks or characters that cannot be "
                "seen: rename one, or list the values of both under one class in the recipe's labels.classes"
            )
        seen[looks] = name


def _as_seen(name: str) -> str:
    """A name in lower case, with single blanks, in one spelling of its characters and without invisible ones."""
    composed = unicodedata.normalize("NFKC", name).casefold()
    visible = (" " if c.isspace() else c for c in composed if c.isspace() or unicodedata.category(c) not in _INVISIBLE)
    return " ".join("".join(visible).split())


def _single(rule: Labels, value: str, kept: set[str], index_of: dict[str, int | None]) -> tuple[int, ...] | str:
    if not value:
        return NO_LABEL
    if value in rule.drop:
        return DROPPED_LABEL
    if value not in kept:
        return TOO_RARE
    index = index_of[value]
    return NO_CLASS if index is None else (index,)


def _several(
    rule: Labels, row: tuple[str, ...], index_of: dict[str, int | None], num_classes: int
) -> tuple[int, ...] | str:
    if not row:
        return NO_LABEL
    if any(value in rule.drop for value in row):
        return DROPPED_LABEL
    present = {index_of[value] for value in row}
    return tuple(int(index in present) for index in range(num_classes))


def _kept(rule: Labels, values: Sequence[tuple[str, ...]]) -> set[str]:
    counts = Counter(value for row in values for value in row if value and value not in rule.drop)
    return {value for value, count in counts.items() if count >= rule.min_count}


def _fits(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def class_of(value: str, class_values: dict[str, tuple[str, ...]]) -> int | None:
    """The class that lists the value exactly, else the first with a matching pattern; a lone `*` comes last."""
    fitting = [
        (pattern == "*", pattern != value, index)
        for index, patterns in enumerate(class_values.values())
        for pattern in patterns
        if _fits(pattern, value)
    ]
    return min(fitting)[2] if fitting else None


def _check_occurring(rule: Labels, known: Counter[str]) -> None:
    named = [(f"labels.classes.{name}", pattern) for name, row in rule.classes.items() for pattern in row]
    named += [("labels.drop", value) for value in rule.drop]
    for setting, pattern in named:
        occurs = pattern in known if setting == "labels.drop" else any(_fits(pattern, v) for v in known)
        if not occurs and pattern != "*":
            raise UserError(f"recipe: {setting} names the value {pattern!r}, which no row has; {_listed(known)}")


def _listed(known: Counter[str]) -> str:
    """The values that occur, unless they look like sentences or ids, which an error must not show."""
    as_ids = len(known) > 10 and known.total() < 5 * len(known)
    if as_ids or len(known) > 200 or any(len(value) > 60 for value in known):
        return f"the label column has {len(known)} different values: is it the right column?"
    shown = [f"{value!r}" for value, _ in known.most_common(40)]
    return f"the values are: {', '.join(shown)}" + (", …" if len(known) > 40 else "")


def _assessed(rule: Labels, columns: Sequence[str], values: Sequence[tuple[str, ...]]) -> list[tuple[int, ...] | str]:
    meaning_of = {"ignore": UNKNOWN, "zeros": 0, "ones": 1}
    codes = {"1": 1, "0": 0, "-1": meaning_of[rule.uncertain], "": meaning_of[rule.empty]}
    codes |= {f"{code}.0": meaning for code, meaning in codes.items() if code}
    labels: list[tuple[int, ...] | str] = []
    for row in values:
        if not any(row):
            labels.append(NO_LABEL)
            continue
        bad = [column for column, value in zip(columns, row, strict=True) if value not in codes]
        if bad:
            raise UserError(f"column {bad[0]!r} holds something other than 1, 0, -1 (uncertain) or empty (unknown)")
        label = tuple(codes[value] for value in row)
        labels.append(NO_LABEL if all(code == UNKNOWN for code in label) else label)
    return labels
