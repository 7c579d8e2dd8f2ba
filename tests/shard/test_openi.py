"""The Open-i reader: reports, images under both file names, and the known counts of the published collection."""

import dataclasses
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_dist.errors import UserError
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.readers.openi import OPENI_SECTIONS
from cxr_dist.shard.recipe import Recipe, load_recipe
from cxr_dist.shard.select import select
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

OPENI = Path(__file__).resolve().parents[2] / "shards" / "openi.yaml"

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">Lungs
are clear.</AbstractText><AbstractText Label="IMPRESSION">No acute disease.</AbstractText>
</Abstract></Article></MedlineCitation>
<MeSH>{terms}</MeSH>
<parentImage id="CXR{number}_1_IM-0001-3001"/><parentImage id="CXR{number}_1_IM-0001-4001"/>
</eCitation>"""


def write_image(path: Path) -> None:
    cv2.imwrite(str(path), np.full((8, 8), 90, np.uint8))


def read(folder: Path, recipe: Recipe | None = None):
    return read_source(recipe or load_recipe(OPENI), folder)


@pytest.fixture
def openi(tmp_path: Path) -> Path:
    """Two reports with two images each, of which one is missing, and a report that is not XML."""
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "images").mkdir()
    terms = {1: "<major>normal</major>", 2: "<minor>x</minor>"}
    for number, term in terms.items():
        text = REPORT.format(number=number, terms=term)
        (tmp_path / "ecgen-radiology" / f"{number}.xml").write_text(text)
    (tmp_path / "ecgen-radiology" / "3.xml").write_text("<eCitation>")
    for name in ("CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "1_IM-0001-3001.dcm.png"):
        write_image(tmp_path / "images" / name)
    return tmp_path


def test_each_image_of_a_report_becomes_a_record_with_its_sections(openi):
    source = read(openi)
    assert source.text_sections == OPENI_SECTIONS
    first = source.records[0]
    assert dict(first.text) == {
        "indication": "Cough & fever",
        "comparison": "",
        "findings": "Lungs are clear.",
        "impression": "No acute disease.",
    }
    assert [record.values for record in source.records] == [("Normal",), ("Normal",), ("Other",), ("Other",)]
    assert len({record.patient for record in source.records}) == 2
    assert source.left_out == {"report not readable": 1}


def test_images_are_found_under_both_names_and_a_missing_one_is_none(openi):
    images = [record.pixels for record in read(openi).records]
    names = [None if image is None else image.path.name for image in images]
    assert names == ["CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "1_IM-0001-3001.dcm.png", None]


def test_a_table_of_views_allows_selection_by_view(openi):
    (openi / "views.csv").write_text("uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Lateral\n")
    recipe = dataclasses.replace(load_recipe(OPENI), table="views.csv", where={"view": ("Lateral",)})
    assert [record.view for record in read(openi, recipe).records] == ["Lateral", "", "Lateral", ""]


def test_a_folder_that_is_not_openi_is_refused(openi):
    (openi / "views.csv").write_text("a,b\n1,2\n")
    recipe = dataclasses.replace(load_recipe(OPENI), table="views.csv")
    with pytest.raises(UserError, match=r"views\.csv has no columns filename and projection"):
        read(openi, recipe)
    for path in (openi / "ecgen-radiology").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no \.xml in ecgen-radiology"):
        read(openi)
    shutil.rmtree(openi / "images")
    shutil.rmtree(openi / "ecgen-radiology")
    with pytest.raises(UserError, match=r"no ecgen-radiology in .*: the recipe's reports is relative"):
        read(openi)


def test_a_folder_without_any_image_of_the_reports_is_refused(openi, tmp_path):
    for path in (openi / "images").iterdir():
        path.unlink()
    recipe = dataclasses.replace(load_recipe(OPENI), labels=dataclasses.replace(load_recipe(OPENI).labels, min_count=1))
    with pytest.raises(UserError, match="no image found: none of 4 images exists"):
        write_shards(recipe, openi, tmp_path / "shards", workers=0)


@pytest.fixture(scope="module")
def collection(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All published reports, and a copy of one tiny PNG under the name of every image; links would be one image."""
    folder = tmp_path_factory.mktemp("openi")
    with tarfile.open(real_data / "openi" / "NLMCXR_reports.tgz") as tar:
        tar.extractall(folder, filter="data")
    (folder / "images").mkdir()
    write_image(folder / "image.png")
    for record in read(folder).records:
        shutil.copy(folder / "image.png", folder / "images" / f"{record.source_id}.png")
    return folder


@pytest.mark.shared
def test_the_published_collection_has_its_known_counts(collection, tmp_path):
    recipe = load_recipe(OPENI)
    recipe = dataclasses.replace(recipe, split=dataclasses.replace(recipe.split, by="image"))
    source = read(collection)
    counts = Counter(record.values[0] for record in source.records)
    assert (len(source.records), len(counts)) == (7470, 747)
    frequent = [count for count in counts.values() if count >= 20]
    assert (len(frequent), sum(frequent)) == (36, 5092)
    manifest = write_shards(recipe, collection, tmp_path / "shards", workers=0)
    totals = Counter()
    for split in manifest.splits.values():
        totals.update({name: split.label_counts[name]["positive"] for name in manifest.classes})
    assert totals == {"Normal": 2696, "Others": 2396}
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 3564,
        "val": 764,
        "test": 764,
    }
    assert manifest.left_out == {"label value on fewer images than labels.min_count": 7470 - 5092}
    assert verify(tmp_path / "shards") == []


@pytest.mark.shared
def test_no_report_is_in_two_splits_if_split_by_patient(collection):
    selection = select(load_recipe(OPENI), read(collection))
    splits: dict[str, set[str]] = {}
    for sample in selection.samples:
        splits.setdefault(sample.study, set()).add(sample.split)
    assert len(selection.samples) == 5092
    assert all(len(names) == 1 for names in splits.values())
    shares = Counter(sample.split for sample in selection.samples)
    assert abs(shares["train"] - 0.70 * 5092) < 10
