"""The reader of a folder of DICOM files: labels joined by a tag, attributes from tags, and nothing else from them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_dicom import content, radiograph
from pydicom.datadict import DicomDictionary
from table_source import source_names, write_rows

from cxr_dist.errors import UserError
from cxr_dist.format import left_out
from cxr_dist.shard.columns import Columns
from cxr_dist.shard.readers import check_recipe, read_source
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

RECIPE = """
reader: dicom
images: export
table: labels.csv
join: {column: accession, tag: AccessionNumber}
columns: {label: finding, text: {report: report}}
dicom: {view: ViewPosition, sex: PatientSex, age: PatientAge}
where: {Manufacturer: [Acme]}
labels: {task: multiclass, classes: {Sick: sick, Well: well}}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 7}
image: {short_side: 32}
shard: {samples: 20}
"""
CANARY = "CANARY7"


def film(number: int, **more) -> bytes:
    """One of two views of a patient; the ids of all films differ, the accession is that of the study."""
    patient, view = divmod(number, 2)
    pixels = np.random.default_rng(number).integers(0, 4096, (40, 44)).astype(np.uint16)
    elements = {
        "SOPInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.9.{patient}", "PatientID": f"MRN{patient:04}",
        "AccessionNumber": f"ACC{patient:04}", "ViewPosition": ("PA", "LL")[view], "PatientSex": "FM"[patient % 2],
        "PatientAge": f"{20 + patient:03}Y", "Manufacturer": "Acme", "PatientBirthDate": "19610203",
        "PatientName": "Doe^Jane", "BurnedInAnnotation": "NO",
    }  # fmt: skip
    return content(radiograph(pixels, 12, **elements | more))


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_recipe(tmp_path / "recipe.yaml")


@pytest.fixture
def source(tmp_path):
    """Forty patients with two views each, in a folder per patient; the second view has no ending."""
    root = tmp_path / "source"
    rows = [[f"ACC{n:04}", ("sick", "well")[n % 2], f"Report {n}."] for n in range(40)]
    for number in range(80):
        folder = root / "export" / f"p{number // 2}" / f"s{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (f"IM{number}" if number % 2 else f"IM{number}.dcm")).write_bytes(film(number))
    write_rows(root / "labels.csv", ["accession", "finding", "report"], rows)
    return root


def test_labels_are_joined_by_a_tag_and_attributes_come_from_tags(recipe, source):
    found = read_source(recipe, source)
    assert (len(found.records), found.left_out) == (80, {})
    record = next(each for each in found.records if each.source_id.endswith("/IM7"))
    assert (record.patient, record.study, record.image_id) == ("MRN0003", "1.2.9.3", "1.2.3.7")
    assert (record.view, record.sex, record.age) == ("LL", "M", 23)
    assert (record.values, record.text, record.fields) == (("well",), {"report": "Report 3."}, {"Manufacturer": "Acme"})


def test_a_folder_becomes_shards_without_a_patient_in_two_splits(recipe, source, tmp_path):
    manifest = write_shards(recipe, source, tmp_path / "out", workers=0)
    assert verify(tmp_path / "out") == []
    assert manifest.attributes == ("view", "sex", "age")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 48, "val": 16, "test": 16}
    assert len(source_names(tmp_path / "out")) == 80


def test_only_what_the_recipe_names_is_kept(recipe, source):
    bare = dataclasses.replace(recipe, dicom=dataclasses.replace(recipe.dicom, view=None, sex=None, age=None), where={})
    for record in read_source(bare, source).records:
        assert (record.view, record.sex, record.age, record.fields) == ("", "", None, {})


def test_other_files_and_rows_have_a_reason_and_stop_nothing(recipe, source, tmp_path):
    folder = source / "export" / "more"
    folder.mkdir()
    (folder / "README").write_text("no DICOM")
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "damaged.dcm").write_bytes(b"no DICOM")
    for name, more in {
        "a.dcm": {"Modality": "CT"}, "b.dcm": {"BurnedInAnnotation": "YES"}, "c.dcm": {"AccessionNumber": "unknown"},
        "d": {"Manufacturer": "Other"}, "e.DCM": {"PhotometricInterpretation": "RGB"}, "f": {"Rows": None},
    }.items():  # fmt: skip
        (folder / name).write_bytes(film(0, SOPInstanceUID=f"1.2.5.{ord(name[0])}", **more))
    with (source / "labels.csv").open("a") as file:
        file.write("ACC9999,sick,Report.\n")
    manifest = write_shards(recipe, source, tmp_path / "out", workers=0, allow_left_out=0.02)
    assert manifest.left_out == {
        left_out.DICOM_MODALITY: 1, left_out.DICOM_BURNED_IN: 1, left_out.DICOM_NOT_IN_TABLE: 1,
        left_out.NOT_SELECTED: 1, left_out.DICOM_COLOUR: 1, left_out.DICOM_WITHOUT_IMAGE: 1,
        left_out.ROW_WITHOUT_DICOM: 1, left_out.UNREADABLE_IMAGE: 1,
    }  # fmt: skip
    keep = dataclasses.replace(recipe, dicom=dataclasses.replace(recipe.dicom, burned_in="keep"))
    assert left_out.DICOM_BURNED_IN not in read_source(keep, source).left_out


def test_a_header_longer_than_what_is_read_first_is_read_whole(recipe, source):
    path = source / "export" / "p0" / "s0" / "IM0.dcm"
    data = film(0)
    start = 144 + int.from_bytes(data[140:144], "little")
    extra = b"\x08\x00\x40\x11SQ\0\0" + (2**19).to_bytes(4, "little") + bytes(2**19)
    path.write_bytes(data[:start] + extra + data[start:])
    assert (len(read_source(recipe, source).records), read_source(recipe, source).left_out) == (80, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"join": None}, "needs `join`"),
        ({"table": None}, "needs `table`"),
        ({"columns": Columns(image="file", label="finding")}, "remove columns.image"),
        ({"where": {"PatientBirthDate": ("x",)}}, "PatientBirthDate, a date"),
        ({"where": {"PatientName": ("x",)}}, "name of a person"),
        ({"where": {"Manufactorer": ("x",)}}, "'Manufactorer', which is no keyword"),
        ({"where": {"PixelData": ("x",)}}, "no single text"),
    ],
)
def test_a_recipe_that_does_not_fit_the_reader_is_refused(recipe, changes, message):
    with pytest.raises(UserError, match=message):
        check_recipe(dataclasses.replace(recipe, **changes))


def test_a_table_that_fits_no_file_or_repeats_a_row_is_refused_without_a_value(recipe, source):
    write_rows(source / "labels.csv", ["accession", "finding", "report"], [["other", "sick", "x"]])
    with pytest.raises(UserError, match="none of 80 DICOM files has a AccessionNumber") as told:
        read_source(recipe, source)
    write_rows(source / "labels.csv", ["accession", "finding", "report"], [["ACC0001", "sick", "x"]] * 2)
    with pytest.raises(UserError, match=r"row 2 of labels\.csv repeats") as again:
        read_source(recipe, source)
    assert "ACC" not in str(told.value).replace("AccessionNumber", "") + str(again.value)


def with_canaries(data: bytes) -> bytes:
    """A file in which every text element of the standard that it lacks, a private one and an overlay are canaries."""
    import io

    import pydicom

    file = pydicom.dcmread(io.BytesIO(data))
    values = {
        "DA": "19770707",
        "TM": "070707",
        "DT": "19770707",
        "AS": "077Y",
        "UI": f"1.7.{7**9}",
        "IS": "7",
        "DS": "7",
    }
    for tag, (kind, *_) in DicomDictionary.items():
        if tag >> 16 in (8, 0x10, 0x18, 0x20, 0x32, 0x38, 0x40) and tag not in file and tag & 0xFFFF:
            if kind in ("LO", "SH", "PN", "LT", "ST", "UT", "CS", "UC", "AE"):
                file.add_new(tag, kind, CANARY)
            elif kind in values:
                file.add_new(tag, kind, values[kind])
    file.add_new(0x00090010, "LO", "ACME")
    file.add_new(0x00091001, "LO", CANARY)
    file.add_new(0x00091002, "UN", CANARY.encode() + b"0")
    file.add_new(0x60000010, "US", 40)
    file.add_new(0x60000011, "US", 44)
    file.add_new(0x60000022, "LO", CANARY)
    file.add_new(0x60003000, "OW", (CANARY + "0").encode() * 28)
    file.add_new(0x60004000, "LT", CANARY)
    return content(file)


def test_canaries_in_every_tag_are_in_no_shard_log_or_message(recipe, source, tmp_path):
    """Runs the command in a process of its own, whose whole output is searched."""
    for number, path in enumerate(sorted(p for p in (source / "export").rglob("*") if p.is_file())):
        data = with_canaries(path.read_bytes())
        path.write_bytes(data if number else data.replace(b"PA", b"P\xff", 1)[: len(data) - 100])
    command = [sys.executable, "-m", "cxr_dist", "shard", tmp_path / "recipe.yaml", "--source", source]
    ended = subprocess.run(
        [*command, "--out", tmp_path / "out", "--workers", "1", "--allow-left-out", "0.1"], capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for name, found in {**written, "stdout": ended.stdout, "stderr": ended.stderr}.items():
        for secret in (CANARY, "19770707", "Doe^Jane", "19610203", "MRN00", "ACC00", "1.2.9.", "1.2.3."):
            assert secret.encode() not in found, (name, secret)


def test_the_supplied_recipe_reads_an_export(source):
    given = dataclasses.replace(load_recipe(Path("dicom")), images="export")
    assert len(read_source(given, source).records) == 80
