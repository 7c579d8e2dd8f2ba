"""Hostile and damaged folders of MIMIC-CXR-JPG are refused in one line, or their images are left out and counted."""

import gzip
import random
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from bad_files import SPECIAL, damaged_image, put, refusal
from mimic_tree import make_mimic, read_table, write_table

from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.select import select

pytestmark = pytest.mark.usefixtures("no_hang")
MIMIC = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "mimic_cxr_jpg.yaml")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return make_mimic(tmp_path_factory.mktemp("published"))


@pytest.fixture
def mimic(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "mimic"))


def first_report(root):
    return sorted((root / "mimic-cxr-reports").rglob("*.txt"))[0]


@pytest.mark.parametrize("kind", [*SPECIAL, "twenty megabytes"])
def test_a_bad_report_of_mimic_is_refused(mimic, tried, kind):
    path = first_report(mimic)
    if kind in SPECIAL:
        put(kind, path)
    else:
        path.write_bytes(b"a" * 20_000_000)
    message = refusal(read_source, replace(MIMIC, reports="mimic-cxr-reports"), mimic)
    assert re.search(r"a report in files cannot be read \(|a report has more than \d+ bytes", message)
    tried(f"{kind} as a report of MIMIC", "refused in one line")


def in_directory(content, offset, value):
    """Put two bytes into each header of a zip's directory."""
    changed = bytearray(content)
    for header in re.finditer(rb"PK\x01\x02", content):
        changed[header.start() + offset : header.start() + offset + 2] = value
    return bytes(changed)


def bad_zip(kind, path):
    content, chance = path.read_bytes(), random.Random(0)
    if kind == "a zip bomb":
        name = str(first_report(path.parent).relative_to(path.parent / "mimic-cxr-reports"))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, b"a" * 200_000_000)
    elif kind == "a zip with a password":
        path.write_bytes(in_directory(content, 8, b"\x01\x00"))
    elif kind == "a zip of an unknown method":
        path.write_bytes(in_directory(content, 10, b"\x63\x00"))
    elif kind == "a zip with other bytes":
        damaged = bytearray(content)
        for _ in range(300):
            damaged[chance.randrange(len(content) // 2)] ^= 255
        path.write_bytes(bytes(damaged))
    elif kind == "half a zip":
        path.write_bytes(content[: len(content) // 2])
    else:
        put(kind, path)


ZIPS = ["a zip bomb", "a zip with a password", "a zip of an unknown method", "a zip with other bytes", "half a zip"]


@pytest.mark.parametrize("kind", [*ZIPS, *(name for name in SPECIAL if name != "a folder")])
def test_a_bad_zip_of_reports_is_refused(mimic, tried, kind):
    bad_zip(kind, mimic / "mimic-cxr-reports.zip")
    message = refusal(read_source, MIMIC, mimic)
    assert re.search(r"cannot be read as a zip|a report has more than|no mimic-cxr-reports\.zip in", message)
    tried(f"{kind} as MIMIC's reports", "refused in one line")


@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [
        ("a path as patient", "subject_id", "../../etc"),
        ("a path as study", "study_id", "1/../../2"),
        ("a path as image", "dicom_id", "../../../etc/passwd"),
        ("Arabic digits as patient", "subject_id", "\u0661\u0660"),
        ("an empty patient", "subject_id", ""),
        ("a line break in an image's id", "dicom_id", "0\n"),
    ],
)
def test_an_id_that_is_no_id_is_refused(mimic, tried, kind, column, value):
    header, rows = read_table(mimic, "metadata")
    rows[4][header.index(column)] = value
    write_table(mimic, "metadata", header, rows)
    assert f"row 5 of the metadata has an invalid {column}" in refusal(read_source, MIMIC, mimic)
    tried(f"{kind} in MIMIC's metadata", "refused in one line")


@pytest.mark.parametrize("kind", [*SPECIAL, "half a gz file", "an empty file", "a gz file of zeros"])
@pytest.mark.parametrize("table", ["metadata", "chexpert", "split"])
def test_a_bad_table_of_mimic_is_refused(mimic, tried, table, kind):
    path = mimic / f"mimic-cxr-2.0.0-{table}.csv.gz"
    contents = {
        "half a gz file": path.read_bytes()[: path.stat().st_size // 2],
        "an empty file": b"",
        "a gz file of zeros": gzip.compress(bytes(200_000_000), 1),
    }
    if kind in SPECIAL:
        put(kind, path)
    else:
        path.write_bytes(contents[kind])
    message = refusal(read_source, MIMIC, mimic)
    assert re.search(rf"{path.name} (cannot be read as|has no column)|line 1 of {path.name}|no {path.name} in", message)
    tried(f"{kind} as MIMIC's {table}", "refused in one line")


@pytest.mark.parametrize("kind", [*SPECIAL, "a link to nothing", "an empty file"])
def test_a_bad_image_of_mimic_is_left_out_and_counted(mimic, tmp_path, tried, kind):
    damaged_image(kind, sorted((mimic / "files").rglob("*-00000000-00000000-00000000.jpg"))[3])
    recipe = replace(MIMIC, where={}, reports=None, labels=replace(MIMIC.labels, classes={}))
    found = select(recipe, read_source(recipe, mimic))
    images = [image.pixels for sample in found.samples for image in sample.images]
    assert sum(not image.exists() for image in images) == (kind != "an empty file")
    tried(f"{kind} as an image of MIMIC", "left out and counted")
