"""The page on troubleshooting quotes messages that the code has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"
GAP = "…"
QUOTED = [line[2:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("> ")]


@cache
def templates() -> tuple[str, ...]:
    """All texts of the package's source, with a gap for each value that is filled in."""
    found = []
    for path in sorted((ROOT / "cxr_dist").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                found.append(_template(node))
    return tuple(found)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else GAP


def quotes(message: str, template: str) -> bool:
    """Whether the parts of a message between its gaps stand in a template, in this order."""
    parts = [part.strip() for part in message.split(GAP) if len(part.strip()) > 1]
    return re.search(".*".join(map(re.escape, parts)), template, flags=re.DOTALL) is not None


def test_a_message_that_the_code_does_not_have_is_noticed() -> None:
    assert not any(quotes("no such … message is in the code", template) for template in templates())


@pytest.mark.parametrize("message", QUOTED)
def test_the_code_has_the_message(message: str) -> None:
    assert any(quotes(message, template) for template in templates())


def test_the_page_has_messages() -> None:
    assert len(QUOTED) > 25
