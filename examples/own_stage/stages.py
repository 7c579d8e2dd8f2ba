"""Training stages of one's own: a sample and a generator of random numbers in, the sample out.

    cxr-dist train enhanced --data.shards SHARDS --data.stages examples/own_stage/stages.py:collimate

Several run in the order in which they are named. They act on training samples alone, before the augmentation, and each
is tried once on a made-up sample before the run starts. `cxr_dist/data/own_stages.py` has the protocol.
"""

from typing import Any

import numpy as np


def collimate(sample: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Blacken up to a tenth of the film at each side, as a collimator does."""
    film = sample["jpg"]  # grey uint8 [h, w]; a study's other films are sample["1.jpg"] and so on
    if isinstance(film, np.ndarray):  # in text mode the films are not decoded
        height, width = film.shape
        (top, left), (bottom, right) = (random.random((2, 2)) * 0.1 * film.shape).astype(int)
        inside = np.zeros_like(film)
        inside[top : height - bottom, left : width - right] = film[
            top : height - bottom, left : width - right
        ]
        sample["jpg"] = inside
    return sample


def forget_indication(sample: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Leave the indication out of half of the reports, so that a model can do without it."""
    text = sample["json"]["text"]  # the report: section -> text
    if random.random() < 0.5:
        text.pop("indication", None)
    return sample
