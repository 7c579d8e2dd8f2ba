"""The boxes that a sample's JSON holds: where on its images a person drew a finding of a class.

    "boxes": [{"class": 1, "box": [0.22, 0.53, 0.30, 0.61]}, ...]

A box is [left, top, right, bottom] in shares of the image's width and height, 0 to 1, so that it stays true when the
image is scaled. `class` is an index into the manifest's classes. If samples have several images, `view` is the index
of the image in the sample. Samples without boxes have no such entry.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cxr_dist.format.stored_sample import BAD_BOXES, DamagedSample

Corners = tuple[float, float, float, float]
"""(left, top, right, bottom), in shares of the width and the height, 0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1."""


class StoredBox(NamedTuple):
    """One box of a sample."""

    class_index: int
    view: int
    """The index of the image in the sample; 0 if samples have one image."""
    box: Corners


def boxes_of(facts: Mapping[str, Any], num_classes: int, num_views: int) -> list[StoredBox]:
    """The boxes in a sample's decoded JSON; raises DamagedSample unless they fit so many classes and images."""
    try:
        found = [
            StoredBox(int(each["class"]), int(each.get("view", 0)), _box(each["box"]))
            for each in facts.get("boxes", ())
        ]
        sound = all(0 <= b.class_index < num_classes and 0 <= b.view < num_views for b in found)
    except (TypeError, ValueError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise DamagedSample(BAD_BOXES)
    return found


def plain_boxes(boxes: list[StoredBox], views: int) -> list[dict[str, Any]]:
    """The entry `boxes` of the JSON of a sample that may have up to `views` images."""
    return [
        {"class": each.class_index} | ({"view": each.view} if views > 1 else {}) | {"box": list(each.box)}
        for each in boxes
    ]


def _box(values: Any) -> Corners:
    left, top, right, bottom = map(float, values)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError
    return left, top, right, bottom
