"""Stages of the user's own: their names in, stages of the training pipeline out, between decoding and batching.

    # stages.py
    def salt(sample, random):
        film = sample["jpg"]                                       # grey uint8 [h, w]
        film[random.random(film.shape) < 0.01] = 255
        return sample                                              # sample["json"]["text"] has the report's sections

    cxr-dist train enhanced --data.shards SHARDS --data.stages stages.py:salt

They act on training samples alone: what every film must pass, in evaluation and `predict` too, belongs into the making
of the shards. A stage must be a pure function of its sample and its generator, else no run can be repeated or resumed.
Before a run starts each stage gets one made-up sample, so that one which breaks the protocol is refused early.
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
"""A stage of the webdataset pipeline: from an iterator to an iterator, of lists of samples but for the last stage's."""

_STREAM = 7  # apart from the hashes of the plan and of the augmentation
_WHAT = "data.stages: stage"  # as an error calls it


class OwnStage(Protocol):
    """What `--data.stages` names: a function, or an object that can be called like one."""

    def __call__(self, sample: SampleDict, random: np.random.Generator, /) -> SampleDict:
        """The sample, changed in place or anew.

        In: "__key__", "json" (the stored facts, a dict, with the report in "text") and "jpg" (grey uint8 [h, w],
        undecoded bytes where the model reads no film); a study's other films are "1.jpg" and so on. Out: "json" and
        the films count, of any height and width; label, ids and order stay. All random numbers come from `random`.
        """
        ...


def own_stages(names: Sequence[str]) -> list[Stage]:
    """The stages `MODULE:NAME` or `FILE.py:NAME`, in this order, over lists of samples; raises UserError."""
    return [_over_lists(name, look_up(_WHAT, name, {}), place) for place, name in enumerate(names)]


def check_stages(data: DataConfig, manifest: Manifest, *, with_images: bool) -> None:
    """Pass one made-up sample, such as these shards hold, through the stages; raises UserError where one fails."""
    stages = own_stages(data.stages)
    if not stages:
        return
    sample = _made_up(manifest, with_images)
    for stage in stages:
        ((sample,),) = stage(iter([[sample]]))


def _made_up(manifest: Manifest, with_images: bool) -> SampleDict:
    """A sample as the pipeline has it, of as many films as any has: noise, with a report of one sentence a section."""
    side = manifest.image["short_side"]
    noise = np.random.default_rng(0).integers(0, 256, (manifest.views, side, side + 8), dtype=np.uint8)
    films = {
        image_name(view): film if with_images else encode_jpeg(film, 90) for view, film in enumerate(noise)
    }
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
    return {"__key__": "0" * 20, "augmentation_key": np.uint64(0), "json": facts} | films


def _over_lists(name: str, stage: OwnStage, place: int) -> Stage:
    def over_lists(batches: Iterator[list[SampleDict]]) -> Iterator[list[SampleDict]]:
        for samples in batches:
            yield [_passed(name, stage, place, sample) for sample in samples]

    return over_lists


def _passed(name: str, stage: OwnStage, place: int, sample: SampleDict) -> SampleDict:
    """The sample with what the stage made of its films and facts; raises UserError, which never repeats content."""
    parts = (*image_names(sample), "json")
    random = np.random.Generator(np.random.Philox(int(hash64(_STREAM, sample["augmentation_key"], place))))
    with guarded(_WHAT, name):
        found = stage({part: sample[part] for part in ("__key__", *parts)}, random)
    if not isinstance(found, dict) or not _alike(sample, found):
        raise UserError(
            f'{_WHAT} {name!r} did not return a sample: a dict with "jpg", grey uint8 [h, w], and "json", a '
            'dict with "text", a dict of texts'
        )
    return sample | {part: found[part] for part in parts}


def _alike(sample: SampleDict, found: SampleDict) -> bool:
    films = all(_same_kind(sample[name], found.get(name)) for name in image_names(sample))
    text = found["json"].get("text") if isinstance(found.get("json"), dict) else None
    return films and isinstance(text, dict) and all(isinstance(section, str) for section in text.values())


def _same_kind(before: Any, film: Any) -> bool:
    if not isinstance(before, np.ndarray):
        return isinstance(film, type(before))
    return isinstance(film, np.ndarray) and film.dtype == np.uint8 and film.ndim == 2 and film.size > 0
