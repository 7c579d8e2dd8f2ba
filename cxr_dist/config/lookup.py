"""Parts by name: `NAME` from a table of ours, or `MODULE:NAME` or `FILE.py:NAME` for one that a user wrote.

Readers, image and text encoders, losses, training stages and trackers are all named this way. The code of a user's
part runs with all rights of the process, as any module that is imported; nothing is imported that nobody named.
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
    if not colon:
        raise unknown(what, name, [*table, FORMS])
    found = getattr(_module(what, name, module), attribute, None)
    if not callable(found):
        raise UserError(f"{what} {name!r}: {module} defines no {attribute!r} that can be called")
    return found


def code_sha256(name: str) -> str | None:
    """sha256 of the file that defines a user's part; None for an entry of a table, and for a module without a file."""
    module, colon, _ = name.rpartition(":")
    if not colon:
        return None
    file = _module("part", name, module).__file__
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


@contextmanager
def guarded(what: str, name: str) -> Iterator[None]:
    """Around a call into a user's part: any exception but UserError becomes a UserError with its place.

    The exception's own message is left out, because it may hold report text or a patient's id.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} {name!r} raised {_place(error)}") from None


def _place(error: Exception) -> str:
    """An exception's kind, and the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno} of {Path(error.filename or '').name}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in line {frame.lineno} of {Path(frame.filename).name}"


def _module(what: str, name: str, module: str) -> ModuleType:
    if not module.endswith(".py"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise UserError(f"{what} {name!r} raised {_place(error)}: it needs {error.name}") from None
            raise UserError(
                f"{what} {name!r}: there is no module {module!r}; expected {FORMS}, with the module installed or on "
                "PYTHONPATH"
            ) from None
        except Exception as error:
            raise UserError(f"{what} {name!r} raised {_place(error)}") from None
    path = Path(module).expanduser().resolve()
    if not path.is_file():
        raise UserError(
            f"{what} {name!r}: there is no file {module}; expected {FORMS}, the path from this folder on"
        )
    unique = f"cxr_dist_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if unique not in sys.modules:
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
    return sys.modules[unique]
