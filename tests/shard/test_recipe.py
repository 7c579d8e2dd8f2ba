"""A recipe is checked when it is read; an error names the field, its value and the valid values."""

from pathlib import Path

import pytest

from cxr_dist.errors import UserError
from cxr_dist.shard.readers import check_recipe
from cxr_dist.shard.recipe import InvertedRows, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "shards").glob("*.yaml"))

TABLE = """
reader: table
table: films.csv
columns: {image: file, patient: mrn, label: label, text: {notes: notes}}
labels: {classes: {Sick: sick, Well: "*"}}
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    check_recipe(recipe)
    return recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_of_the_package_are_valid(path):
    recipe = load_recipe(path)
    check_recipe(recipe)
    assert recipe.labels.classes or recipe.columns.labels


def test_a_single_value_is_read_as_a_list_and_a_number_as_text(tmp_path):
    text = TABLE.replace('{Sick: sick, Well: "*"}', '{Sick: 1, Well: [0, "*"]}')
    recipe = load(tmp_path, text + "image: {monochrome1: {column: photometric, value: MONOCHROME1}}\n")
    assert recipe.labels.classes == {"Sick": ("1",), "Well": ("0", "*")}
    assert recipe.image.monochrome1 == InvertedRows(column="photometric", value="MONOCHROME1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader: [", r"recipe\.yaml is not YAML \(line \d+: .*\)"),
        ("just words", r"recipe\.yaml is 'just words'; expected the fields reader, table"),
        ("table: a.csv", r"recipe\.yaml: reader is missing"),
        ("reader: nifti", "unknown reader 'nifti'; expected one of: demo, dicom, mimic_cxr_jpg, openi, table, MODULE"),
        ("reader: opn", r"unknown reader 'opn' \(did you mean 'openi'\?\)"),
        (TABLE + "colour: grey", r"unknown field colour \(did you mean 'columns'\?\); expected one of: reader, table"),
        (TABLE + "split: {per: patient}", "unknown field split.per; expected one of: by, train"),
        (TABLE + "split: {seed: many}", "split.seed is 'many'; expected a whole number"),
        (TABLE + "split: {train: 0.9}", "three positive shares that add up to 1"),
        (TABLE + "image: {quality: 0}", "image.quality is 0; expected 1 to 100"),
        (TABLE + "split: {by: study}", "split by study needs columns.study"),
        (TABLE + "where: [PA]", "where is a list; expected NAME: VALUE pairs"),
        (TABLE.replace("Sick: sick", "Sick: yes"), "labels.classes.Sick is True; expected text"),
        (TABLE.replace("Sick: sick", "1: sick, '1': ill"), "labels.classes has a name twice, once as a number"),
        (TABLE.replace('"*"', "sick"), "names the value \\['sick'\\] twice"),
        (TABLE.replace(', Well: "*"', ""), "labels.classes has one class; at least two"),
        (TABLE.replace("label: label, ", ""), "columns needs either label .* or labels"),
        (TABLE.replace("notes: notes", "My Notes: notes"), "use lower-case letters"),
        (TABLE.replace("table: films.csv", ""), "reader table needs `table`"),
        (TABLE.replace("{classes", "{task: multilabel, classes"), "needs labels.separator"),
        ("reader: openi\ncolumns: {image: a, label: b}", "reader openi has no columns"),
        ("reader: openi\nreports: null", "reader openi needs `reports`, a folder"),
        ("reader: openi\nsplit: {official: true}", "reader openi has no official split; only reader mimic"),
        ("reader: demo\nimage: {monochrome1: {column: a, value: b}}", "reader demo takes image.monochrome1 true"),
    ],
)  # fmt: skip
def test_the_error_names_the_field_and_what_is_valid(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no recipe .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
