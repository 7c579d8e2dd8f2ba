"""The reader for MIMIC-CXR-JPG: labels and reports by study, the official split, views, and missing files."""

import dataclasses
import gzip
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from mimic_tree import CLASSES, METADATA, make_mimic, read_table, write_table
from rich.console import Console
from table_source import source_names

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import open_index
from cxr_dist.format.report_sections import MIMIC_SECTIONS
from cxr_dist.shard.readers import check_recipe, read_source
from cxr_dist.shard.recipe import Labels, Recipe, Split, load_recipe
from cxr_dist.shard.select import select
from cxr_dist.shard.summary import print_summary
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

PUBLISHED = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "mimic_cxr_jpg.yaml")


def recipe(**changes) -> Recipe:
    return dataclasses.replace(PUBLISHED, **changes)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MIMIC-CXR-JPG folder that tests must not change."""
    return make_mimic(tmp_path_factory.mktemp("mimic"))


@pytest.fixture
def mimic(published: Path, tmp_path: Path) -> Path:
    """A copy that a test can change."""
    return shutil.copytree(published, tmp_path / "mimic")


def test_shards_have_the_official_split_and_the_labels(published, tmp_path):
    out = tmp_path / "shards"
    manifest = write_shards(PUBLISHED, published, out, workers=0)
    assert verify(out) == []
    assert (manifest.classes, manifest.task, manifest.split_by) == (CLASSES, "multilabel", "patient")
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }
    assert manifest.left_out == {"not selected by the recipe's where": 40}  # the lateral images
    assert (manifest.text_sections, manifest.without_text, manifest.attributes) == (
        MIMIC_SECTIONS,
        1,
        ("view",),
    )
    official = {dicom: part for dicom, _, _, part in read_table(published, "split")[1]}
    part_of = {"train": "train", "val": "validate", "test": "test"}
    names = source_names(out)
    for name, split in manifest.splits.items():
        for shard in split.shards:
            keys = open_index(out, shard, len(CLASSES))["key"].tolist()
            assert {official[names[key.decode()]] for key in keys} == {part_of[name]}
    totals = Counter()
    for split in manifest.splits.values():
        totals.update(split.label_counts["Edema"])
    # Class 3 is present for patients 3 and 17, uncertain for 2 and 16, and absent or not mentioned for all others.
    assert totals == {"positive": 2, "negative": 36, "unknown": 2}


def test_plan_warns_of_sections_from_which_the_labels_were_derived(published, tmp_path, cxr_dist):
    write_shards(PUBLISHED, published, tmp_path / "shards", workers=0)
    plan = ["plan", "demo", "--data.shards", tmp_path / "shards", "--data.global-batch", "8"]
    plan += ["--data.micro-batch", "8"]
    status, said, _ = cxr_dist(*plan)
    assert status == 0
    assert "split                       by patient, as published" in said
    assert "without report text         1 of 40 samples of all splits" in said
    assert "made from the reports themselves, by a program (CheXpert or NegBio)" in said
    status, said, _ = cxr_dist(*plan, "--data.text-sections", "indication", "history")
    assert (status, "made from the reports" in said) == (0, False)
    status, said, _ = cxr_dist(*plan, "--model.mode", "image")
    assert (status, "report" in said) == (0, False)


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ({"uncertain": "ignore", "empty": "ignore"}, {1: 2, 0: 2, -1: 36}),
        ({"uncertain": "ignore", "empty": "zeros"}, {1: 2, 0: 36, -1: 2}),
        ({"uncertain": "zeros", "empty": "ignore"}, {1: 2, 0: 4, -1: 34}),
        ({"uncertain": "ones", "empty": "zeros"}, {1: 4, 0: 36}),
    ],
)
def test_uncertain_and_empty_cells_count_as_the_recipe_says(published, rule, counts):
    labels = dataclasses.replace(PUBLISHED.labels, **rule)
    selection = select(recipe(labels=labels), read_source(PUBLISHED, published))
    assert Counter(sample.label[CLASSES.index("Edema")] for sample in selection.samples) == counts


def test_classes_select_and_rename_columns_and_the_default_is_all_columns(published):
    two = recipe(labels=Labels(task="multilabel", classes={"Fluid": ("Edema",), "Air": ("Pneumothorax",)}))
    source = read_source(two, published)
    assert source.label_columns == ("Fluid", "Air")
    assert source.records[3 * 4].values == ("1.0", "")
    every = read_source(recipe(labels=Labels(task="multilabel")), published)
    assert every.label_columns == CLASSES


def test_a_study_that_the_negbio_table_lacks_has_no_label(published):
    negbio = recipe(table="mimic-cxr-2.0.0-negbio.csv.gz")
    selection = select(negbio, read_source(negbio, published))
    assert (len(selection.samples), selection.left_out["no label"]) == (39, 1)


def test_a_record_has_ids_view_file_and_report(published):
    source = read_source(PUBLISHED, published)
    assert len(source.records) == 80
    lateral = source.records[1]
    assert (lateral.patient, lateral.study, lateral.view) == ("10000032", "50414267", "LATERAL")
    assert lateral.fields == {
        "projection": "lateral",
        "ViewPosition": "LATERAL",
        "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
        "split": "train",
    }
    assert lateral.pixels.path == published / f"files/p10/p10000032/s50414267/{lateral.source_id}.jpg"
    assert all(record.pixels.exists() for record in source.records)
    assert {name: text for name, text in lateral.text.items() if text} == {
        "preamble": "FINAL REPORT",
        "examination": "Chest.",
        "indication": "Cough 0.",
        "findings": "Seen.",
        "impression": "Said.",
    }
    assert lateral.text is source.records[0].text  # all images of a study share one copy
    assert (lateral.sex, lateral.age) == ("", None)


@pytest.mark.parametrize("reports", ["mimic-cxr-reports.zip", "mimic-cxr-reports", "mimic-cxr-reports/files"])
def test_reports_are_read_from_the_zip_or_its_unpacked_folder(published, reports):
    records = read_source(recipe(reports=reports), published).records
    texts = [record.text["indication"] for record in records]
    assert texts[:6] == ["Cough 0.", "Cough 0.", "Cough 0.", "Cough 0.", "", ""]
    assert texts.count("") == 2


def test_without_reports_there_are_no_sections(published):
    source = read_source(recipe(reports=None), published)
    assert (source.text_sections, source.records[0].text) == ((), {})


def test_where_selects_images_by_projection_view_or_procedure(published):
    for where, count in (
        ({}, 80),
        ({"projection": ("lateral",)}, 40),
        ({"ViewPosition": ("PA", "AP")}, 40),
        ({"PerformedProcedureStepDescription": ("CHEST (PA AND LAT)",), "projection": ("frontal",)}, 40),
    ):
        chosen = recipe(where=where)
        assert len(select(chosen, read_source(chosen, published)).samples) == count


def test_no_patient_is_in_two_splits_if_split_by_patient(published):
    own = recipe(split=Split(by="patient", train=0.6, val=0.2, test=0.2))
    splits: dict[str, set[str]] = {}
    for sample in select(own, read_source(own, published)).samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
    assert len(splits) == 20
    assert all(len(names) == 1 for names in splits.values())


def test_sex_and_age_come_from_mimic_iv(mimic):
    with gzip.open(mimic / "patients.csv.gz", "wt") as file:
        file.write("subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n")
        file.write("10000032,F,52,2178,2014 - 2016,\n10000033,M,,2178,2014 - 2016,\n")
    records = read_source(recipe(patients="patients.csv.gz"), mimic).records
    persons = [(record.sex, record.age) for record in records[::4]]
    assert persons[:3] == [("F", 54), ("M", None), ("", None)]


def test_an_official_split_that_divides_a_patient_is_refused(mimic, tmp_path):
    header, rows = read_table(mimic, "split")
    rows[0][-1] = "test"
    write_table(mimic, "split", header, rows)
    with pytest.raises(UserError, match=r"the official split divides 1 of 20 units \(split by patient\)"):
        write_shards(PUBLISHED, mimic, tmp_path / "shards", workers=0)


def test_an_image_missing_from_the_official_split_counts_as_failed(mimic):
    header, rows = read_table(mimic, "split")
    write_table(mimic, "split", header, rows[1:])
    selection = select(PUBLISHED, read_source(PUBLISHED, mimic))
    assert selection.left_out["not in the official split"] == 1


def test_the_error_names_a_damaged_table(mimic):
    (header, _), (labels, rows) = read_table(mimic, "metadata"), read_table(mimic, "chexpert")
    write_table(mimic, "chexpert", labels, [*rows, rows[0]])
    with pytest.raises(UserError, match=r"chexpert\.csv\.gz has a study_id twice: expected a row per study"):
        read_source(PUBLISHED, mimic)
    write_table(mimic, "chexpert", labels[:5], [row[:5] for row in rows])
    with pytest.raises(UserError, match=r"chexpert\.csv\.gz has no column 'Edema'"):
        read_source(PUBLISHED, mimic)
    (mimic / "mimic-cxr-2.0.0-chexpert.csv.gz").write_bytes(b"\x1f\x8b\x08 cut off")
    with pytest.raises(UserError, match=r"chexpert\.csv\.gz cannot be read as a table"):
        read_source(PUBLISHED, mimic)
    rows = read_table(mimic, "metadata")[1]
    write_table(mimic, "metadata", header, [*rows, rows[0]])
    with pytest.raises(UserError, match="the metadata have a dicom_id twice"):
        read_source(PUBLISHED, mimic)


def test_an_official_split_without_test_images_is_refused(mimic, tmp_path):
    header, rows = read_table(mimic, "split")
    write_table(mimic, "split", header, [row for row in rows if row[-1] != "test"])
    message = "split test is empty: 36 images in all, split by patient; .* or remove split.official from the recipe"
    with pytest.raises(UserError, match=message):
        write_shards(PUBLISHED, mimic, tmp_path / "shards", workers=0, allow_left_out=1)


def test_the_closing_table_names_the_official_split_and_missing_reports(published, tmp_path):
    manifest = write_shards(PUBLISHED, published, tmp_path / "shards", workers=0)
    console = Console(record=True, width=120, file=io.StringIO())
    print_summary(manifest, console)
    text = console.export_text()
    assert "Split by patient, as published" in text
    assert "Without any text of a report: 1 images." in text


def test_the_error_names_an_unknown_split(mimic):
    header, rows = read_table(mimic, "split")
    write_table(mimic, "split", header, [[*row[:-1], "fold1"] for row in rows])
    with pytest.raises(UserError, match="has the split 'fold1'; expected train, validate, test"):
        read_source(PUBLISHED, mimic)


def test_a_folder_that_is_not_mimic_cxr_jpg_is_refused(mimic):
    (mimic / "mimic-cxr-reports.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"mimic-cxr-reports\.zip cannot be read as a zip"):
        read_source(PUBLISHED, mimic)
    shutil.rmtree(mimic / "mimic-cxr-reports")
    (mimic / "mimic-cxr-reports").mkdir()
    with pytest.raises(UserError, match="none of 40 studies has a report in mimic-cxr-reports: expected"):
        read_source(recipe(reports="mimic-cxr-reports"), mimic)
    write_table(mimic, "metadata", METADATA[:2], [])
    with pytest.raises(UserError, match="has no column 'study_id': expected MIMIC-CXR-JPG's published file"):
        read_source(PUBLISHED, mimic)
    ids = ["abc-1", "10000032", "../../other"]
    write_table(mimic, "metadata", METADATA, [ids + [""] * (len(METADATA) - 3)])
    with pytest.raises(UserError, match=r"row 1 of the metadata has an invalid study_id: expected") as error:
        read_source(PUBLISHED, mimic)
    assert "other" not in str(error.value)
    (mimic / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(UserError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv\.gz in .*: --source is the folder"):
        read_source(PUBLISHED, mimic)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": None}, r"needs `table`, the \.csv\.gz of labels"),
        ({"labels": Labels(classes={"A": ("a",), "B": ("b",)})}, "needs labels.task: multilabel"),
        (
            {"labels": Labels(task="multilabel", separator="|")},
            "remove labels.drop, min_count and separator",
        ),
        (
            {"labels": Labels(task="multilabel", classes={"A": ("a", "c"), "B": ("b",)})},
            "labels.classes.A must name one column",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_the_reader_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_recipe(recipe(**changes))
