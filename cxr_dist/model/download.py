"""One file from a server to a path: goes on where a cut download ended, and has its name only when its hash is right.

The transfer is huggingface_hub's `http_get`, which writes 10 MB at a time and resumes within a call. Its
`hf_hub_download` starts over in the next one, which for half a gigabyte on a hospital's line may never end.
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

_PASSING = (429, 500, 502, 503, 504)  # statuses of a server that is overloaded or restarts
_ATTEMPTS = 5
_RANGE_NOT_SATISFIABLE = 416  # nothing is left to send

Answer = TypeVar("Answer")


def download(
    url: str, path: Path, published: str, *, size: int | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """Have the file of `url` under `path`; what is there with the right hash already is not asked for again.

    Args:
        url: http(s); redirects are followed.
        path: Its folder exists. The part that has arrived waits beside it as NAME.part.
        published: Hex sha256 or the first digits of it, or a git blob id (40 digits).
        size: In bytes, where it is known.
        headers: Of the request.

    Raises UserError for bytes of another hash, which are thrown away, and what huggingface_hub raises for a
    connection or a server that fails for good; the part then stays.
    """
    if path.exists() and _is(path, published):
        return
    part = path.with_name(path.name + ".part")
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    try:
        patiently(lambda: _append(url, part, size, headers))
    except HfHubHTTPError as error:
        if error.response.status_code != _RANGE_NOT_SATISFIABLE:
            raise
    if not _is(part, published):
        part.unlink()
        raise UserError(
            f"{path.name} arrived damaged: its hash is not {published[:16]}…, which was published; it was thrown "
            "away, run `cxr-dist fetch` again"
        )
    part.replace(path)


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask a server, again after 1, 2, 4 and 8 s where it is overloaded; raises its last answer's error."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING:
                raise
            time.sleep(2 ** (attempt - 1))
    return ask()


def _append(url: str, part: Path, size: int | None, headers: Mapping[str, str] | None) -> None:
    with part.open("ab") as file:
        # Ranges of a compressed answer would not be ranges of the file.
        asked = dict(headers or {}) | {"Accept-Encoding": "identity"}
        http_get(url, file, resume_size=file.tell(), headers=asked, expected_size=size)


def _is(path: Path, published: str) -> bool:
    found = git_hash(path.read_bytes()) if len(published) == 40 else sha256_of(path)
    return found.startswith(published)
