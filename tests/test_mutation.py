"""The lists of the mutation test name modules, tests and lines that exist, and excuse nothing else."""

import ast
from pathlib import Path

import pytest

from benchmarks.harness import ROOT
from benchmarks.mutation.lists import (
    WORDS,
    Change,
    equivalents,
    modules,
    own_tests,
    sample_settings,
    selected_tests,
)

LISTED = equivalents()


def lines_of(function: str) -> str:
    """The lines of a function of the package, without indentation."""
    parts = function.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if (ROOT / Path(*parts[:n])).with_suffix(".py").is_file())
    source = (ROOT / Path(*parts[:depth])).with_suffix(".py").read_text()
    nodes: list[ast.stmt] = ast.parse(source).body
    for name in parts[depth:]:
        found = next(node for node in nodes if getattr(node, "name", "") == name)
        nodes = found.body
    return "\n".join(line.strip() for line in (ast.get_source_segment(source, found) or "").splitlines())


@pytest.mark.parametrize("module", modules())
def test_each_module_and_its_tests_exist_and_are_run(module: str) -> None:
    assert (ROOT / module).is_file()
    for test in own_tests(module):
        assert (ROOT / test).is_file()
        assert test in selected_tests()


@pytest.mark.parametrize("change", LISTED.changes, ids=lambda change: change.function)
def test_each_listed_change_replaces_lines_of_its_function(change: Change) -> None:
    assert change.before in lines_of(change.function)
    assert change.after != change.before
    assert LISTED.why(change)
    module, _, name = change.function.rpartition(".")
    elsewhere = Change(function=f"{module}.other_{name}", before=change.before, after=change.after)
    assert LISTED.why(elsewhere) is None


@pytest.mark.parametrize(
    ("before", "after", "excused"),
    [
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)", True),
        ("zip(a, b, strict=True)", "zip(a, None, strict=True)", False),
        ("zip(a, b, strict=True) + 1", "zip(a, b, strict=False) + 2", False),
        ('raise UserError("no sample is left")', 'raise UserError("XXno sample is leftXX")', True),
        ('raise UserError("no sample is left")', 'raise UserError("NO SAMPLE IS LEFT")', True),
        ('raise UserError("no sample is left")', "raise UserError(None)", False),
        ('if task == "multiclass":', 'if task == "MULTICLASS":', False),
        ('"no sample is left", 1', '"NO SAMPLE IS LEFT", 2', False),
        ("x + 1", "x - 1", False),
        ("x + 1", "x + 1", False),
    ],
)
def test_only_rules_and_words_of_messages_are_excused_anywhere(before: str, after: str, excused: bool) -> None:
    assert (LISTED.why(Change(function="a.b", before=before, after=after)) is not None) == excused


def test_the_words_of_a_message_are_their_own_reason() -> None:
    change = Change(function="a.b", before='fail("no sample")', after='fail("XXno sampleXX")')
    assert LISTED.why(change) == WORDS
    assert 0 < sample_settings().goal <= 1
