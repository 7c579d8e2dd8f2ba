"""What the mutation test reads: its modules, their tests, the sample and the changes that alter no result."""

import re
import tomllib
from dataclasses import dataclass
from typing import Any, cast

from benchmarks.harness import ROOT

EQUIVALENT = ROOT / "benchmarks" / "mutation" / "equivalent.toml"
WORDS = "it alters only the words of a message"
_TEXT = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How many mutants are tried."""

    seed: int
    mutants_per_module: int
    minutes: float
    """Time for the mutants; those that it does not reach are left out of the score."""
    goal: float
    """The score, 0 to 1, that the tests are to have."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The lines of a function, without indentation, that a mutant replaces, and those that stand there instead."""

    function: str
    """Its full name, such as `cxr_dist.data.plan.Plan.locate`."""
    before: str
    after: str


def _tool(name: str) -> dict[str, Any]:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return cast(dict[str, Any], tools[name])


def modules() -> list[str]:
    """The modules, as paths from the repository's root."""
    return list(_tool("mutmut")["only_mutate"])


def selected_tests() -> list[str]:
    """The test files that mutmut runs."""
    return [test for test in _tool("mutmut")["pytest_add_cli_args_test_selection"] if not test.startswith("-")]


def sample_settings() -> Sample:
    """The settings of [tool.mutation-sample] in pyproject.toml."""
    return Sample(**{name: value for name, value in _tool("mutation-sample").items() if name != "own-tests"})


def own_tests(module: str) -> list[str]:
    """The test files of a module: those that pyproject.toml names, or else the file of the same name."""
    folder, _, name = module.removeprefix("cxr_dist/").removesuffix(".py").rpartition("/")
    named = _tool("mutation-sample")["own-tests"].get(f"{folder}/{name}", [f"{folder}/test_{name}"])
    return [f"tests/{test}.py" for test in named]


@dataclass(frozen=True, kw_only=True)
class Equivalents:
    """The listed changes that alter no result."""

    changes: dict[Change, str]
    """The reason of each."""
    rules: list[tuple[str, str, str]]
    """(a piece of a line, what replaces it, the reason): the change alters no result wherever the piece stands."""

    def why(self, change: Change) -> str | None:
        """Why a change alters no result; None if it may alter one."""
        if change in self.changes:
            return self.changes[change]
        for before, after, reason in self.rules:
            parts = change.before.split(before)
            for i in range(1, len(parts)):
                if before.join(parts[:i]) + after + before.join(parts[i:]) == change.after:
                    return reason
        return WORDS if _alters_words(change) else None


def equivalents() -> Equivalents:
    """The changes of equivalent.toml."""
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    rules = [(rule["before"], after, rule["why"]) for rule in listed.pop("rule") for after in rule["after"]]
    changes = {
        Change(function=function, before=change["before"], after=after): change["why"]
        for function, entries in listed.items()
        for change in entries
        for after in change["after"]
    }
    return Equivalents(changes=changes, rules=rules)


def _alters_words(change: Change) -> bool:
    """Whether a change alters only the words of a message: the case of a text with blanks, or XX around it."""
    before, after = _TEXT.findall(change.before), _TEXT.findall(change.after)
    if len(before) != len(after) or _TEXT.sub("", change.before) != _TEXT.sub("", change.after):
        return False
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return bool(pairs) and all(
        " " in old.strip() and new.replace("XX", "").lower() == old.lower() for old, new in pairs
    )
