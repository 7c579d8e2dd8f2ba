"""Damage real image files and count the damages that pass for whole images, here and with Pillow alone.

    python -m benchmarks.damaged_images [--damages 1000]

Every kind of damage is applied `--damages` times with fixed seeds, to files drawn from covid-cxr/ and nih-cxr14/ in the
folder of real data: ../shared/data, or the one that CXR_DIST_REAL_DATA names. An image is `changed` if it passes and
more than 1% of its pixels differ by more than 2 of 255 grey levels from those of the whole file. The goal is that
no hole, cut or padding passes changed. Writes benchmarks/results/damaged_images.json.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness import ROOT, arguments, write_result
from cxr_dist.format.image import ImageFile, shrink
from cxr_dist.format.left_out import ImageProblem

SHORT_SIDE = 256
BLOCK = 4096  # bytes; of a file system
GREY_LEVELS, SHARE = 2, 0.01
Pixels = NDArray[np.uint8]


def hole(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace a block with zeros."""
    start = int(rng.integers(len(data) - BLOCK))
    return data[:start] + bytes(BLOCK) + data[start + BLOCK :]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """End the file early."""
    return data[: int(rng.integers(1, len(data)))]


def padding(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace the end of the file with zeros."""
    return cut(data, rng).ljust(len(data), b"\0")


def flipped_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to four bits."""
    damaged = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 5)):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def swapped_blocks(data: bytes, rng: np.random.Generator) -> bytes:
    """Exchange two blocks."""
    first, second = sorted(rng.choice(len(data) // BLOCK, 2, replace=False) * BLOCK)
    parts = (data[:first], data[second : second + BLOCK], data[first + BLOCK : second], data[first : first + BLOCK])
    return b"".join(parts) + data[second + BLOCK :]


DAMAGES = (hole, cut, padding, flipped_bits, swapped_blocks)


def by_cxr_dist(path: Path) -> Pixels | None:
    """Read a source image as `cxr-dist shard` and `predict` do; None if it is refused."""
    try:
        return ImageFile(path=path).read(SHORT_SIDE)
    except ImageProblem:
        return None


def by_pillow(path: Path) -> Pixels | None:
    """Read a source image with Pillow's defaults; None if it is refused."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            image.draft("L", (2 * SHORT_SIDE, 2 * SHORT_SIDE))
            return shrink(np.asarray(image.convert("L"), np.uint8), SHORT_SIDE)
    except Exception:
        return None


READERS: dict[str, Callable[[Path], Pixels | None]] = {"cxr_dist": by_cxr_dist, "Pillow": by_pillow}


def is_changed(pixels: Pixels, whole: Pixels | None) -> bool:
    """Whether more than SHARE of the pixels differ."""
    if whole is None or pixels.shape != whole.shape:
        return True
    return bool((np.abs(pixels.astype(int) - whole) > GREY_LEVELS).mean() > SHARE)


def measure(files: list[Path], damages: int, aside: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Count, for each kind of damage and reader, the files that were tried, passed and passed changed."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for number, damage in enumerate(DAMAGES):
        rng = np.random.default_rng(number)
        counts = {name: Counter(tried=0, passed=0, changed=0) for name in READERS}
        for _ in range(damages):
            file = files[int(rng.integers(len(files)))]
            whole = file.read_bytes()
            damaged = damage(whole, rng)
            aside.write_bytes(damaged)
            for name, read in READERS.items():
                counts[name]["tried"] += damaged != whole
                if damaged != whole and (pixels := read(aside)) is not None:
                    counts[name]["passed"] += 1
                    counts[name]["changed"] += is_changed(pixels, read(file))
        found[damage.__name__] = {name: dict(count) for name, count in counts.items()}
    return found


def real_files() -> list[Path]:
    """JPEGs and PNGs of at least three blocks; half of each."""
    data = Path(os.environ.get("CXR_DIST_REAL_DATA", ROOT.parent / "shared" / "data"))
    folders = (data / "covid-cxr", data / "nih-cxr14")
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    kinds: dict[str, list[Path]] = {"JPEG": [], "PNG": []}
    for path in paths:
        content = path.read_bytes()
        kind = {b"\xff\xd8\xff": "JPEG", b"\x89PN": "PNG"}.get(content[:3])
        if kind and len(content) >= 3 * BLOCK:
            kinds[kind].append(path)
    least = min(map(len, kinds.values()))
    rng = np.random.default_rng(0)
    return [each[i] for each in kinds.values() for i in sorted(rng.choice(len(each), least, replace=False))]


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, damages=1000)
    files = real_files()
    if not files:
        sys.exit("skipped: no real images; set CXR_DIST_REAL_DATA to a folder that holds covid-cxr/ or nih-cxr14/")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(files, options.damages, Path(folder) / "damaged")
    print(f"of {options.damages} damages of {len(files)} files, half JPEG and half PNG: passed (changed)")
    for kind, readers in found.items():
        print(f"  {kind:<16}" + "".join(f"{name}: {n['passed']:>4} ({n['changed']})   " for name, n in readers.items()))
    what = "damaged image files that pass for whole ones, of which `changed` differ in more than 1% of the pixels"
    write_result("damaged_images", what, options, files=len(files), damages=found)


if __name__ == "__main__":
    main()
