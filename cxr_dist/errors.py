"""The one kind of exception whose message is meant for the user: what was found, expected, and to do.

Messages never hold report text, patient ids or names of source images; shard names, indices, counts,
classes and column names are allowed.
"""

import difflib
import errno
import resource
from collections.abc import Iterable

EXIT_REFUSED = 2
"""Exit status after a UserError: the same command would fail again."""
EXIT_STOPPED = 75
"""Exit status of a run that saved and is not finished (EX_TEMPFAIL): the same command goes on."""

_TOO_MANY = "Too many open files"  # also in what safetensors, aiohttp and torch make of such an error


class UserError(ValueError):
    """A mistake in the input, the configuration or the environment that the user can mend."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


def out_of_files(error: BaseException | None) -> UserError | None:
    """What to raise in place of an error that came of a limit on open files; None for any other error.

    Whatever takes an error for damage of a file, or tells the user of it, asks this first.
    """
    while error is not None:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or _TOO_MANY in str(error):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            return UserError(
                f"{_TOO_MANY}: this process may have {soft} at once; raise that before the command with "
                f"`ulimit -n NUMBER` (the hard limit is {hard})"
            )
        error = error.__context__
    return None


def unknown(what: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is none of the valid ones: it lists them, and says which is the nearest."""
    names = list(valid)
    return UserError(f"unknown {what} {name!r}{nearest(name, names)}; expected one of: {', '.join(names)}")


def nearest(name: object, valid: Iterable[str]) -> str:
    """` (did you mean 'fused'?)` after a name that is none of the valid ones; empty where none is like it."""
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
