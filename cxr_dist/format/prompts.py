"""Prompts: sentences that say that a class is present or absent, for zero-shot classification.

They are part of a recipe, and so of the manifest. Shards without them have the names of the classes as prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cxr_dist.config.decode import decode
from cxr_dist.errors import require, unknown

_MOST, _LONGEST = 100, 300


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of a class."""

    present: tuple[str, ...]
    """1 to 100 sentences, of at most 300 characters each, as a report would say that the class is present."""
    absent: tuple[str, ...] = ()
    """The same for its absence. Multilabel tasks need both; a multiclass task may do without, for all classes."""


ClassPrompts = dict[str, Prompts]
"""Class -> its prompts, in the order of the classes."""


def check_prompts(prompts: Mapping[str, Prompts], classes: Sequence[str], task: str) -> None:
    """Raise UserError unless there are no prompts at all, or good ones for exactly these classes."""
    if not prompts:
        return
    for name in prompts:
        if name not in classes:
            raise unknown("class in prompts", name, classes)
    missing = [name for name in classes if name not in prompts]
    require(not missing, f"prompts lacks the class {missing[:1]}: give prompts for every class, or for none")
    for name, each in prompts.items():
        _check_class(name, each)
    without = [name for name, each in prompts.items() if not each.absent]
    require(
        not without or (task == "multiclass" and len(without) == len(prompts)),
        f"prompts.{without[0] if without else ''} has no absent prompts: a multilabel task needs them for every class, "
        "and a multiclass task for all classes or for none",
    )
    owner: dict[str, str] = {}
    for name, each in prompts.items():
        for text in each.present:
            other = owner.setdefault(_plain(text), name)
            require(other == name, f"prompts has the same present prompt for {other} and {name}: make them differ")


def _check_class(name: str, prompts: Prompts) -> None:
    for kind, texts in (("present", prompts.present), ("absent", prompts.absent)):
        least = 1 if kind == "present" else 0
        require(
            least <= len(texts) <= _MOST,
            f"prompts.{name}.{kind} has {len(texts)} prompts; expected {least} to {_MOST}",
        )
        bad = [text for text in texts if not any(map(str.isalnum, text)) or len(text) > _LONGEST]
        require(not bad, f"prompts.{name}.{kind} has a prompt that is empty or longer than {_LONGEST} characters")
        require(len(set(map(_plain, texts))) == len(texts), f"prompts.{name}.{kind} has a prompt twice")
    both = set(map(_plain, prompts.present)) & set(map(_plain, prompts.absent))
    require(not both, f"prompts.{name} has the same prompt for present and for absent")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


@dataclass(frozen=True, kw_only=True)
class _Stored:
    prompts: ClassPrompts


def prompts_of(
    recipe: Mapping[str, Any], classes: Sequence[str], task: str
) -> tuple[ClassPrompts, Literal["recipe", "class names"]]:
    """The prompts of a manifest's recipe and where they come from: the recipe, or the names of the classes.

    A class NAME without prompts has `NAME` and, in a multilabel task, `No NAME`.
    """
    stored = decode(_Stored, {"prompts": recipe.get("prompts") or {}}, "manifest.json").prompts
    if stored:
        check_prompts(stored, classes, task)
        return {name: stored[name] for name in classes}, "recipe"
    absent = {name: (f"No {name}",) if task == "multilabel" else () for name in classes}
    return {name: Prompts(present=(name,), absent=absent[name]) for name in classes}, "class names"
