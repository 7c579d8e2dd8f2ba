"""Write a small data set: a table, and a folder of images."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr_dist.shard.recipe import Columns, ImageFormat, Labels, Recipe, ShardSize, Split


def write_image(path: Path, seed: int, side: int = 24) -> None:
    """Write a grey PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8), dtype=np.uint8)
    path.write_bytes(bytes(cv2.imencode(".png", pixels)[1]))


def make_source(folder: Path, patients: int = 40, films: int = 2) -> Path:
    """Write folder/films.csv and folder/images, with `films` images per patient; the class alternates by patient."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in range(patients):
        for image in range(films):
            name = f"secret.film-{patient}-{image}.png"
            write_image(folder / "images" / name, seed=patient * films + image)
            rows.append([name, f"MRN{patient:04d}", ("sick", "well")[patient % 2], "PA", f"Report {patient} says ü."])
    write_rows(folder / "films.csv", ["file", "mrn", "label", "view", "notes"], rows)
    return folder


def write_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def table_recipe(**changes: Any) -> Recipe:
    """The recipe for the data set of `make_source`, with some fields changed."""
    fields: dict[str, Any] = {
        "reader": "table",
        "table": "films.csv",
        "columns": Columns(image="file", patient="mrn", label="label", view="view", text={"notes": "notes"}),
        "labels": Labels(classes={"Sick": ("sick",), "Well": ("well",)}),
        "split": Split(train=0.6, val=0.2, test=0.2, seed=7),
        "image": ImageFormat(short_side=16),
        "shard": ShardSize(samples=20),
    }
    return Recipe(**fields | changes)


def source_names(out: Path) -> dict[str, str]:
    """Key -> name of the image in the source, from keys.csv."""
    with (out / "keys.csv").open(newline="") as file:
        return {row["key"]: row["source"] for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, str]:
    """File name -> sha256, for every file of a finished shard folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
