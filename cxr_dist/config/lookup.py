"""Parts by name: `NAME` from a table of ours, or `MODULE:NAME` or `FILE.py:NAME` for one that a user wrote.

Readers, image and text encoders, losses, training stages and trackers are all named this way. The code of a user's
part runs with all rights of the process, as any module that is imported; nothing is imported that nobody named.
A FILE.py is relative to the working directory. It cannot import its neighbours: that is what modules are for.
"""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from cxr_dist.errors import UserError, unknown

FORMS = "MODULE:NAME or FILE.py:NAME"


def look_up(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The part called `name`: an entry of `table`, or what MODULE:NAME or FILE.py:NAME defines.

    `what` says what is looked for, in the words of an error, such as "image encoder". Raises UserError for a name
    that is not in the table, with the nearest one, and for a module that cannot be imported or lacks the name.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.rpartition(":")
    if not colon and table:
        raise unknown(what, name, [*table, FORMS])
    if not module or not attribute:
        raise UserError(f"{what} {name!r}: expected {FORMS}")
    found = getattr(_module(what, name), attribute, None)
    if not callable(found):
        raise UserError(f"{what} {name!r}: {module} defines no {attribute!r} that can be called")
    return found


def code_sha256(name: str) -> str | None:
    """sha256 of the file that defines a user's part; None for an entry of a table, and for a module without a file."""
    if ":" not in name:
        return None
    file = getattr(_module("part", name), "__file__", None)  # a module of the interpreter itself has none
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def recorded_name(name: str) -> str:
    """The name as files record it: of FILE.py:NAME the file's own name without its folder, and others as they are."""
    module, colon, attribute = name.rpartition(":")
    return f"{Path(module).name}:{attribute}" if colon and module.endswith(".py") else name


@contextmanager
def guarded(what: str, name: str, *expected: type[Exception]) -> Iterator[None]:
    """Around a call into a user's part: any exception but UserError, and those of the `expected` kinds, becomes a
    UserError with its place.

    The exception's own message is left out, because it may hold report text or a patient's id.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (UserError, *expected)):
            raise
        raise UserError(f"{what} {name!r} raised {_place(error, name)}") from None


def _place(error: BaseException, name: str) -> str:
    """An exception's kind, and the line of the part that led to it, or the line that raised it in another file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno} of {Path(error.filename or '').name}"
    frames = traceback.extract_tb(error.__traceback__)
    own_file = getattr(sys.modules.get(_module_name(name)), "__file__", None)
    frame = next((f for f in reversed(frames) if f.filename == own_file), frames[-1])
    needs = f": it needs {error.name}" if isinstance(error, ModuleNotFoundError) and error.name else ""
    return f"{type(error).__name__} in line {frame.lineno} of {Path(frame.filename).name}{needs}"


def _module_name(name: str) -> str:
    """The name in sys.modules: a file's holds a hash of its path, so that one file is loaded once."""
    module = name.rpartition(":")[0]
    if not module.endswith(".py"):
        return module
    path = Path(module).expanduser().resolve()
    return f"cxr_dist_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"


def _module(what: str, name: str) -> ModuleType:
    module, unique = name.rpartition(":")[0], _module_name(name)
    if module.endswith(".py"):
        return sys.modules.get(unique) or _loaded(what, name, unique)
    with guarded(what, name):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"{what} {name!r}: there is no module {module!r}; expected {FORMS}, with the module installed or on "
                "PYTHONPATH"
            ) from None


def _loaded(what: str, name: str, unique: str) -> ModuleType:
    """The file's module, which gets the name `unique`."""
    module = name.rpartition(":")[0]
    path = Path(module).expanduser().resolve()
    if not path.is_file():
        raise UserError(
            f"{what} {name!r}: there is no file {module}; expected {FORMS}, the path from this folder on"
        )
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[unique] = loaded  # dataclasses and pickling look it up there
    try:
        with guarded(what, name):
            spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[unique]
        raise
    return loaded
