"""Readers of the user's own: what they return is checked, and a change of their file makes another recipe."""

import hashlib
import json

import pytest
import submitit
from table_source import contents, make_source, source_names, table_recipe

from cxr_dist.errors import UserError
from cxr_dist.evaluate.leakage import labels_in_text
from cxr_dist.format.manifest import load_manifest
from cxr_dist.shard.array import ShardTask
from cxr_dist.shard.deal import plan_shards
from cxr_dist.shard.output_folder import prepare
from cxr_dist.shard.readers import READERS, read_source
from cxr_dist.shard.readers.own_reader import NOT_STATED
from cxr_dist.shard.recipe import Labels, load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_part, write_shards

READER = '''
import csv
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from cxr_dist.errors import UserError
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import UNREADABLE_IMAGE, ImageProblem
from cxr_dist.shard.record import Record, Source

SECRET = "Mrs Featherstonehaugh"


@dataclass(frozen=True)
class Image:
    """A class of the reader's own module, which a worker must import before it unpickles an image."""

    path: Path

    def exists(self):
        return self.path.is_file()

    def read(self, short_side):
        return cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)


def record(row, folder):
    return Record(source_id=row["file"], image_id=row["file"], study=row["mrn"], patient=row["mrn"], view=row["view"],
                  values=(row["label"],), text={"notes": row["notes"]}, pixels=Image(folder / "images" / row["file"]))


def read(recipe, folder):
    with (folder / "films.csv").open(newline="", encoding="utf-8") as file:
        records = [record(row, folder) for row in csv.DictReader(file)]
    return Source(records=records, text_sections=("notes",))


def _changed(number, **changes):
    """A reader whose record of this number (from 1) has other fields."""

    def changed(recipe, folder):
        source = read(recipe, folder)
        source.records[number - 1] = replace(source.records[number - 1], **changes)
        return source

    return changed
'''


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


@pytest.fixture
def own(tmp_path):
    """own(text, name) writes reader.py as READER + text, and returns a recipe with its reader `name`."""

    def recipe(text="", name="read", **changes):
        (tmp_path / "reader.py").write_text(READER + text)
        return table_recipe(reader=f"{tmp_path}/reader.py:{name}", table=None, columns=None, **changes)

    return recipe


def test_shards_equal_those_of_the_table_reader_for_any_number_of_workers(source, own, tmp_path):
    """Takes some seconds, because two workers start and import NumPy and OpenCV."""
    table = write_shards(table_recipe(), source, tmp_path / "table", workers=0)
    recipe = own()
    manifest = write_shards(recipe, source, tmp_path / "own", workers=2)
    assert write_shards(recipe, source, tmp_path / "own", workers=0) == manifest  # the folder is already complete
    assert verify(tmp_path / "own") == []
    assert {k: v.label_counts for k, v in manifest.splits.items()} == {
        k: v.label_counts for k, v in table.splits.items()
    }
    assert source_names(tmp_path / "own").keys() == source_names(tmp_path / "table").keys()
    write_shards(recipe, source, tmp_path / "again", workers=0)
    assert contents(tmp_path / "again") == contents(tmp_path / "own")


def test_the_manifest_records_name_sha256_and_label_source_but_no_folder(source, own, tmp_path):
    recipe = own()
    manifest = write_shards(recipe, source, tmp_path / "shards", workers=0)
    assert manifest == load_manifest(tmp_path / "shards")
    assert manifest.reader == manifest.recipe["reader"] == "reader.py:read"
    assert manifest.recipe["reader_sha256"] == hashlib.sha256((tmp_path / "reader.py").read_bytes()).hexdigest()
    assert manifest.label_source == manifest.labels_from == NOT_STATED
    assert str(tmp_path) not in (tmp_path / "shards" / "manifest.json").read_text()


def test_manifests_of_built_in_readers_have_no_additional_fields(source, tmp_path):
    manifest = write_shards(table_recipe(), source, tmp_path / "shards", workers=0)
    text = (tmp_path / "shards" / "manifest.json").read_text()
    assert not {"labels_from", "labels_in_reports"} & json.loads(text).keys()
    assert "reader_sha256" not in text
    assert manifest.label_source == "table"
    assert READERS[manifest.label_source].labels_from.startswith("a column of the source table")


def test_labels_derived_from_the_reports_cause_a_warning(source, own, tmp_path):
    text = """
def by_program(recipe, folder):
    return replace(read(recipe, folder), labels_from="our labeller", labels_in_reports="by our labeller")
"""
    manifest = write_shards(own(text, "by_program"), source, tmp_path / "shards", workers=0)
    warning = labels_in_text(manifest.label_source, manifest.text_sections, manifest.labels_in_reports)
    assert "made from the reports themselves, by our labeller: a model that reads notes" in warning
    assert labels_in_text("two radiologists", ("notes",)) == ""


def test_a_changed_reader_is_another_recipe(source, own, tmp_path):
    recipe, out = own(), tmp_path / "shards"
    plan = plan_shards(recipe, source)
    prepare(out, {}, "")
    first, *rest = (shard.stem for shard in plan.shards)
    part = {"workers": 0, "allow_left_out": 0.0, "identity": plan.identity}
    write_part(recipe, source, out, stems=[first], **part)
    own("\n# changed")
    assert plan_shards(recipe, source).identity != plan.identity
    with pytest.raises(UserError, match="or the reader's file, have changed since the job was submitted"):
        write_part(recipe, source, out, stems=rest, **part)
    before = (out / f"{first}.tar").stat().st_mtime_ns
    write_shards(recipe, source, out, workers=0)
    assert (out / f"{first}.tar").stat().st_mtime_ns != before  # the shard of another recipe was rewritten
    own("\n# changed again")
    with pytest.raises(UserError, match=r"shards of another recipe \(it differs in: reader_sha256\)"):
        write_shards(recipe, source, out, workers=0)


def test_a_task_of_a_job_array_uses_the_reader(source, own, tmp_path):
    """Takes some seconds, because submitit starts a Python process, as SLURM would, which gets only the recipe."""
    recipe, out = own(), tmp_path / "shards"
    plan = plan_shards(recipe, source)
    prepare(out, {}, "")
    stems = tuple(shard.stem for shard in plan.shards)
    task = ShardTask(
        recipe=recipe,
        source=source,
        out=out,
        identity=plan.identity,
        stems=stems,
        workers=0,
        allow_left_out=0.0,
    )
    executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    executor.submit(task).result()
    assert all((out / f"{stem}.tar").is_file() for stem in stems)


def test_the_reader_is_looked_up_in_the_working_directory_before_the_recipes_folder(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "reader.py").write_text(READER)
    (tmp_path / "site" / "recipe.yaml").write_text("reader: reader.py:read")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(tmp_path / "site" / "recipe.yaml").reader == f"{tmp_path}/site/reader.py:read"
    (tmp_path / "reader.py").write_text(READER)
    assert load_recipe(tmp_path / "site" / "recipe.yaml").reader == f"{tmp_path}/reader.py:read"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("source_id=''", "record 3: source_id is of type str; expected text that is not empty"),
        ("source_id='secret.film-0-0.png'", "records 1 and 3 have the same source_id"),
        ("patient=17", "record 3: patient is of type int; expected text"),
        ("study=None", "record 3: study is of type NoneType; expected text"),
        ("sex=SECRET", "record 3: sex is of type str; expected 'F', 'M' or ''"),
        ("age='61'", "record 3: age is of type str; expected None or years from 0 to 125"),
        ("age=float('nan')", "record 3: age is of type float; expected None or years"),
        ("age=np.int64(61)", "record 3: age is of type int64; expected None or years"),
        ("values=SECRET", "record 3: values is of type str; expected a tuple of text"),
        ("values=('sick', SECRET)", "record 3: values has 2 label values; expected 1"),
        ("values=()", "record 3: values has 0 label values; expected 1"),
        ("text=SECRET", "record 3: text is of type str; expected a dict of text by section"),
        ("text={'notes': None}", "record 3: text is of type dict; expected a dict of text by section"),
        (r"text={'notes': 'a\udcff'}", "record 3: text is of type dict; expected a dict of text by section"),
        ("text={'report': SECRET}", "record 3: text has a section that is not in the source's text_sec"),
        ("fields={'view': 1}", "record 3: fields is of type dict; expected a dict of text by name"),
        ("split='validate'", "record 3: split is of type str; expected '' or one of train, val, test"),
        ("pixels=SECRET", "record 3: pixels is of type str; expected None, an ImageFile with"),
        ("pixels=ImageFile(path=SECRET)", "record 3: pixels is of type ImageFile; expected None"),
    ],
)
def test_the_error_names_number_and_field_of_a_record_that_violates_the_protocol(source, own, change, message):
    recipe = own(f"\nbroken = _changed(3, {change})", "broken")
    with pytest.raises(UserError, match=r"^reader '.*reader\.py:broken': ") as caught:
        read_source(recipe, source)
    assert message in str(caught.value)
    assert "Featherstonehaugh" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1]", "broken' is of type list; expected cxr_dist.shard.record.Source"),
        ("return Source(records=[{}], text_sections=())", "record 1 is of type dict; expected cxr_dist.shard.record.R"),
        ("return Source(records=(), text_sections=())", "records is of type tuple; expected a list of Record"),
        ("return Source(records=[], text_sections=('My Notes',))", "a tuple of names of lower-case letters"),
        ("return Source(records=[], text_sections=(), label_columns=('A', 'B'))", "needs labels.task: multilabel"),
        ("return Source(records=[], text_sections=(), label_columns=('A',))", "expected a tuple of distinct names"),
        ("return Source(records=[], text_sections=(), left_out={'lost': SECRET})", "a dict of counts by reason"),
        ("return Source(records=[], text_sections=(), made_data=None)", "made_data is of type NoneType"),
        ("return Source(records=[], text_sections=(), labels_from=7)", "labels_from is of type int; expected text"),
        ("raise KeyError(SECRET)", "broken' raised KeyError in line 53 of reader.py"),
        ("return Record(source_id=SECRET)", "broken' raised TypeError in line 53 of reader.py"),
        ("raise UserError('no index.csv')", "no index.csv"),
        ("return _changed(1, pixels=Image(open(__file__)))(recipe, folder)", "cannot be sent to another process"),
    ],
)  # fmt: skip
def test_a_source_that_violates_the_protocol_is_refused(source, own, body, message):
    with pytest.raises(UserError) as caught:
        read_source(own(f"\n\ndef broken(recipe, folder):\n    {body}", "broken"), source)
    assert message in str(caught.value)
    assert "Featherstonehaugh" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return np.zeros((20, 20))",
            "read() of an image must return grey pixels, a NumPy array [H, W] of uint8",
        ),
        ("return np.zeros((20, 20, 3), np.uint8)", "read() of an image must return grey pixels"),
        ("return None", "read() of an image must return grey pixels"),
        ("raise KeyError(SECRET)", "raised KeyError in line "),
        ("raise ImageProblem(UNREADABLE_IMAGE)", "at least 48 of 80 images failed (image not readable"),
    ],
)
def test_an_image_that_violates_the_protocol_is_refused(source, own, tmp_path, body, message, workers):
    recipe = own(f"\nImage.read = lambda self, short_side: _read(self)\ndef _read(self):\n    {body}")
    with pytest.raises(UserError) as caught:
        write_shards(recipe, source, tmp_path / "shards", workers=workers, allow_left_out=0.5)
    assert message in str(caught.value)
    assert "Featherstonehaugh" not in str(caught.value)


def test_label_columns_and_official_split_of_the_reader_are_used(source, own, tmp_path):
    text = """
def several(recipe, folder):
    source = read(recipe, folder)
    records = [
        replace(r, values=() if n == 3 else ("01"[n % 2], "10"[n // 2 % 2]), split=("train", "val", "test")[n // 2 % 3])
        for n, r in enumerate(source.records)
    ]
    return replace(source, records=records, label_columns=("Edema", "Mass"))
"""
    split = {"split": table_recipe().split.__class__(official=True)}
    manifest = write_shards(
        own(text, "several", labels=Labels(task="multilabel"), **split),
        source,
        tmp_path / "shards",
        workers=0,
    )
    assert (manifest.classes, manifest.left_out) == (("Edema", "Mass"), {"no label": 1})
    assert sum(split.samples for split in manifest.splits.values()) == 79


def test_the_command_line_reports_an_error_of_the_reader_in_one_line(source, own, tmp_path, cxr_dist):
    own("\ndef fails(recipe, folder):\n    raise KeyError(SECRET)")
    for reader, message in (
        ("reader.py:fails", "raised KeyError in line 52"),
        ("reader.py:reed", "defines no 'reed'"),
    ):
        (tmp_path / "recipe.yaml").write_text(f"reader: {reader}")
        status, _, error = cxr_dist("shard", tmp_path / "recipe.yaml", "--source", source, "--out", tmp_path / "out")
        assert status == 2
        assert message in error.replace("\n", "")
        assert "Traceback" not in error
