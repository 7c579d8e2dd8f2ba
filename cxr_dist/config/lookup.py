"""Look up a part by its name: `NAME` in a table of the package, or `MODULE:NAME` or `FILE.py:NAME` for a user's own.

Readers, image and text encoders, losses, training stages and trackers are all named in this way. The code of a user's
own part runs with all rights of the process, and only what is named is imported. FILE.py is relative to the working
directory and cannot import files beside it; code in several files must be a module.
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
from cxr_dist.files import sha256_of

FORMS = "MODULE:NAME or FILE.py:NAME"
LIBRARIES = {"timm": "timm:NAME", "hf": "hf:DIR", "torchxrayvision": "torchxrayvision:WEIGHTS"}
"""The libraries whose image encoders a name can choose, and the form of the name."""


def library_of(name: str) -> str:
    """The key of LIBRARIES that an image encoder's name begins with; empty for other names."""
    library, colon, _ = name.partition(":")
    return library if colon and library in LIBRARIES else ""


def look_up(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return the part called `name`: an entry of `table`, or the object that MODULE:NAME or FILE.py:NAME defines.

    `what` describes the part in error messages, such as "image encoder". Raises UserError if the name is not in the
    table, or if the module cannot be imported or does not define the name.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.rpartition(":")
    if not colon and table:
        raise unknown(what, name, [*table, FORMS])
    if not module or not attribute:
        raise UserError(f"{what} {name!r}: expected {FORMS}")
    part = getattr(_module(what, name), attribute, None)
    if not callable(part):
        raise UserError(f"{what} {name!r}: {module} defines no {attribute!r} that can be called")
    return part


def code_sha256(name: str) -> str | None:
    """Return the sha256 of the file that defines a user's part; None for a table's entry or a module without a file."""
    if ":" not in name:
        return None
    file = getattr(_module("part", name), "__file__", None)  # built-in modules have no file
    return None if file is None else sha256_of(Path(file))


def recorded_name(name: str) -> str:
    """Return the name as it is written to files: without the folder of FILE.py:NAME or hf:DIR, or else unchanged."""
    if library_of(name) == "hf":
        return f"hf:{Path(name.removeprefix('hf:')).name}"
    module, colon, attribute = name.rpartition(":")
    return f"{Path(module).name}:{attribute}" if colon and module.endswith(".py") else name


@contextmanager
def guarded(what: str, name: str, *expected: type[Exception]) -> Iterator[None]:
    """Turn exceptions of a user's part inside the block into a UserError that says where they were raised.

    UserError and exceptions of the `expected` types pass unchanged. The message of the original exception is left
    out, because it may contain report text or a patient id.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (UserError, *expected)):
            raise
        raise UserError(f"{what} {name!r} raised {_place(error, name)}") from None


def _place(error: BaseException, name: str) -> str:
    """Return the exception's type and the last line of the part's own file in its traceback, else the last line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno} of {Path(error.filename or '').name}"
    frames = traceback.extract_tb(error.__traceback__)
    own_file = getattr(sys.modules.get(_module_name(name)), "__file__", None)
    frame = next((f for f in reversed(frames) if f.filename == own_file), frames[-1])
    needs = f": it needs {error.name}" if isinstance(error, ModuleNotFoundError) and error.name else ""
    return f"{type(error).__name__} in line {frame.lineno} of {Path(frame.filename).name}{needs}"


def _module_name(name: str) -> str:
    """Return the name in sys.modules, which for a file contains a hash of its path, so that it is loaded once."""
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
    """Load the file as a module of the name `unique`."""
    module = name.rpartition(":")[0]
    path = Path(module).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{what} {name!r}: there is no file {module}; expected {FORMS}, relative to this folder")
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
