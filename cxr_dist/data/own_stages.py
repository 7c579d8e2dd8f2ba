"""Stages of the user's own: their names in, stages of the training pipeline out, between decoding and batching.

    # stages.py
    def salt(sample, random):
        film = sample["jpg"]                                       # grey uint8 [h, w]
        film[random.random(film.shape) < 0.01] = 255
        return sample                                              # sample["json"]["text"] has the report's sections

    cxr-dist train enhanced --data.shards SHARDS --data.stages stages.py:salt

They act on training samples alone: what every film must pass, in evaluation and `predict` too, belongs into the making
of the shards. A stage must be a pure function of its sample and its generator, else no run can be repeated or resumed.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cxr_dist.data.random import hash64
from cxr_dist.errors import UserError
from cxr_dist.format.stored_sample import film_names

Sample = dict[str, Any]
OwnStage = Callable[[Sample, np.random.Generator], Sample]
"""From a sample and a generator to a sample. In: "__key__", "json" (the stored facts, a dict) and "jpg" (grey uint8
[h, w], undecoded bytes where the model reads no film); a study's other films are "1.jpg" and so on. Out: "json" and
the films count; label, ids and order stay."""
Stage = Callable[[Iterator[list[Sample]]], Iterator[list[Sample]]]

_STREAM = 7  # apart from the hashes of the plan and of the augmentation


def own_stages(names: Sequence[str]) -> list[Stage]:
    """The stages `MODULE:FUNCTION` or `FILE.py:FUNCTION`, in this order, over lists of samples; raises UserError."""
    return [_over_lists(name, _load(name), place) for place, name in enumerate(names)]


def _over_lists(name: str, stage: OwnStage, place: int) -> Stage:
    def over_lists(batches: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
        for samples in batches:
            yield [_passed(name, stage, place, sample) for sample in samples]

    return over_lists


def _passed(name: str, stage: OwnStage, place: int, sample: Sample) -> Sample:
    """The sample with what the stage made of its films and facts; raises UserError, which never repeats content."""
    parts = (*film_names(sample), "json")
    random = np.random.Generator(np.random.Philox(int(hash64(_STREAM, sample["augmentation_key"], place))))
    try:
        found = stage({part: sample[part] for part in ("__key__", *parts)}, random)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"data.stages: {name} raised {type(error).__name__} in line {where.lineno} of {Path(where.filename).name}"
        ) from None
    if not isinstance(found, dict) or not _alike(sample, found):
        raise UserError(
            f'data.stages: {name} did not return a sample: a dict with "jpg", grey uint8 [h, w], and "json", a dict'
        )
    return sample | {part: found[part] for part in parts}


def _alike(sample: Sample, found: Sample) -> bool:
    films = all(_same_kind(sample[name], found.get(name)) for name in film_names(sample))
    return films and isinstance(found.get("json"), dict)


def _same_kind(before: Any, film: Any) -> bool:
    if not isinstance(before, np.ndarray):
        return isinstance(film, type(before))
    return isinstance(film, np.ndarray) and film.dtype == np.uint8 and film.ndim == 2 and film.size > 0


def _load(name: str) -> OwnStage:
    module, _, function = name.rpartition(":")
    try:
        stage = getattr(_module(module), function, None)
    except Exception as error:
        raise UserError(
            f"data.stages: {module or name} cannot be imported ({type(error).__name__}): expected MODULE:FUNCTION, the "
            "module installed or on PYTHONPATH, or FILE.py:FUNCTION"
        ) from None
    if not callable(stage):
        raise UserError(f"data.stages: {module} has no function {function!r}")
    found: OwnStage = stage
    return found


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
