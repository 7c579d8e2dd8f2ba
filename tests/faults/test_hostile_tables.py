"""Tables and classes that would mislead are refused in one line, which shows no cell of a table without a header."""

import pytest
from bad_files import SECRET, refusal
from table_source import make_source, table_recipe

from cxr_dist.shard.recipe import Columns, Labels
from cxr_dist.shard.write import write_shards


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


def refused(source, recipe):
    return refusal(write_shards, recipe, source, source.parent / "out", workers=0)


def test_a_table_without_a_header_is_not_quoted(source, tried):
    rows = (source / "films.csv").read_text().splitlines()[1:]
    (source / "films.csv").write_text("\n".join([rows[0].replace("Report", SECRET), *rows[1:]]))
    message = refused(source, table_recipe())
    assert message == (
        "recipe: columns.image names the column 'file'; films.csv has 5 columns and none that the recipe names: "
        "expected the names of the columns in its first line, separated by commas (.csv) or tabs (.tsv)"
    )
    tried("a table without column names", "refused in one line")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_table_with_another_separator_is_refused(source, tried, separator):
    path = source / "films.csv"
    path.write_text(path.read_text().replace(",", separator))
    assert "films.csv has 1 columns and none that the recipe names" in refused(source, table_recipe())
    tried(f"a table separated by {separator!r}", "refused in one line")


def test_a_line_break_in_a_column_name_stays_on_one_line(source, tried):
    path = source / "films.csv"
    path.write_text(path.read_text().replace("file,mrn", '"fi\nle",mrn', 1))
    assert refused(source, table_recipe()).endswith("films.csv has: fi le, mrn, label, view, notes")
    tried("a line break in the name of a column", "refused in one line")


def test_a_column_of_ids_as_labels_is_not_listed(source, tried):
    columns = Columns(image="file", patient="mrn", label="mrn", text={"notes": "notes"})
    message = refused(source, table_recipe(columns=columns))
    assert "which no row has; the label column has 40 different values: is it the right column?" in message
    assert "MRN" not in message
    tried("patient ids as labels", "refused in one line")


ALIKE = {
    "case": ("Sick", "SICK"),
    "a blank at the end": ("Sick", "Sick "),
    "a blank that does not break": ("Sick\u00a0lung", "Sick lung"),
    "a zero-width blank": ("Sick", "Si\u200bck"),
    "the composition of a letter": ("\u00e9panchement", "e\u0301panchement"),
    "full-width letters": ("Sick", "\uff33ick"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_classes_that_look_alike_are_refused(source, tried, kind):
    first, second = ALIKE[kind]
    message = refused(source, table_recipe(labels=Labels(classes={first: ("sick",), second: ("well",)})))
    assert message.startswith(f"the classes {first!r} and {second!r} differ only in case, blanks or characters")
    tried(f"two classes that differ in {kind}", "refused in one line")


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\t"])
def test_a_class_without_a_visible_name_is_refused(source, tried, name):
    message = refused(source, table_recipe(labels=Labels(classes={name: ("sick",), "Well": ("well",)})))
    assert message == f"a class has the name {name!r}, of which nothing can be seen: give it a name"
    tried(f"a class with the name {name!r}", "refused in one line")


def test_values_of_labels_that_look_alike_are_not_two_classes(source, tried):
    path = source / "films.csv"
    path.write_text(path.read_text().replace(",well,", ",Sick,"))
    assert refused(source, table_recipe(labels=Labels())).startswith(
        "the classes 'Sick' and 'sick' differ only in case"
    )
    tried("labels that differ in case", "refused in one line")
