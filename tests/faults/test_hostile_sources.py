"""Hostile and damaged tables, images and Open-i folders are refused in one line, or left out and counted."""

import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_files import SECRET, SPECIAL, damaged_image, put, refusal
from table_source import make_source, table_recipe

from cxr_dist.format.left_out import MISSING_IMAGE, UNREADABLE_IMAGE, UNREADABLE_REPORT
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Split, load_recipe
from cxr_dist.shard.select import select
from cxr_dist.shard.write import write_shards

pytestmark = pytest.mark.usefixtures("no_hang")
RECIPES = Path(__file__).resolve().parents[2] / "shards"
OPENI = load_recipe(RECIPES / "openi.yaml")


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


# The reader of tables.


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("table", ["films.csv", "films.csv.gz", "films.tsv", "films.parquet"])
def test_a_table_that_is_no_file_is_refused(source, tmp_path, tried, table, kind):
    put(kind, source / table)
    message = refusal(write_shards, table_recipe(table=table), source, tmp_path / "out", workers=0)
    assert f"{table} cannot be read as" in message or f"no {table} in" in message
    tried(f"{kind} as {table}", "refused in one line")


IMAGES = [
    *SPECIAL, "an empty file", "a text", "half a PNG", "a PNG whose half is zeros", "a PNG with another byte", "a GIF",
    "a PDF", "a sparse file of a terabyte", "a link to nothing",
]  # fmt: skip


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_is_left_out_and_counted(source, tmp_path, tried, kind):
    damaged_image(kind, source / "images" / "secret.film-7-1.png")
    manifest = write_shards(table_recipe(), source, tmp_path / "out", workers=0, allow_left_out=0.02)
    reason = MISSING_IMAGE if kind == "a link to nothing" else UNREADABLE_IMAGE
    assert manifest.left_out == {reason: 1}
    assert "at least 1 of 80 images failed" in refusal(
        write_shards, table_recipe(), source, tmp_path / "other", workers=0, allow_left_out=0.001
    )
    tried(f"{kind} as an image of a table", "left out and counted")


# Open-i: XML reports and a folder of PNGs.

REPORT = (
    '<?xml version="1.0" encoding="utf-8"?>{doctype}<eCitation><Abstract>'
    '<AbstractText Label="FINDINGS">{text}</AbstractText></Abstract>'
    '<MeSH><major>normal</major></MeSH>{more}<parentImage id="CXR{number}_1"/></eCitation>'
)


def report(number, doctype="", text="Clear.", more=""):
    return REPORT.format(number=number, doctype=doctype, text=text, more=more)


@pytest.fixture
def openi(tmp_path):
    root = tmp_path / "openi"
    (root / "ecgen-radiology").mkdir(parents=True)
    (root / "images").mkdir()
    for number in range(4):
        (root / "ecgen-radiology" / f"{number}.xml").write_text(report(number))
        cv2.imwrite(str(root / "images" / f"CXR{number}_1.png"), np.full((32, 32), number, np.uint8))
    return root


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else SECRET}">' for n in range(12))
XML = {
    "an entity bomb": report(9, f"<!DOCTYPE x [{LAUGHS}]>", "&l11;"),
    "a large entity used often": report(9, f'<!DOCTYPE x [<!ENTITY a "{"a" * 90_000}">]>', "&a;" * 90_000),
    "an entity that names another file": report(9, '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>', "&f;"),
    "an undefined entity": report(9, text="&lung;"),
    "an unknown encoding": report(9).replace("utf-8", "klingon"),
    "a wrong encoding": report(9, text="\udcff"),
    "twenty megabytes": report(9, text="a" * 20_000_000),
    "a NUL character": report(9, text="\0"),
    "an unclosed element": report(9)[:-5],
    "an empty file": "",
    "another format": "%PDF-1.7\n" + SECRET,
}


@pytest.mark.parametrize("kind", [*XML, *SPECIAL])
def test_a_bad_xml_report_is_left_out_and_counted(openi, tried, kind):
    path = openi / "ecgen-radiology" / "9.xml"
    if kind in SPECIAL:
        put(kind, path)
    else:
        path.write_bytes(XML[kind].encode("utf-8", "surrogateescape"))
    found = read_source(OPENI, openi)
    assert (len(found.records), found.left_out) == (4, {UNREADABLE_REPORT: 1})
    tried(f"{kind} as an XML report", "left out and counted")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("100,000 nested elements", {"more": "<a>" * 100_000 + "</a>" * 100_000}),
        ("100,000 elements inside the findings", {"text": "<b>" * 100_000 + "Clear." + "</b>" * 100_000}),
        ("an external DTD", {"doctype": '<!DOCTYPE eCitation SYSTEM "http://localhost:9/x.dtd">'}),
        ("an image name that leads out of the folder", {"more": '<parentImage id="../../../etc/passwd"/>'}),
        ("an image without a name", {"more": "<parentImage/>"}),
    ],
)
def test_odd_but_whole_xml_is_read(openi, tried, kind, change):
    (openi / "ecgen-radiology" / "3.xml").write_text(report(3, **change))
    records = read_source(OPENI, openi).records
    last = [record for record in records if record.image_id == "CXR3_1"]
    assert [record.text["findings"] for record in last] == ["Clear."]
    assert all(record.pixels is None for record in records if not record.image_id.startswith("CXR"))
    tried(f"XML with {kind}", "read as it should be")


def test_one_image_in_two_reports_is_one_image_of_one_patient(openi, tried):
    folder = openi / "ecgen-radiology"
    for number in range(4):
        shutil.copy(folder / f"{number}.xml", folder / f"{number} copy.xml")
    shutil.copy(folder / "0.xml", os.fsencode(folder) + b"/n\xff.xml")
    recipe = OPENI.__class__(reader="openi", split=Split(train=0.5, val=0.25, test=0.25))
    (folder / "1.xml").write_text(report(1).replace("normal", "edema"))
    (folder / "1 copy.xml").write_text(report(1).replace("normal", "edema"))
    source = read_source(recipe, openi)
    assert len(source.records) == 9
    samples = select(recipe, source).samples
    assert (len(samples), len({sample.patient for sample in samples})) == (9, 4)
    tried("an XML report twice", "read as it should be")
    tried("an XML report whose file name is not UTF-8", "read as it should be")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "an endless device", "a link to itself"])
@pytest.mark.parametrize("name", ["ecgen-radiology", "images"])
def test_a_folder_of_openi_that_is_none_is_refused(openi, tried, name, kind):
    shutil.rmtree(openi / name)
    put(kind, openi / name)
    assert re.search(rf"no {name} in |no \.xml in {name}|{name} is not a folder", refusal(read_source, OPENI, openi))
    tried(f"{kind} as Open-i's {name}", "refused in one line")
