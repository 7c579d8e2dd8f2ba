"""UserError, whose message tells the user what was found, what was expected and what to do.

Messages never contain report text, patient ids or names of source images. They may contain shard names, indices,
counts, classes and column names.
"""

import difflib
import errno
import os
import resource
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

EXIT_REFUSED = 2
"""Exit status after a UserError; running the same command again would fail again."""
EXIT_STOPPED = 75
"""Exit status of an unfinished run that has saved (EX_TEMPFAIL); the same command resumes it."""
EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it; a run has saved, and the same command resumes it."""

_ANOTHER = "change its permissions, or choose another folder"
_UNUSABLE = {
    errno.EACCES: _ANOTHER,
    errno.EPERM: _ANOTHER,
    errno.EROFS: "choose a folder that can be written",
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "a folder is expected, and a file has its name",
    errno.ENOTDIR: "a folder is expected, and a part of the path is a file",
    errno.EISDIR: "a file is expected, and this is a folder",
    errno.ELOOP: "a symbolic link in it leads to itself",
}
_TOO_MANY = "Too many open files"  # safetensors, aiohttp and torch keep these words in their own errors


class UserError(ValueError):
    """An error in the input, the configuration or the environment that the user can correct."""

    known_to_all = False
    """Whether this rank has told the other ranks of the error, so that they leave it to this one to say it."""
    said_by_another = False
    """Whether a rank with a lower number on this host says the same words."""


class CommandLineError(UserError):
    """An invalid argument, or a path that does not exist: found before any work, and by all ranks of a node alike."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with this message if the condition is false."""
    if not condition:
        raise UserError(message)


def out_of_files(error: BaseException | None) -> UserError | None:
    """Return the error to raise instead of one caused by the limit on open files; None for any other error.

    Call this before treating an error as a damaged file or reporting it to the user.
    """
    while error is not None:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or _TOO_MANY in str(error):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            return UserError(
                f"{_TOO_MANY}: this process may have {soft} open at once; raise the limit before the command with "
                f"`ulimit -n NUMBER` (the hard limit is {hard})"
            )
        error = error.__context__
    return None


def refusal(error: BaseException) -> UserError | None:
    """Return the error to report in one line for an error that ends a command; None if it needs its traceback.

    It is a UserError itself, or one caused by the limit on open files, or by a path of the command line that cannot be
    used. The path is named as the user typed it, because what lies below it may have a patient's name.
    """
    if isinstance(error, UserError):
        return error
    return out_of_files(error) or _unusable_path(error)


def _unusable_path(error: BaseException) -> UserError | None:
    if not isinstance(error, OSError) or error.errno not in _UNUSABLE or not isinstance(error.filename, str | bytes):
        return None
    file = os.path.abspath(os.fsdecode(error.filename))
    words = [word for argument in sys.argv[1:] for word in (argument, argument.partition("=")[2]) if word]
    folders = (os.path.dirname(word) or "." for word in words)  # files are written under another name beside their own
    above = [word for word in (*words, *folders, ".") if Path(file).is_relative_to(os.path.abspath(word))]
    if not above:
        return None
    given = max(above, key=lambda word: len(os.path.abspath(word)))
    place = "the current folder" if given == "." else given if len(given) < 200 else f"{given[:100]}…"
    return UserError(f"cannot read or write {place}: {os.strerror(error.errno)}; {_UNUSABLE[error.errno]}")


def printable(text: str) -> str:
    """The text with control characters as escapes, such as \\x1b, so that names cannot steer a terminal.

    Line breaks and tabs are kept, and so is a zero-width joiner or non-joiner after a letter or mark, which Persian and
    the scripts of India need. Characters that reverse the direction of what follows are control characters too.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") or _joins(c, before) else _escaped(c)
        for before, c in zip(" " + text, text, strict=False)
    )


def _joins(character: str, before: str) -> bool:
    return character in "\u200c\u200d" and ord(before) > 127 and unicodedata.category(before)[0] in "LM"


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"
    )


def unknown(what: str, name: object, valid: Iterable[str]) -> UserError:
    """Return the error for an invalid name, which lists the valid names and suggests the most similar one."""
    names = list(valid)
    return UserError(f"unknown {what} {name!r}{did_you_mean(name, names)}; expected one of: {', '.join(names)}")


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """Return ` (did you mean 'fused'?)` for an invalid name; empty if no valid name is similar."""
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
