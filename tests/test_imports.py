"""The rooms: each imports only from the rooms before it, and only distributed/ talks to the process group."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cxr_dist"
ROOMS = ("shard", "data", "model", "train", "evaluate", "report")
EVERYWHERE = {"config", "config_file", "config_optim", "errors", "files", "distributed", "__version__"}
MODULES = sorted(p for room in (*ROOMS, "distributed") for p in (PACKAGE / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full dotted names of everything that a module imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path):
    room = path.relative_to(PACKAGE).parts[0]
    allowed = EVERYWHERE | ({*ROOMS[: ROOMS.index(room) + 1]} if room in ROOMS else set())
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("cxr_dist.")}
    assert ours <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_distributed_talks_to_other_ranks(path):
    if path.relative_to(PACKAGE).parts[0] != "distributed":
        libraries = ("torch.distributed", "accelerate", "deepspeed")
        assert not [name for name in imported(path) if name.startswith(libraries)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_unpickles_and_no_file_grows_past_300_lines(path):
    assert not [name for name in imported(path) if name.split(".")[0] in ("pickle", "dill", "cloudpickle")]
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("module", ["cli", "cli_help", "cli_shard", "offline"])
def test_the_command_line_starts_without_torch(module):
    top = ast.parse((PACKAGE / f"{module}.py").read_text()).body
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in top
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= {
        "json", "os", "sys", "collections.abc", "pathlib", "typing", "tyro", "tyro.conf",
        "cxr_dist.cli_help", "cxr_dist.cli_shard", "cxr_dist.config", "cxr_dist.errors", "cxr_dist.offline",
        "cxr_dist.runs",
    }  # fmt: skip
