"""Stages of the training pipeline that the user writes. They run after decoding and before batching.

    # stages.py
    def salt(sample, random):
        image = sample["jpg"]                                      # grey uint8 [h, w]
        image[random.random(image.shape) < 0.01] = 255
        return sample                                              # sample["json"]["text"] has the report's sections

    cxr-dist train enhanced --data.shards SHARDS --data.stages stages.py:salt

They are applied to training samples only. Preprocessing that evaluation and `predict` need too must be done before the
shards are written. A stage must be a pure function of its sample and its generator; otherwise a run cannot be repeated
or resumed. Before a run starts, each stage is tried on a synthetic sample, so that errors are found early.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cxr_dist.config.data import DataConfig
from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.data.random import hash64
from cxr_dist.data.read import SampleDict
from cxr_dist.errors import UserError
from cxr_dist.format.image import encode_jpeg
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.stored_sample import image_name, image_names

Stage = Callable[[Iterator[list[SampleDict]]], Iterator[Any]]
"""A stage of the webdataset pipeline: a function from an iterator over lists of samples to an iterator."""

_STREAM = 7  # separates these random numbers from those of the plan and of the augmentation
_WHAT = "data.stages: stage"  # the beginning of error messages


class OwnStage(Protocol):
    """A function, or another callable, that is named by `--data.stages`."""

    def __call__(self, sample: SampleDict, random: np.random.Generator, /) -> SampleDict:
        """Return the sample, changed in place or as a new dict.

        Args:
            sample: "__key__", "json" (the stored facts, a dict with the report in "text") and "jpg" (grey uint8 [h, w],
                or undecoded bytes if the model reads no image). Further images of a study are "1.jpg" and so on.
            random: The only permitted source of random numbers.

        Only "json" and the images of the result are used, and the images may have any height and width. The label, the
        ids and the order of samples cannot be changed.
        """
        ...


def own_stages(names: Sequence[str]) -> list[Stage]:
    """The stages named `MODULE:NAME` or `FILE.py:NAME`, in this order; raises UserError if one does not exist."""
    return [_over_lists(name, look_up(_WHAT, name, {}), place) for place, name in enumerate(names)]


def check_stages(data: DataConfig, manifest: Manifest, *, with_images: bool) -> None:
    """Pass a synthetic sample like those of the shards through the stages; raises UserError if one fails."""
    samples = [_synthetic_sample(manifest, with_images)] if data.stages else []
    for stage in own_stages(data.stages):
        (samples,) = stage(iter([samples]))


def _synthetic_sample(manifest: Manifest, with_images: bool) -> SampleDict:
    """A sample as it is after decoding, with the largest number of images: noise, and a sentence in each section."""
    side = manifest.image["short_side"]
    noise = np.random.default_rng(0).integers(0, 256, (manifest.views, side, side + 8), dtype=np.uint8)
    images = {image_name(view): image if with_images else encode_jpeg(image, 90) for view, image in enumerate(noise)}
    label = {"label": 0} if manifest.task == "multiclass" else {"labels": [0] * manifest.num_labels}
    text = dict.fromkeys(manifest.text_sections, "No acute finding.")
    facts = label | {
        "study": "0" * 16,
        "patient": "0" * 16,
        "view": "PA",
        "sex": "F",
        "age": 60,
        "text": text,
    }
    facts |= {"views": ["PA"] * manifest.views} if manifest.views > 1 else {}
    return {"__key__": "0" * 20, "augmentation_key": np.uint64(0), "json": facts} | images


def _over_lists(name: str, stage: OwnStage, place: int) -> Stage:
    def over_lists(batches: Iterator[list[SampleDict]]) -> Iterator[list[SampleDict]]:
        for samples in batches:
            yield [_passed(name, stage, place, sample) for sample in samples]

    return over_lists


def _passed(name: str, stage: OwnStage, place: int, sample: SampleDict) -> SampleDict:
    """The sample with the images and facts that the stage returns; raises UserError without repeating content."""
    members = (*image_names(sample), "json")
    random = np.random.Generator(np.random.Philox(int(hash64(_STREAM, sample["augmentation_key"], place))))
    with guarded(_WHAT, name):
        result = stage({member: sample[member] for member in ("__key__", *members)}, random)
    if not isinstance(result, dict) or not _is_valid(result, sample):
        raise UserError(
            f'{_WHAT} {name!r} did not return a sample: a dict with "jpg", grey uint8 [h, w], and "json", a '
            'dict with "text", a dict of texts'
        )
    return sample | {member: result[member] for member in members}


def _is_valid(result: SampleDict, sample: SampleDict) -> bool:
    images = all(_same_kind(sample[name], result.get(name)) for name in image_names(sample))
    text = result["json"].get("text") if isinstance(result.get("json"), dict) else None
    return images and isinstance(text, dict) and all(isinstance(section, str) for section in text.values())


def _same_kind(before: Any, image: Any) -> bool:
    if not isinstance(before, np.ndarray):
        return isinstance(image, type(before))
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 2 and image.size > 0
