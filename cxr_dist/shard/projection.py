"""Classify a view as frontal, lateral or neither.

Recognises DICOM's ViewPosition (PA, AP LLD, LL, XTABLE LATERAL) and the terms of Open-i, CheXpert, PadChest and the
demo. A decubitus radiograph is frontal, whichever side the patient lies on.
"""

import re
from functools import cache
from typing import Literal

Projection = Literal["frontal", "lateral", ""]

_FRONTAL = re.compile(r"\b(AP|PA|FRONTAL)\b")
_LATERAL = re.compile(r"\b(LATERAL(?! DECUB)|LAT|LL|RL)\b|^L$")


@cache
def projection(view: str) -> Projection:
    """The projection of a view; empty for any other view, such as LAO or SWIMMERS, and for an unknown one."""
    words = view.strip().upper().replace("_", " ")
    if _LATERAL.search(words):
        return "lateral"
    return "frontal" if _FRONTAL.search(words) else ""
