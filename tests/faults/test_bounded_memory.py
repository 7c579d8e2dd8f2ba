"""A tar with a million members and images of many pixels are refused or read within a bounded memory."""

import subprocess
import sys
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from bad_files import EPS

from benchmarks.faults.forge import forge_entry, member

GIGABYTE = 2**30
MEASURED = """
import re, sys
from pathlib import Path
{body}
# The maximum of getrusage would include the memory of the parent process.
print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_bytes(body, *arguments):
    """Run `body` in a fresh process with sys.argv[1:]; return its peak memory in bytes and the lines it printed."""
    command = [sys.executable, "-c", MEASURED.format(body=body), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, peak = done.stdout.splitlines()
    return int(peak.split()[1]) * 1024, lines


VERIFY = "from cxr_dist.shard.verify import verify\nprint('\\n'.join(verify(Path(sys.argv[1]))))"


def test_a_tar_with_a_million_members_is_refused_within_bounded_memory(shards):
    tar, tiny = (shards / "train-00000.tar").read_bytes(), member("x.jpg", b"")
    with (shards / "train-00000.tar").open("wb") as file:
        file.write(tar[: -tarfile.RECORDSIZE])
        for _ in range(1000):
            file.write(tiny * 1000)
        file.write(bytes(1024))
    size = (shards / "train-00000.tar").stat().st_size
    forge_entry(shards, bytes=size)
    peak, lines = peak_bytes(VERIFY, shards)
    assert any("train-00000.tar: more members than the" in line for line in lines)
    assert peak < GIGABYTE


GREY, GREY_16, CLEAR = (8, 0, 1), (16, 0, 2), (8, 6, 4)  # bit depth, colour type of PNG, bytes per pixel


def bomb(path, side, kind=GREY):
    """Write a valid PNG of side × side black pixels, which compresses to a small file."""
    bits, colour, pixel_bytes = kind
    packer = zlib.compressobj(1)
    rows = bytes(pixel_bytes * side + 1) * 100
    data = b"".join([packer.compress(rows) for _ in range(side // 100)] + [packer.flush()])
    header = side.to_bytes(4, "big") * 2 + bytes([bits, colour, 0, 0, 0])
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
            check = zlib.crc32(name + content).to_bytes(4, "big")
            file.write(len(content).to_bytes(4, "big") + name + content + check)
    return path


READ = (
    "from cxr_dist.format.image import ImageFile\nfrom cxr_dist.format.left_out import ImageProblem\n"
    "for name in sys.argv[1:]:\n"
    "    try: print(ImageFile(path=Path(name)).read(256).shape)\n"
    "    except ImageProblem as problem: print(problem.reason)\n"
)


def test_malicious_source_images_are_left_out_because_of_their_header(tmp_path):
    images = [
        bomb(tmp_path / "169.png", 13_000),
        bomb(tmp_path / "400.png", 20_000),
        bomb(tmp_path / "deep.png", 7_200, GREY_16),
        bomb(tmp_path / "clear.png", 7_200, CLEAR),
        tmp_path / "line.png",
        tmp_path / "script.jpg",
    ]
    images[-2].write_bytes(cv2.imencode(".png", np.zeros((1, 70_000), np.uint8))[1].tobytes())
    images[-1].write_bytes(EPS)
    peak, lines = peak_bytes(READ, *images)
    assert lines == ["image has too many pixels"] * 5 + ["image not readable"]
    assert peak < GIGABYTE / 4


@pytest.mark.parametrize(("side", "kind"), [(10_000, GREY), (7_000, GREY_16), (7_000, CLEAR)])
def test_the_largest_accepted_images_are_read_within_a_gigabyte(tmp_path, side, kind):
    peak, lines = peak_bytes(READ, bomb(tmp_path / "image.png", side, kind))
    assert lines == ["(256, 256)"]
    assert peak < GIGABYTE
