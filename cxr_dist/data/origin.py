"""Fetch whole files of a shard folder from a local path or from a URL that fsspec reads (s3://, https://, …).

fsspec takes credentials from the environment, a profile or its own configuration files. Error messages contain only
the file's name and the kind of error, because the libraries' own messages contain the URL.
"""

import errno
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError, out_of_files

STAGE_FOLDER = "--data.stage-dir in training, $SLURM_TMPDIR or $TMPDIR elsewhere"
"""How a user chooses the folder for copies of shards, for errors."""
_SILENT_SECONDS = 60  # a server that sends nothing for this long is taken to have failed


def is_remote(shards: str) -> bool:
    """Whether `data.shards` is a URL and not a local folder."""
    return "://" in shards


def fetch_file(shards: str, name: str, to: Path) -> None:
    """Copy the file `name` of the folder or URL `shards` to the path `to`.

    Raises ShardError if that fails, and UserError if the disk is full or the library for the URL is not installed.
    """
    file_system, path = _opened(shards, name)
    try:
        file_system.get_file(path, str(to), callback=_ReportsProgress())
    except Exception as error:  # each library raises exceptions of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(name) from None
        raise out_of_files(error) or _failed(name, error) from None


class _ReportsProgress(fsspec.Callback):  # type: ignore[misc]
    """Tells the watchdog after each block of a file that the rank is still making progress."""

    def relative_update(self, inc: int = 1) -> None:
        from cxr_dist.distributed.watch.progress import (
            advance,
        )  # `cxr_dist.load` must not import distributed/

        advance()


@lru_cache(maxsize=4)
def fetch_manifest(shards: str) -> bytes:
    """Bytes of manifest.json at a URL. It is fetched once per process, so that a run sees a single manifest."""
    file_system, path = _opened(shards, "manifest.json")
    try:
        return bytes(file_system.cat_file(path))
    except Exception as error:
        raise out_of_files(error) or _failed("manifest.json", error) from None


def no_space(name: str) -> UserError:
    """The error to raise when the staging disk is full."""
    return UserError(
        f"no space left to stage {name}: free some space, choose another folder ({STAGE_FOLDER}), or read "
        "a shard folder in place (--data.stage-dir none of `cxr-dist train`)"
    )


def _opened(shards: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system (cached by fsspec for each process, also after a fork) and the file's path in it."""
    scheme = shards.partition("://")[0] if is_remote(shards) else "file"
    try:
        file_system, path = fsspec.url_to_fs(f"{shards.rstrip('/')}/{name}", **_options(scheme))
    except ImportError:
        raise UserError(
            f"reading {scheme}:// needs another library: pip install 'cxr_dist[remote]' installs those for s3:// and "
            "https://; for other schemes see fsspec's documentation"
        ) from None
    except Exception as error:
        raise UserError(f"the shards at {scheme}:// cannot be opened ({_kind(error)})") from None
    return file_system, str(path)


def _options(scheme: str) -> dict[str, Any]:
    """Options of fsspec: no total timeout, because aiohttp's 5 minutes are too short for a large shard."""
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
    configured = fsspec.config.conf.get("http", {}) | fsspec.config.conf.get("https", {})
    return {"client_kwargs": {"timeout": timeout} | configured.get("client_kwargs", {})}


def _failed(name: str, error: Exception) -> ShardError:
    return ShardError(
        f"{name} cannot be fetched ({_kind(error)}): check that the shards were written there by `cxr-dist shard` "
        "and that this machine has permission to read them"
    )


def _kind(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"{type(error).__name__}, status {status}" if status else type(error).__name__
