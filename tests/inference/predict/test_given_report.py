"""A report is cut into the sections that training shows: at its headings, by name, or as the section the user names."""

import csv
import dataclasses
import json
import tarfile

import numpy as np
import pytest
import torch

import cxr_dist
from cxr_dist.data.text import report_text
from cxr_dist.errors import UserError
from cxr_dist.format.report_sections import MIMIC_SECTIONS, cut_sections
from cxr_dist.inference.given_case import Case, GivenReport, SectionRules

OPENI = ("indication", "comparison", "findings", "impression")
RULES = SectionRules(read=("indication", "findings"), stored=OPENI, reader="openi")
SECRET = "Featherstonehaugh"


@pytest.mark.parametrize(
    ("report", "read", "left_out", "words"),
    [
        ("INDICATION: Cough. FINDINGS: Clear lungs.", ("Cough.", "Clear lungs."), (), 0),
        ("Indication: Cough.\n\nFindings:\nClear\n lungs.\n", ("Cough.", "Clear lungs."), (), 0),
        ("Indication: Cough. Findings: Clear. Impression: All normal.", ("Cough.", "Clear."), ("impression",), 2),
        ("FINDINGS: Clear.\nCLINICAL INDICATION: Cough.", ("Cough.", "Clear."), (), 0),
        ("CHEST X-RAY\nTECHNIQUE: PA view.\nFINDINGS: Clear.", ("", "Clear."), ("preamble", "technique"), 4),
        ("FINDINGS: Old. ADDENDUM: See below. FINDINGS: New one.", ("", "New one."), ("findings", "addendum"), 3),
        ("FINDINGS: Seen at 10:30. The heart: normal.", ("", "Seen at 10:30. The heart: normal."), (), 0),
        ("FINDINGS: No change. The findings: stable.", ("", "No change. The findings: stable."), (), 0),
    ],
)
def test_a_report_is_cut_at_its_headings(report, read, left_out, words):
    given = RULES.of(report)
    assert tuple(given.sections.get(name, "") for name in RULES.read) == read
    assert (given.left_out, given.words_left_out) == (left_out, words)


@pytest.mark.parametrize("lost", [False, True], ids=["lines", "one line"])
def test_a_mimic_report_is_cut_by_the_published_rules(lost):
    report = "FINAL REPORT\n INDICATION:  Cough.\n\n FINDINGS: \n\n Clear.\n Heart:\n normal.\n\n IMPRESSION: \n Well."
    rules = SectionRules(read=("impression", "findings"), stored=MIMIC_SECTIONS, reader="mimic_cxr_jpg")
    given = rules.of(" ".join(report.split()) if lost else report)
    stored = cut_sections(report)
    assert dict(given.sections) == {name: stored[name] for name in rules.read}
    assert list(given.sections) == ["impression", "findings"]
    assert given.left_out == ("preamble", "indication")


def test_a_table_of_whole_reports_is_shown_as_in_training_with_its_headings():
    rules = SectionRules(read=("notes",), stored=("notes",), reader="table")
    report = "NOTES: seen.\nFINDINGS: clear."
    assert rules.of(report) == GivenReport(sections={"notes": report})


def test_a_text_without_headings_needs_the_name_of_its_section_or_a_model_that_reads_only_one():
    with pytest.raises(UserError, match=r"several sections \(indication, findings\): say which .*--section findings"):
        RULES.of(SECRET)
    assert RULES.of("Clear.", "findings").sections == {"findings": "Clear."}
    one = dataclasses.replace(RULES, read=("findings",))
    assert one.of("Clear.") == one.of("FINDINGS: Clear.") == one.of({"findings": "Clear."})


def test_a_named_section_with_headings_is_taken_whole_with_a_warning():
    given = RULES.of("FINDINGS: Clear.", "findings")
    assert given.sections == {"findings": "FINDINGS: Clear."}
    assert ["headings included" in warning for warning in given.warnings(0.0)] == [True]


def test_sections_are_given_by_name_in_any_order():
    given = RULES.of({"impression": "All is well.", "findings": "Clear.", "indication": "Cough.", "technique": ""})
    assert list(given.sections.items()) == [("indication", "Cough."), ("findings", "Clear.")]
    assert (given.left_out, given.words_left_out) == (("impression",), 3)


@pytest.mark.parametrize(
    ("report", "section", "message"),
    [
        ({"finding": SECRET}, None, r"unknown section 'finding' \(did you mean 'findings'\?\); expected one of: indic"),
        (SECRET, "impression", r"unknown section 'impression'; expected one of: indication, findings"),
        (f"TECHNIQUE: {SECRET}", None, r"none of the sections .* \(indication, findings\); it has technique"),
    ],
)
def test_other_sections_are_refused_without_quoting_the_report(report, section, message):
    with pytest.raises(UserError, match=message) as error:
        RULES.of(report, section)
    assert SECRET not in str(error.value)


def test_terms_that_sharding_replaced_are_replaced_in_a_report(run_of):
    rules = dataclasses.replace(RULES, redact=("pleural effusion", "edema"))
    given = rules.of({"findings": "Pleural\n effusion, no Edema.", "impression": "Edema."})
    assert given.sections == {"findings": "[MASK], no [MASK]."}
    assert given.facts(0.0)["terms_masked"] == 2
    model = dataclasses.replace(cxr_dist.load(run_of("text")), redact=("enlarged",))
    answer = model.predict(report={"findings": "The heart is Enlarged."})
    assert answer == model.predict(report={"findings": "The heart is [MASK]."})
    assert answer["report"]["terms_masked"] == 1


@pytest.mark.parametrize("mode", ["text", "fused"])
def test_a_report_gives_the_same_answer_with_headings_and_by_section(run_of, images, mode):
    model = cxr_dist.load(run_of(mode))
    image = {"image": images / "smith-0.jpg"} if mode == "fused" else {}
    parts = {"indication": "Cough for 3 weeks.", "findings": "The heart is enlarged.", "impression": "Cardiomegaly."}
    expected = model.predict(**image, report=parts)
    for report in (
        "INDICATION: Cough for 3 weeks. FINDINGS: The heart is enlarged. IMPRESSION: Cardiomegaly.",
        "Impression:\nCardiomegaly.\n\nFindings:\nThe heart is\nenlarged.\n\nIndication: Cough for 3 weeks.\n",
    ):
        assert model.predict(**image, report=report) == expected
    assert expected["report"] == {
        "sections_read": ["indication", "findings"],
        "sections_left_out": ["impression"],
        "words_left_out": 1,
        "terms_masked": 0,
        "unknown_token_share": 0.0,
    }
    assert expected["warnings"] == []
    other = model.predict(**image, report=parts | {"findings": "Lungs are clear."})
    assert other["probability"] != expected["probability"]


def test_predict_shows_the_model_what_training_shows_for_a_stored_sample(run_of, tiny_shards):
    model = cxr_dist.load(run_of("text"))
    with tarfile.open(tiny_shards / "test-00000.tar") as tar:
        samples = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    assert len(samples) > 5
    for sample in samples:
        whole = "\n".join(f"{name.upper()}: {text}" for name, text in sample["text"].items())
        batch = model.batch([Case(report=whole), Case(report=sample["text"])])
        stored, mask = model.tokenizer([report_text(sample, model.config.data.text_sections)] * 2)
        assert torch.equal(batch.tokens, stored)
        assert torch.equal(batch.attention_mask, mask)


def test_a_model_that_reads_reports_says_that_it_was_given_none(cxr_dist, run_of, images, tmp_path):
    image, out = ("--image", images / "smith-0.jpg", "--mc-samples", "0"), tmp_path / "look.png"
    status, _, err = cxr_dist("predict", run_of("fused"), *image, "--out", out)
    assert status == 2
    assert "reads a report (indication, findings), but the case has none: give one, or --no-report" in err
    status, printed, _ = cxr_dist("predict", run_of("fused"), *image, "--no-report", "--out", out)
    assert status == 0
    answer = json.loads(printed)
    assert answer["report"]["sections_read"] == []
    assert answer["warnings"] == [
        "no report was given to a model that reads one: this prediction is from the image alone"
    ]
    assert json.loads(out.with_suffix(".json").read_text())["warnings"] == answer["warnings"]


def test_a_report_and_no_report_contradict_each_other(cxr_dist, run_of, images, tmp_path):
    given = ("--image", images / "smith-0.jpg", "--report", "FINDINGS: x", "--no-report", "--out", tmp_path / "a.png")
    status, _, err = cxr_dist("predict", run_of("fused"), *given)
    assert status == 2
    assert "a report was given together with --no-report (in Python no_report=True): leave one of them out" in err


def test_a_text_only_model_always_needs_a_report(run_of, images):
    model = cxr_dist.load(run_of("text"))
    with pytest.raises(UserError, match=r"reads a report \(indication, findings\), but the case has none: give one$"):
        model.predict()
    with pytest.raises(UserError, match="reads nothing but the report: no prediction is possible without one"):
        model.predict(no_report=True)
    with pytest.raises(UserError, match="reads no report: leave the section out"):
        cxr_dist.load(run_of("image")).predict(images / "smith-0.jpg", section="findings")


def test_a_report_of_unknown_tokens_gets_a_warning(run_of, images):
    model = cxr_dist.load(run_of("fused"))
    readable, foreign = "Heart size is within expected limits.", "心脏大小 在 正常 范围 之内"
    for report, share, count in ((readable, 0.0, 0), (foreign, 1.0, 1), (f"Heart {foreign}", 0.8, 1)):
        answer = model.predict(images / "smith-0.jpg", {"findings": report})
        assert answer["report"]["unknown_token_share"] == pytest.approx(share, abs=0.15)
        assert len(answer["warnings"]) == count
        assert all("of the report's tokens are unknown to this model" in text for text in answer["warnings"])


def test_rows_without_a_report_fail_and_are_named(cxr_dist, run_of, images, tmp_path):
    out = tmp_path / "out"
    given = ("--section", "findings", "--mc-samples", "0", "--batch", "2", "--input", images, "--out", out)
    status, printed, _ = cxr_dist("predict", run_of("fused"), *given)
    assert status == 1
    assert "4 of 5 cases predicted" in printed
    assert "1 without a report were not predicted (row 5)" in printed
    with (out / "predictions.csv").open(newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert errors[:4] == [""] * 4
    assert "but the case has none: give one, or --no-report" in errors[4]


def test_a_table_may_have_a_column_for_each_section(cxr_dist, run_of, images, tmp_path):
    with (images / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "impression", "findings", "indication", "report"])
        rows.writerow(["smith-0.jpg", "Well.", "Lungs are clear.", "Cough.", ""])
        rows.writerow(["smith-0.jpg", "", "", "", "INDICATION: Cough. FINDINGS: Lungs are clear."])
        rows.writerow(["smith-0.jpg", "", "", "", SECRET])
    out = tmp_path / "out"
    given = ("--mc-samples", "0", "--batch", "2", "--input", images / "cases.csv", "--out", out)
    status, printed, _ = cxr_dist("predict", run_of("fused"), *given)
    assert status == 1
    assert SECRET not in printed
    with (out / "predictions.csv").open(newline="") as file:
        by_section, by_heading, without = csv.DictReader(file)
    numbers = [name for name in by_section if name.startswith("probability:")]
    np.testing.assert_allclose(
        [float(by_section[name]) for name in numbers], [float(by_heading[name]) for name in numbers], atol=2e-6
    )
    assert "say which one the text is, e.g. --section findings" in without["error"]


@pytest.mark.parametrize("report", ["FINDINGS: Clear\udcff lungs.", {"findings": "Clear\udcff lungs."}])
def test_bytes_that_are_no_text_are_refused(report):
    with pytest.raises(UserError, match=r"^the report is not UTF-8 text"):
        RULES.of(report)
