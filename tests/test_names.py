"""A public name means one thing in the whole package: a reader who meets it twice meets the same thing."""

import ast
from collections import defaultdict
from pathlib import Path

import cxr_dist

PACKAGE = Path(cxr_dist.__file__).parent
SAME_ON_PURPOSE = {
    "check",  # what each reader of a recipe has
    "verify",  # the command, and the room's function behind it
    "fetch",
    "train",
    "evaluate",
    "submit",
    "compare",
    "export",
    "load",
    "main",
    "read",
}


def test_no_public_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _public_names(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].append(str(path.relative_to(PACKAGE)))
    twice = {name: files for name, files in places.items() if len(files) > 1 and name not in SAME_ON_PURPOSE}
    assert twice == {}


def _public_names(module: ast.Module) -> set[str]:
    """Functions, classes and constants that a module defines at its top level, without a leading underscore."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}
