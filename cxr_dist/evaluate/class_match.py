"""Match the classes of other shards to the classes of a trained model, by name or by the user's class map.

Classes and their order belong to the model. A class map is a YAML file that says which classes of the shards stand for
a class of the model; those that it does not mention are matched by name:

    Pneumonia: [Pneumonia, "Pneumonia/Viral"]   # several are joined
    Nodule: []                                  # do not evaluate this class of the model
    not evaluated: [Fracture]                   # ignore this class of the shards
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_dist.config.decode import decode_lists, parse_yaml
from cxr_dist.errors import UserError, did_you_mean, require
from cxr_dist.format.manifest import UNKNOWN, Task

NOT_EVALUATED = "not evaluated"
"""The key of a class map that lists classes of the shards to ignore."""
ClassMap = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """Which classes of the shards stand for each class of the model."""

    task: Task
    classes: tuple[str, ...]
    """The model's classes, in the model's order."""
    sources: tuple[tuple[int, ...], ...]
    """For each class of the model, the indices of its classes in the shards; empty if it is not evaluated."""
    not_evaluated: Mapping[str, str]
    """Class of the model -> the reason why it is not evaluated."""
    ignored: Mapping[str, int]
    """The classes of the shards that the class map ignores, with their indices."""

    def labels(self, stored: NDArray[np.int16]) -> NDArray[np.int16]:
        """The labels of the shards, [n, L], as labels of the model's classes.

        Multiclass (L = 1): the index of the model's class, or -1 for a sample of an ignored class, which cannot be
        evaluated. Multilabel (L: number of classes): joined classes are positive if any is positive, negative if all
        are negative, and otherwise unknown.
        """
        if self.task == "multilabel":
            return np.stack([_joined(stored[:, list(sources)]) for sources in self.sources], axis=1)
        labels = np.full_like(stored, UNKNOWN)
        for index, sources in enumerate(self.sources):
            labels[np.isin(stored, sources)] = index
        return labels

    def evaluated(self, stored: NDArray[np.int16]) -> NDArray[np.bool_]:
        """[n], which samples can be evaluated: for multiclass, all but those of an ignored class."""
        ignored = list(self.ignored.values()) if self.task == "multiclass" else []
        return np.asarray(~np.isin(stored, ignored).any(axis=1))

    def ignored_samples(self, stored: NDArray[np.int16]) -> dict[str, int]:
        """Ignored class -> the number of its samples, which multiclass evaluation leaves out; empty for multilabel."""
        if self.task == "multilabel":
            return {}
        return {name: int((stored == index).sum()) for name, index in self.ignored.items()}


def read_class_map(path: Path) -> ClassMap:
    """Read a class map; raises UserError for a file that is not one."""
    return decode_lists(parse_yaml(path), path.name)


def match_classes(
    task: Task, model: Sequence[str], shards: Sequence[str], class_map: ClassMap | None = None
) -> ClassMatch:
    """Match the classes of the shards to those of the model.

    Raises UserError if a class of the shards stands for no class of the model and is not ignored, if no class of the
    model has a counterpart, and for a class map that names an unknown class, or a class of the shards twice.
    """
    listed = class_map or {}
    _check_names(listed, model, shards)
    named = {name for names in listed.values() for name in names}
    names_of = {
        name: tuple(listed.get(name, (name,) if name in shards and name not in named else ())) for name in model
    }
    ignored = listed.get(NOT_EVALUATED, ())
    unmatched = [name for name in shards if name not in named and names_of.get(name) != (name,)]
    if unmatched:
        similar = next((name for name in model if not names_of[name]), model[0])
        raise UserError(
            f"the shards have classes that the model does not know: {', '.join(unmatched)}. The model's classes are "
            f"{', '.join(model)}; those of the shards are {', '.join(shards)}. Say with --class-map FILE.yaml which "
            f"stand for which, such as `{similar}: [{unmatched[0]}]`, and which to ignore, such as "
            f"`{NOT_EVALUATED}: [{unmatched[0]}]`"
        )
    require(any(names_of.values()), "the class map leaves no class to evaluate: name classes of the shards in it")
    place = {name: index for index, name in enumerate(shards)}
    return ClassMatch(
        task=task,
        classes=tuple(model),
        sources=tuple(tuple(place[each] for each in names_of[name]) for name in model),
        not_evaluated={name: _reason(task, name in listed) for name in model if not names_of[name]},
        ignored={name: place[name] for name in ignored},
    )


def _check_names(class_map: ClassMap, model: Sequence[str], shards: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name, sources in class_map.items():
        known = (*model, NOT_EVALUATED)
        require(
            name in known,
            f"the class map names {name!r}, which is no class of the model{did_you_mean(name, known)}; expected some "
            f"of: {', '.join(known)}",
        )
        for source in sources:
            require(
                source in shards,
                f"the class map names {source!r} under {name}, which is no class of the shards"
                f"{did_you_mean(source, shards)}; expected some of: {', '.join(shards)}",
            )
            require(
                source not in seen,
                f"the class map names {source!r} twice, under {seen.get(source)} and under {name}: a class of the "
                "shards stands for one class of the model",
            )
            seen[source] = name


def _reason(task: Task, by_map: bool) -> str:
    effect = "it has no positive samples" if task == "multiclass" else "its labels are unknown"
    return f"the class map names no class of the shards for it: {effect}" if by_map else f"the shards lack it: {effect}"


def _joined(labels: NDArray[np.int16]) -> NDArray[np.int16]:
    """One label for each sample, from its labels [n, k] in k ≥ 0 classes; unknown if k is 0."""
    if labels.shape[1] == 0:
        return np.full(len(labels), UNKNOWN, dtype=labels.dtype)
    otherwise = np.where((labels == 0).all(axis=1), 0, UNKNOWN)
    return np.asarray(np.where((labels == 1).any(axis=1), 1, otherwise), dtype=labels.dtype)
