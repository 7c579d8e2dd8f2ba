"""Measure images per second of `cxr-dist shard`, and of only decoding and resizing the same images.

    python -m benchmarks.sharding [--films 600] [--side 2048] [--workers CORES] [--repeats 5] [--dicom]

Synthetic images are written as PNGs, or as DICOM files (12 bits, lossless JPEG 2000, a third of them; the others are
uncompressed), into a temporary folder: 48 different images, and links to them. Three ways take
turns: decoding and resizing in one process (a third of the images), the same in all processes at once, and the whole of
sharding, from the table to the manifest. The last two include the start of their processes. The target is sharding at
0.85 × workers × the rate of one process. On a shared machine, compare the processor seconds per image instead. Writes
benchmarks/results/sharding.json, or sharding_dicom.json.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import arguments, in_turns, medians, show, show_numbers, timed, write_result
from cxr_dist.format.image import ImageFile

# Other modules are imported where they are used, because every worker process imports this module.

BAR = 0.85
SHORT_SIDE, DIFFERENT = 256, 48
_Turns = dict[str, list[float]]
CLASSES = ("sick", "well")
RECIPE = f"""
reader: table
table: films.csv
columns: {{image: file, patient: patient, label: label, text: {{notes: notes}}}}
labels: {{task: multiclass, classes: {{Sick: {CLASSES[0]}, Well: {CLASSES[1]}}}}}
split: {{by: patient, train: 0.7, val: 0.15, test: 0.15, seed: 0}}
image: {{short_side: {SHORT_SIDE}, quality: 92}}
shard: {{samples: 256}}
"""


def write_dicom(path: Path, film: NDArray[np.float32], compressed: bool) -> None:
    """Write grey pixels, 0 to 255, as a DICOM file of 12 bits with a window."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.1"), UID(f"1.2.3.{path.stem.lstrip('0') or 0}")
    made.Modality, made.PhotometricInterpretation, made.SamplesPerPixel = "CR", "MONOCHROME1", 1
    made.Rows, made.Columns = film.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.WindowCenter, made.WindowWidth = 2048, 3500
    made.PixelData = (4095 - film.clip(0, 255) * (4095 / 255)).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    if compressed:
        made.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    made.save_as(path, enforce_file_format=True)


def make_source(folder: Path, films: int, side: int, dicom: bool) -> list[Path]:
    """Write `films` images of side × side pixels with realistic noise, a table with reports, and a recipe."""
    from cxr_dist.shard.phantom.phantom_image import PhantomImage
    from cxr_dist.shard.phantom.study import draw_study

    images = folder / "images"
    images.mkdir()
    paths = [images / f"{number:05d}{'.dcm' if dicom else '.png'}" for number in range(films)]
    for number, path in enumerate(paths):
        if number >= DIFFERENT:
            path.hardlink_to(paths[number % DIFFERENT])
            continue
        view = draw_study(0, number).views[0]
        drawn = PhantomImage(seed=0, study=number, view=view, side=512).read(512)
        film = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        film += np.random.default_rng(number).normal(0, 3, film.shape).astype(np.float32)
        if dicom:
            write_dicom(path, film, compressed=number % 3 == 0)
        else:
            cv2.imwrite(str(path), film.clip(0, 255).astype(np.uint8))
    rows = [f"{path.name},P{n},{CLASSES[n % 2]},Report of image {n}." for n, path in enumerate(paths)]
    (folder / "films.csv").write_text("file,patient,label,notes\n" + "\n".join(rows) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return paths


def decode_alone(paths: Sequence[Path]) -> None:
    """Read, decode and resize the images."""
    cv2.setNumThreads(0)
    for path in paths:
        ImageFile(path=path).read(SHORT_SIDE)


def decode_at_once(paths: Sequence[Path], workers: int) -> None:
    """Do the same in several processes, including their start."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(decode_alone, [paths[number::workers] for number in range(workers)], chunksize=1)
        pool.close()
        pool.join()  # the processor time of children is counted when they have ended


def shard(folder: Path, workers: int) -> None:
    """Do all the work of `cxr-dist shard` but the start of its interpreter."""
    from cxr_dist.shard.recipe import load_recipe
    from cxr_dist.shard.write import write_shards

    with tempfile.TemporaryDirectory(dir=folder) as out:
        write_shards(load_recipe(folder / "recipe.yaml"), folder, Path(out) / "shards", workers=workers)


def measure(folder: Path, paths: list[Path], workers: int, repeats: int) -> tuple[_Turns, _Turns]:
    """Images per second and processor seconds per image, for each way and turn."""

    def clocked(films: int, way: Callable[[], None]) -> tuple[float, float]:
        before = os.times()
        elapsed = timed(way)
        after = os.times()  # of this process and its children
        return films / elapsed, (sum(after[:4]) - sum(before[:4])) / films

    some = paths[: max(1, len(paths) // 3)]
    at_once, whole = partial(decode_at_once, paths, workers), partial(shard, folder, workers)
    ways = {
        "decoding and resizing, one process": partial(clocked, len(some), partial(decode_alone, some)),
        f"decoding and resizing, {workers} processes": partial(clocked, len(paths), at_once),
        f"sharding, {workers} processes": partial(clocked, len(paths), whole),
    }
    decode_alone(paths)  # reads all files into the page cache
    shard(folder, 0)  # imports all modules, as `cxr-dist` has done at its start
    found = in_turns(ways, repeats, warm_up=0)
    rates, processor = ({name: [pair[i] for pair in each] for name, each in found.items()} for i in range(2))
    return rates, processor


def report(rates: _Turns, processor: _Turns, options: argparse.Namespace) -> None:
    """Print the table with three ratios, and write the result."""
    middle, seconds = medians(rates), medians(processor)
    alone, at_once, sharding = middle.values()
    seconds_alone, _, seconds_sharding = seconds.values()
    ratios = {
        f"sharding / ({options.workers} × one process)": sharding / (options.workers * alone),
        f"sharding / {options.workers} processes at once": sharding / at_once,
        "processor seconds, one process / sharding": seconds_alone / seconds_sharding,
    }
    kind = "DICOM files" if options.dicom else "PNGs"
    print(f"{options.films} {kind} of {options.side} pixels, images per second: median (lowest to highest), and")
    print("milliseconds of processor time per image")
    show(rates, 1, lambda name: f"{1000 * seconds[name]:8.1f} ms")
    show_numbers(ratios)
    found = {"processor_seconds_per_film": processor, "medians": middle, "ratios": ratios, "bar": BAR}
    name = "sharding_dicom" if options.dicom else "sharding"
    write_result(name, "sharding", options, films_per_second=rates, **found)


def main() -> None:
    """Make the images, measure, print and write the result."""
    options = arguments(__doc__, films=600, side=2048, workers=os.cpu_count() or 1, repeats=5, dicom=False)
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_source(Path(temporary), options.films, options.side, options.dicom)
        rates, processor = measure(Path(temporary), paths, options.workers, options.repeats)
    report(rates, processor, options)


if __name__ == "__main__":
    main()
