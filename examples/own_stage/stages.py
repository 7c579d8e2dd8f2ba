"""User-defined training stages: functions of a sample and a random number generator that return the sample.

    cxr-dist train enhanced --data.shards SHARDS --data.stages examples/own_stage/stages.py:collimate

Several stages run in the order in which they are named, on training samples only, before the augmentation. Before the
run starts, each is tested on a synthetic sample. The protocol is in cxr_dist/data/own_stages.py.
"""

from typing import Any

import numpy as np


def collimate(sample: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Blacken up to a tenth of the image at each side, as a collimator does."""
    image = sample["jpg"]  # grey uint8 [h, w]; the other images of a study are sample["1.jpg"] and so on
    if isinstance(image, np.ndarray):  # in text mode the images are not decoded
        height, width = image.shape
        (top, left), (bottom, right) = (random.random((2, 2)) * 0.1 * image.shape).astype(int)
        kept = (slice(top, height - bottom), slice(left, width - right))
        sample["jpg"] = np.zeros_like(image)
        sample["jpg"][kept] = image[kept]
    return sample


def forget_indication(sample: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Remove the indication from half of the reports, so that the model learns to do without it."""
    text = sample["json"]["text"]  # the text of each section of the report
    if random.random() < 0.5:
        text.pop("indication", None)
    return sample
