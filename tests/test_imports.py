"""The rooms of the package and the order of their imports, in all modules of cxr_dist, launch/ and benchmarks/."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_dist"
ROOMS = (
    "config", "distributed", "format", "shard", "data", "model", "run", "evaluate", "report", "train", "inference",
    "doctor", "launch", "cli",
)  # fmt: skip
"""In order: a room imports only from itself and from rooms before it."""
GROUND = {"errors", "files", "__version__"}
"""Modules at the root that every room may import; they import only each other."""
PURE = (
    "data/plan", "data/random", "distributed/watch/verdict", "shard/split", "train/schedule", "evaluate/bootstrap",
    "evaluate/audit", "evaluate/calibration", "evaluate/conformal", "evaluate/donors", "evaluate/intervals",
    "evaluate/metrics", "evaluate/paired", "evaluate/risk_coverage", "evaluate/thresholds",
)  # fmt: skip
"""Modules of functions from integers and arrays to integers and arrays: no file, process, clock, tensor or rank."""
MODULES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = sorted([*(ROOT / "launch").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def name_of(path: Path) -> str:
    """Return the dotted name of a module below the repository's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, at_once: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of all imports of a module, or (`at_once`) only of those that run on its import."""
    tree = ast.parse(path.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room_of(name: str) -> str:
    """Return the room (or module at the root) of a dotted name of the package."""
    return name.split(".")[1] if "." in name else ""


def test_the_root_has_the_rooms_and_nothing_else():
    found = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert found == {*ROOMS, "__init__.py", "__main__.py", "errors.py", "files.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_from_rooms_before_it(path):
    name = name_of(path)
    if name in ("cxr_dist", "cxr_dist.__main__"):  # the entry points may import any room
        return
    room = room_of(name)
    allowed = GROUND | ({*ROOMS[: ROOMS.index(room) + 1]} if room in ROOMS else set())
    wrong = [
        f"line {line}: {n}" for line, n in imported(path) if n.startswith("cxr_dist.") and room_of(n) not in allowed
    ]
    assert not wrong, f"{name} is in {room}, which stands before these: {wrong}"


def modules_named(name: str, known: set[str]) -> str | None:
    """Return the module of an imported dotted name; None if it is outside the package."""
    return name if name in known else (parent if (parent := name.rpartition(".")[0]) in known else None)


def test_there_is_no_circular_import():
    known = {name_of(path) for path in MODULES}
    edges = {
        name_of(path): {m for _, n in imported(path) if (m := modules_named(n, known)) and m != "cxr_dist"}
        for path in MODULES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in edges[name] - {name}:
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_a_trained_model_opens_without_training_and_without_ranks():
    paths = {name_of(path): path for path in MODULES}
    found, waiting = set(), {"cxr_dist.inference.opened"}
    while waiting:
        found.add(name := waiting.pop())
        names = {modules_named(n, set(paths)) for _, n in imported(paths[name], at_once=True)}
        waiting |= {n for n in names if n} - found
    assert [n for n in sorted(found) if room_of(n) in ("distributed", "train")] == []


@pytest.mark.parametrize("path", [*MODULES, *OUTSIDE], ids=name_of)
def test_only_distributed_talks_to_other_ranks(path):
    if room_of(name_of(path)) != "distributed":
        libraries = ("torch.distributed", "accelerate", "deepspeed")
        assert not [name for _, name in imported(path) if name.startswith(libraries)]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_have_no_effects(module):
    path = PACKAGE / f"{module}.py"
    effects = {"os", "sys", "io", "pathlib", "shutil", "subprocess", "socket", "threading", "time", "random", "torch"}
    assert not [name for _, name in imported(path) if name.split(".")[0] in effects]
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call.id for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print", "input")]


@pytest.mark.parametrize("path", [*MODULES, *OUTSIDE], ids=name_of)
def test_nothing_unpickles_and_no_file_grows_past_300_lines(path):
    assert not [name for _, name in imported(path) if name.split(".")[0] in ("pickle", "dill", "cloudpickle")]
    assert len(path.read_text().splitlines()) <= 300


def test_module_names_are_unique():
    seen: dict[str, str] = {}
    for path in MODULES:
        if path.name != "__init__.py" and room_of(name_of(path)) not in (
            "config",
            "cli",
        ):  # sections; commands
            assert path.stem not in ROOMS, f"{name_of(path)} has the name of a room"
            assert path.stem not in seen, f"{name_of(path)} and {seen[path.stem]}"
            seen[path.stem] = name_of(path)


OURS_LIGHT = ("cxr_dist.cli", "cxr_dist.config", "cxr_dist.errors")
OURS_LIGHT += ("cxr_dist.distributed.world", "cxr_dist.model.offline", "cxr_dist.run.interrupt")
LIGHT = {
    "json",
    "os",
    "sys",
    "collections.abc",
    "contextlib",
    "pathlib",
    "typing",
    "dataclasses",
    "re",
    "ast",
    "atexit",
    "difflib",
    "functools",
    "inspect",
    "io",
    "select",
    "shutil",
    "signal",
    "threading",
    "types",
    "textwrap",
    "time",
    "tyro",
    "tyro.conf",
    "tyro.constructors",
}


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(name_of(p)) == "cli"], ids=name_of)
def test_the_command_line_starts_without_torch(path):
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    ours = {name for name in names if name.startswith("cxr_dist.")}
    assert names - ours <= {"cxr_dist", *LIGHT}
    assert all(name.startswith(OURS_LIGHT) for name in ours)
