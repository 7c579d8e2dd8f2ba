"""Damaged files, things that can stand where a file should be, and a check of how they are refused."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_dist.errors import UserError

SECRET = "Featherstonehaugh"
FILM = Path(__file__).parents[1] / "written_before" / "film.png"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\n"
FLAGS = (
    "--data.global-batch", 16, "--data.micro-batch", 4, "--data.image-size", 32, "--data.max-tokens", 16,
    "--data.workers", 0, "--train.max-steps", 2,
)  # fmt: skip
"""With `--data.shards` and `--out` the flags of the fixture `small_run`."""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    """Bind in the path's folder, because the name of a socket may have 107 bytes at most."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.mkdir()


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a socket": a_socket,
    "an endless device": device,
    "a link to itself": link_to_itself,
    "a folder": folder,
}


def put(kind: str, path: Path) -> None:
    """Replace the file `path`, if there is one, with a special one."""
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)


def damaged_image(kind, path):
    whole = path.read_bytes()
    contents = {
        "an empty file": b"",
        "a text": SECRET.encode(),
        "half a PNG": whole[: len(whole) // 2],
        "a PNG whose half is zeros": whole[: len(whole) // 2].ljust(len(whole), b"\0"),
        "a PNG with another byte": whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:],
        "a GIF": b"GIF89a" + bytes(100),
        "a PDF": b"%PDF-1.7\n" + bytes(100),
    }
    if kind == "a sparse file of a terabyte":
        path.write_bytes(whole)
        os.truncate(path, 2**40)
    elif kind == "a link to nothing":
        path.unlink()
        path.symlink_to("nothing")
    elif kind in SPECIAL:
        put(kind, path)
    else:
        path.write_bytes(contents[kind])


def refusal(call, *arguments, **settings):
    """Return the message of the UserError that a call raises: one line, without the secret."""
    with pytest.raises(UserError) as error:
        call(*arguments, **settings)
    message = str(error.value)
    assert "\n" not in message
    assert SECRET not in message
    return message
