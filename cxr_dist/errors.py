"""The one kind of exception whose message is meant for the user: what was found, expected, and to do.

Messages never hold report text, patient ids or names of source images; shard names, indices, counts,
classes and column names are allowed.
"""

import difflib
from collections.abc import Iterable

EXIT_REFUSED = 2
"""Exit status after a UserError: the same command would fail again."""
EXIT_STOPPED = 75
"""Exit status of a run that saved and is not finished (EX_TEMPFAIL): the same command goes on."""


class UserError(ValueError):
    """A mistake in the input, the configuration or the environment that the user can mend."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


def unknown(what: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is none of the valid ones: it lists them, and says which is the nearest."""
    names = list(valid)
    return UserError(f"unknown {what} {name!r}{nearest(name, names)}; expected one of: {', '.join(names)}")


def nearest(name: object, valid: Iterable[str]) -> str:
    """` (did you mean 'fused'?)` after a name that is none of the valid ones; empty where none is like it."""
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
