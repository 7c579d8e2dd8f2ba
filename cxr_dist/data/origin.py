"""Where shards come from: a folder, or a URL that fsspec reads (s3://, https://, …); a whole file at a time.

Credentials are fsspec's business: environment, profile, or its own configuration files. A failure names the
file and the kind of error only, because what the libraries say of it holds the URL.
"""

import errno
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError, out_of_files

_SILENT_SECONDS = 60  # a server that sends nothing for so long has failed


def is_remote(shards: str) -> bool:
    """Whether `data.shards` is a URL; anything else is a folder of this machine."""
    return "://" in shards


def fetch(shards: str, name: str, to: Path) -> None:
    """Copy the file `name` of the folder or URL `shards` to the path `to`.

    Raises ShardError where that fails, and UserError where the disk is full or the scheme's library is missing.
    """
    file_system, path = _opened(shards, name)
    try:
        file_system.get_file(path, str(to), callback=_Heard())
    except Exception as error:  # each library has its own kinds
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(name) from None
        raise out_of_files(error) or _failed(name, error) from None


class _Heard(fsspec.Callback):  # type: ignore[misc]
    """Each piece of a file counts as progress."""

    def relative_update(self, inc: int = 1) -> None:
        """A piece has come."""
        from cxr_dist.distributed.watch.progress import advance  # a model that is only used has no ranks

        advance()


@lru_cache(maxsize=4)
def fetch_manifest(shards: str) -> bytes:
    """The bytes of manifest.json at a URL, fetched once per process: one run sees one manifest."""
    file_system, path = _opened(shards, "manifest.json")
    try:
        return bytes(file_system.cat_file(path))
    except Exception as error:
        raise out_of_files(error) or _failed("manifest.json", error) from None


def no_space(name: str) -> UserError:
    """The error of a full staging disk."""
    return UserError(
        f"no space left to stage {name}: free some, name another folder with --data.stage-dir, or read a shard "
        "folder where it lies with --data.stage-dir none"
    )


def _opened(shards: str, name: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it. fsspec keeps one per process, a forked one included."""
    scheme = shards.partition("://")[0] if is_remote(shards) else "file"
    try:
        file_system, path = fsspec.url_to_fs(f"{shards.rstrip('/')}/{name}", **_options(scheme))
    except ImportError:
        raise UserError(
            f"reading {scheme}:// needs another library: pip install 'cxr_dist[remote]' has those of s3:// and "
            "https://, for others see fsspec's list"
        ) from None
    except Exception as error:
        raise UserError(f"data.shards: {scheme}:// cannot be opened ({_kind(error)})") from None
    return file_system, str(path)


def _options(scheme: str) -> dict[str, Any]:
    """aiohttp's own limit of 5 minutes for a whole file would fail a large shard on a slow line."""
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    wait = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
    configured = fsspec.config.conf.get("http", {}) | fsspec.config.conf.get("https", {})
    return {"client_kwargs": {"timeout": wait} | configured.get("client_kwargs", {})}


def _failed(name: str, error: Exception) -> ShardError:
    return ShardError(
        f"{name} cannot be fetched ({_kind(error)}): is --data.shards what `cxr-dist shard` wrote, and may this "
        "machine read it?"
    )


def _kind(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"{type(error).__name__}, status {status}" if status else type(error).__name__
