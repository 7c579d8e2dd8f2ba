"""Map the findings in the recipe's table of boxes to classes, by name or by `boxes.classes`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxr_dist.errors import UserError, did_you_mean
from cxr_dist.format.left_out import BOX_NO_CLASS
from cxr_dist.format.stored_boxes import Corners
from cxr_dist.shard.labels import class_of
from cxr_dist.shard.recipe import Boxes
from cxr_dist.shard.record import Record, Source


@dataclass(frozen=True, kw_only=True)
class BoxClasses:
    """The class of each finding that a box may have."""

    index_of: Mapping[str, int | None] = field(default_factory=dict)
    """Finding -> index of its class, or None."""
    num_selected: int = 0
    """Number of boxes of a class."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> number of boxes, without those on images that are left out."""

    def of(self, record: Record) -> tuple[tuple[int, Corners], ...]:
        """The index of the class and the box of each finding on a record's image that is a class."""
        indices = ((self.index_of[each.label], each.box) for each in record.boxes)
        return tuple((index, box) for index, box in indices if index is not None)


def class_boxes(rule: Boxes | None, classes: Sequence[str], source: Source) -> BoxClasses:
    """The classes of the source's boxes.

    Raises UserError if `boxes.classes` names a class or a finding that does not occur, and if no box has a class.
    """
    if rule is None:
        return BoxClasses()
    findings = Counter(each.label for record in source.records for each in record.boxes)
    for name, patterns in rule.classes.items():
        if name not in classes:
            raise UserError(
                f"recipe: boxes.classes names the class {name!r}{did_you_mean(name, classes)}; expected some of: "
                f"{', '.join(classes)}"
            )
        for pattern in patterns:
            if all(class_of(finding, {name: (pattern,)}) is None for finding in findings):
                raise UserError(f"recipe: boxes.classes.{name} names the finding {pattern!r}, which no box has")
    names_of = {name: (name, *rule.classes.get(name, ())) for name in classes}
    index_of = {finding: class_of(finding, names_of) for finding in findings}
    num_selected = sum(count for finding, count in findings.items() if index_of[finding] is not None)
    if not num_selected:
        raise UserError(
            f"none of the {findings.total()} boxes on images of the source has a finding that is a class: check the "
            f"recipe's boxes.label ({rule.label}) and boxes.classes; the classes are {', '.join(classes)}"
        )
    left_out = Counter(source.boxes_left_out) + Counter({BOX_NO_CLASS: findings.total() - num_selected})
    return BoxClasses(index_of=index_of, num_selected=num_selected, left_out=left_out)
