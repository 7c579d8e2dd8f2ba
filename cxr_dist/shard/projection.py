"""Frontal or lateral: a view as some source writes it in, one of the two, or neither, out.

Knows DICOM's ViewPosition (PA, AP LLD, LL, XTABLE LATERAL) and the words of Open-i, CheXpert, PadChest and the demo.
A decubitus film is frontal, whichever side the patient lies on.
"""

import re
from functools import cache
from typing import Literal

Projection = Literal["frontal", "lateral", ""]

_FRONTAL = re.compile(r"\b(AP|PA|FRONTAL)\b")
_LATERAL = re.compile(r"\b(LATERAL(?! DECUB)|LAT|LL|RL)\b|^L$")


@cache
def projection(view: str) -> Projection:
    """The projection of a film; empty for other views, such as LAO, SWIMMERS or nothing at all."""
    words = view.strip().upper().replace("_", " ")
    if _LATERAL.search(words):
        return "lateral"
    return "frontal" if _FRONTAL.search(words) else ""
