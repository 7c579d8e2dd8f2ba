"""Download a file, continue interrupted downloads, and give the file its name only after its hash is checked.

It uses huggingface_hub's `http_get`. `hf_hub_download` is not used, because each call starts again from the first
byte, so that a large file may never be completed on a slow connection.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils.sha import git_hash

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of

_TEMPORARY = (429, 500, 502, 503, 504)  # statuses of a server that is overloaded or restarting
_ATTEMPTS = 5
_RANGE_NOT_SATISFIABLE = 416  # the whole file has been downloaded

Response = TypeVar("Response")


def download(
    url: str, path: Path, published: str, *, size: int | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """Download `url` to `path`, unless a file with the right hash is already there.

    Args:
        url: An http or https URL. Redirects are followed.
        path: The folder must exist. An incomplete download is kept beside the file as NAME.part.
        published: Hex sha256 or its first digits, or a git blob id (40 digits).
        size: The file's size in bytes, if it is known.
        headers: Headers of the request.

    Raises UserError if the hash is wrong, and deletes the download. If the connection or the server fails repeatedly,
    raises the error of huggingface_hub and keeps the incomplete download.
    """
    if path.exists() and _has_hash(path, published):
        return
    part = path.with_name(path.name + ".part")
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    try:
        with_retries(lambda: _append(url, part, size, headers))
    except HfHubHTTPError as error:
        if error.response.status_code != _RANGE_NOT_SATISFIABLE:
            raise
    if not _has_hash(part, published):
        part.unlink()
        raise UserError(
            f"{path.name} arrived damaged: its hash is not the published one, {published[:16]}…; the download was "
            "deleted, run `cxr-dist fetch` again"
        )
    part.replace(path)


def with_retries(request: Callable[[], Response]) -> Response:
    """Make a request, and repeat it after 1, 2, 4 and 8 s if the server is overloaded; raises the last error."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return request()
        except HfHubHTTPError as error:
            if error.response.status_code not in _TEMPORARY:
                raise
            time.sleep(2**attempt)
    return request()


def _append(url: str, part: Path, size: int | None, headers: Mapping[str, str] | None) -> None:
    with part.open("ab") as file:
        # Byte ranges of a compressed response would not be byte ranges of the file.
        uncompressed = dict(headers or {}) | {"Accept-Encoding": "identity"}
        http_get(url, file, resume_size=file.tell(), headers=uncompressed, expected_size=size)


def _has_hash(path: Path, published: str) -> bool:
    digest = git_hash(path.read_bytes()) if len(published) == 40 else sha256_of(path)
    return digest.startswith(published)
