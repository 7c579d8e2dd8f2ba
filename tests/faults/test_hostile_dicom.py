"""Hostile and damaged DICOM files are refused with a reason, within a gigabyte of memory and without a crash.

All files are read in one process of its own, which prints the reason, the peak of its memory and the seconds of each.
"""

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from made_dicom import LOSSLESS, LOSSY, content, picture, radiograph
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from cxr_dist.format.left_out import DICOM_WITHOUT_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_IMAGE

READ = """
import json, resource, sys, time
from pathlib import Path
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import ImageProblem
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        said = list(ImageFile(path=path).read(64).shape)
    except ImageProblem as problem:
        said = problem.reason
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be at least that of the process that started this
    peak = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps([path.name, said, peak / 2**20, time.monotonic() - start]), flush=True)
"""
PIXELS = picture(12)
SEQUENCE = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


def read_all(folder) -> dict[str, tuple[object, float, float]]:
    """{name: (reason or shape, peak of memory so far in GiB, seconds)} of all files of a folder."""
    ended = subprocess.run([sys.executable, "-c", READ, folder], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "SECRET" not in ended.stderr
    assert "Traceback" not in ended.stderr
    return {name: (said, peak, seconds) for name, said, peak, seconds in map(json.loads, ended.stdout.splitlines())}


def with_extra(extra: bytes) -> bytes:
    """A radiograph with `extra` bytes before its first element."""
    file = content(radiograph(PIXELS, 12))
    start = 144 + int.from_bytes(file[140:144], "little")
    return file[:start] + extra + file[start:]


def deflated(plain: bytes, times: int) -> bytes:
    """A deflated data set of these bytes, many times."""
    file = content(radiograph(PIXELS, 12, DeflatedExplicitVRLittleEndian))
    start = 144 + int.from_bytes(file[140:144], "little")
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return file[:start] + b"".join(packer.compress(plain) for _ in range(times)) + packer.flush()


def other_frame(syntax, change, pixels=PIXELS) -> bytes:
    """A file whose compressed image was changed."""
    data = radiograph(pixels, 12, syntax)
    frame = bytes(get_frame(data.PixelData, 0, number_of_frames=1))
    data.PixelData = encapsulate([change(frame)])
    return content(data)


def huge_jpeg(frame: bytes) -> bytes:
    place = frame.index(b"\xff\xc3")
    return frame[: place + 5] + b"\xff\xdc\xff\xdc" + frame[place + 9 :]


def huge_j2k(frame: bytes) -> bytes:
    place = frame.index(b"\xff\x51")
    return frame[: place + 6] + struct.pack(">II", 10**6, 10**6) + frame[place + 14 :]


def many_tiles(frame: bytes) -> bytes:
    place = frame.index(b"\xff\x51")
    return frame[: place + 22] + struct.pack(">II", 1, 1) + frame[place + 30 :]


def half(file: bytes) -> bytes:
    return file[: len(file) // 2]


def files() -> dict[str, tuple[bytes, object]]:
    """{what it is: (content, what reading it says)}."""
    made: dict[str, tuple[bytes, object]] = {}
    for syntax in (*LOSSLESS, *LOSSY):
        pixels = picture(LOSSY.get(syntax, 12))
        made[f"half of {syntax}"] = half(content(radiograph(pixels, LOSSY.get(syntax, 12), syntax))), UNREADABLE_IMAGE
    whole = content(radiograph(PIXELS, 12))
    side = {"Rows": 7000, "Columns": 7000}
    zeros = radiograph(np.zeros((2, 2), np.uint16), 12, DeflatedExplicitVRLittleEndian, **side)
    zeros.PixelData = bytes(2 * 7000 * 7000)
    return made | {
        "no more than a preamble": (whole[:132], DICOM_WITHOUT_IMAGE),
        "a header that ends within an element": (whole[:300], DICOM_WITHOUT_IMAGE),
        "65,535 rows and columns": (content(radiograph(PIXELS, 12, Rows=65535, Columns=65535)), TOO_LARGE_IMAGE),
        "many rows and few pixels": (content(radiograph(PIXELS, 12, **side)), UNREADABLE_IMAGE),
        "many rows and few pixels in RLE": (content(radiograph(PIXELS, 12, RLELossless, **side)), UNREADABLE_IMAGE),
        "a JPEG of other rows": (other_frame(JPEGLosslessSV1, huge_jpeg), UNREADABLE_IMAGE),
        "a JPEG 2000 of other rows": (other_frame(JPEG2000Lossless, huge_j2k), UNREADABLE_IMAGE),
        "a JPEG 2000 of 10,000 tiles": (
            other_frame(JPEG2000Lossless, many_tiles, picture(12, shape=(100, 100))), UNREADABLE_IMAGE,
        ),
        "an empty JPEG 2000": (other_frame(JPEG2000Lossless, lambda frame: b"\0\0"), UNREADABLE_IMAGE),
        "a hundred thousand nested sequences": (with_extra((SEQUENCE + ITEM) * 100_000), UNREADABLE_IMAGE),
        "two million elements in a sequence": (
            with_extra(SEQUENCE + ITEM + struct.pack("<HH2sH", 8, 0x50, b"SH", 0) * 2_000_000), UNREADABLE_IMAGE,
        ),
        "an element longer than the file": (
            with_extra(struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFF0)), DICOM_WITHOUT_IMAGE,
        ),
        "a deflate bomb of a gigabyte": (deflated(bytes(2**20), 1024), TOO_LARGE_IMAGE),
        "49 million pixels in a deflated file": (content(zeros), [64, 64]),
        "a deflated file without an end": (content(zeros)[:-40], UNREADABLE_IMAGE),
    }  # fmt: skip


def test_hostile_files_have_a_reason_within_a_gigabyte(tmp_path):
    """Takes longer than five seconds: it inflates and decodes the largest image that is accepted."""
    expected = {}
    for number, (what, (file, said)) in enumerate(files().items()):
        (tmp_path / f"{number:03}").write_bytes(file)
        expected[f"{number:03}"] = (what, said)
    found = read_all(tmp_path)
    assert {what: found[name][0] for name, (what, _) in expected.items()} == dict(expected.values())
    assert max(peak for _, peak, _ in found.values()) < 1, found


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY], ids=str)
def test_other_bytes_never_crash_the_reader_and_quote_nothing(tmp_path, syntax):
    bits = LOSSY.get(syntax, 12)
    file = content(radiograph(picture(bits), bits, syntax, PatientName="SECRET^NAME", PatientID="SECRET"))
    random = np.random.default_rng(0)
    for number in range(60):
        changed = bytearray(file)
        for place in random.integers(132, len(file), 1 + number % 8):
            changed[place] = random.integers(256)
        (tmp_path / f"{number:03}").write_bytes(changed)
    found = read_all(tmp_path)
    assert len(found) == 60
    assert max(peak for _, peak, _ in found.values()) < 1
    assert max(seconds for *_, seconds in found.values()) < 20
