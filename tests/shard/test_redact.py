"""Listed terms are replaced in reports, all other text is unchanged, and the manifest counts the replacements."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from table_source import make_source, source_names, table_recipe, write_rows

from cxr_dist.data.text import ReportTokenizer, prepare_text_folder
from cxr_dist.errors import UserError
from cxr_dist.evaluate.leakage import label_terms_redacted
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.format.redact import REPLACEMENT, Redaction
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.summary import print_summary
from cxr_dist.shard.write import write_shards

REDACTED = Path(__file__).resolve().parents[2] / "shards" / "covid_cxr_redacted.yaml"

words = st.text("aAbB19-", min_size=1, max_size=6)
terms = st.lists(
    st.text("ab1- ", min_size=1, max_size=5).filter(re.compile(r"\w(.*\w)?").fullmatch),
    min_size=1,
    max_size=5,
    unique_by=lambda term: " ".join(term.split()),
)
texts = st.lists(words | st.sampled_from([" ", "  ", "\n", ", ", ".", "-", "a b", "B1"]), max_size=20).map("".join)


def occurrences(term: str, text: str) -> int:
    """Count the whole-word occurrences without a regular expression, by comparing at every position."""
    wanted, count = term.split(), 0
    for start in range(len(text)):
        rest, position = text[start:].lower(), 0
        for number, part in enumerate(wanted):
            gap = len(rest[position:]) - len(rest[position:].lstrip())
            if number and not gap:
                break
            position += gap if number else 0
            if not rest.startswith(part.lower(), position):
                break
            position += len(part)
        else:
            before, after = text[start - 1 : start], rest[position : position + 1]
            count += not (before.isalnum() or before == "_" or after.isalnum() or after == "_")
    return count


@given(terms, texts)
def test_no_term_remains_and_all_other_text_is_unchanged(listed, text):
    redacted, counts = Redaction(terms=tuple(listed)).apply({"notes": text})
    assert all(occurrences(term, redacted["notes"]) == 0 for term in listed)
    assert sum(counts.values()) == redacted["notes"].count(REPLACEMENT)
    # The parts between the replacements occur in the original text in the same order.
    kept = [re.escape(part) for part in redacted["notes"].split(REPLACEMENT)]
    gaps = re.fullmatch("(.*?)".join(kept), text, re.DOTALL)
    assert gaps is not None
    if not any(occurrences(term, text) for term in listed):
        assert (redacted["notes"], counts) == (text, {})


@given(terms, st.lists(st.integers(0, 4), max_size=6))
def test_each_replacement_is_counted_under_its_term(listed, chosen):
    picked = [listed[number % len(listed)] for number in chosen]
    text = " / ".join(term.upper() for term in picked)
    redacted, counts = Redaction(terms=tuple(listed)).apply({"a": text, "b": "ZZ"})
    assert redacted == {"a": " / ".join([REPLACEMENT] * len(picked)), "b": "ZZ"}
    assert counts == {term: picked.count(term) for term in picked}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COVID-19 pneumonia.", "[MASK] pneumonia."),
        ("covid-19-related, not COVID19", "[MASK]-related, not COVID19"),
        ("Covid and covidien, precovid", "[MASK] and covidien, precovid"),
        ("Pleural\n effusion; pleural effusions", "[MASK]; pleural effusions"),
        ("No effusion (effusion?)", "No [MASK] ([MASK]?)"),
        ("", ""),
    ],
)
def test_the_longest_whole_word_term_is_replaced_regardless_of_case(text, expected):
    listed = ("covid", "COVID-19", "effusion", "pleural effusion")
    assert Redaction(terms=listed).apply({"notes": text})[0] == {"notes": expected}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (("",), "redact has the term '': expected words that begin and end with a letter or digit"),
        (("-19",), "redact has the term '-19': expected"),
        (("a [b] c",), r"redact has the term 'a \[b\] c': expected"),
        (("Mask",), "redact has the term 'Mask', which is the replacement itself"),
        (("Edema", "edema"), r"redact has the term 'edema' twice \(case"),
    ],
)
def test_an_invalid_term_is_refused(tmp_path, listed, message):
    with pytest.raises(UserError, match=message):
        table_recipe(redact=listed)
    (tmp_path / "recipe.yaml").write_text("reader: demo\nredact: " + json.dumps(listed))
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_terms_of_any_letters_are_accepted():
    redacted, counts = Redaction(terms=("X-ray", "xx", "unmasked")).apply({"notes": "Chest x-ray: XX, unmasked."})
    assert redacted == {"notes": "Chest [MASK]: [MASK], [MASK]."}
    assert counts == {"X-ray": 1, "xx": 1, "unmasked": 1}


def test_shards_contain_no_term_and_the_manifest_counts_them(tmp_path):
    source = make_source(tmp_path / "source")
    header, *rows = list(csv.reader((source / "films.csv").open(encoding="utf-8")))
    rows = [[*row[:-1], f"Sick, {row[2].upper()} and sickly {i}."] for i, row in enumerate(rows)]
    write_rows(source / "films.csv", header, rows)
    manifest = write_shards(table_recipe(redact=("sick", "well", "ill")), source, tmp_path / "s", workers=0)
    assert load_manifest(tmp_path / "s").redacted == {"sick": 120, "well": 40, "ill": 0}
    assert label_terms_redacted(load_manifest(tmp_path / "s"))
    assert "sickly" not in manifest.to_json()
    names, notes = source_names(tmp_path / "s"), {row[0]: row[-1] for row in rows}
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        tar = (tmp_path / "s" / shard.file).read_bytes()
        for record in open_index(tmp_path / "s", shard, 1):
            content = json.loads(tar[record["json_offset"] :][: record["json_size"]])
            number = notes[names[record["key"].decode()]].split()[-1]
            assert content["text"]["notes"] == f"[MASK], [MASK] and sickly {number}"
    console = Console(file=io.StringIO(), width=120)
    print_summary(manifest, console)
    assert "Redacted: 160 label terms in the reports; 1 of 3 listed terms were never found." in (
        console.file.getvalue()
    )


def test_reports_are_unchanged_without_redact(tmp_path):
    manifest = write_shards(table_recipe(), make_source(tmp_path / "source"), tmp_path / "s", workers=0)
    assert manifest.redacted == {}
    assert not label_terms_redacted(manifest)
    with pytest.raises(UserError, match=r"another recipe \(it differs in: redact\)"):
        write_shards(table_recipe(redact=("sick",)), tmp_path / "source", tmp_path / "s", workers=0)


def test_the_replacement_is_one_token_of_a_bert_tokenizer(tmp_path):
    prepare_text_folder(tmp_path / "text", None, iter(["no mask or effusion is seen"] * 30))
    tokenizer = ReportTokenizer(tmp_path / "text", 32)
    lone, _ = tokenizer([REPLACEMENT])
    other, mask = tokenizer(["no [MASK] is seen"])
    assert int(mask.sum()) == 6  # [CLS] no [MASK] is seen [SEP]
    assert int(other[0, 2]) == int(lone[0, 1]) != int(tokenizer(["mask"])[0][0, 1])


@pytest.mark.shared
def test_the_redacted_recipe_removes_diagnoses_from_real_notes(real_data, tmp_path):
    recipe = load_recipe(REDACTED)
    recipe = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, short_side=16))
    manifest = write_shards(recipe, real_data / "covid-cxr", tmp_path / "s", workers=0)
    assert manifest.redacted["COVID-19"] == 91
    assert sum(manifest.redacted.values()) == 274
    tars = b"".join(path.read_bytes().lower() for path in (tmp_path / "s").glob("*.tar"))
    assert b"[mask]" in tars
    assert b"covid" not in tars
    assert b"coronavirus" not in tars
    assert b"legionella" not in tars
