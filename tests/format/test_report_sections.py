"""MIMIC-CXR reports are divided as by the published script: headings, misspellings, titles, last paragraphs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.format.report_sections import MIMIC_SECTIONS, cut_sections

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___-year-old with cough.  Evaluate
 for pneumonia.
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  None.
 
 FINDINGS: 
 
 Lungs are clear at 10:30.  Heart: normal.
 
 No effusion.
 
 IMPRESSION: 
 
 No acute process.
"""


def written(report: str) -> dict[str, str]:
    """The sections that are not empty, without the preamble."""
    return {name: text for name, text in cut_sections(report).items() if text and name != "preamble"}


def test_a_report_of_the_usual_form_is_divided_at_its_headings():
    assert cut_sections(REPORT)["preamble"] == "FINAL REPORT"
    assert written(REPORT) == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___-year-old with cough. Evaluate for pneumonia.",
        "technique": "Chest PA and lateral",
        "comparison": "None.",
        "findings": "Lungs are clear at 10:30. Heart: normal. No effusion.",
        "impression": "No acute process.",
    }


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("IMPRESSOIN", "impression"),
        ("MPRESSION", "impression"),
        ("FINIDNGS", "findings"),
        ("COMPARISON FINDINGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST", "findings"),
        ("LATERAL AND FRONTAL VIEWS", "findings"),
        ("REASON FOR EXAM", "indication"),
        ("REASON FOR THE EXAMINATION", "indication"),
        ("CLINICAL INDICATION", "indication"),
        ("IDICATION", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("CLINICAL INFORMATION", "history"),
        ("COMPARISONS", "comparison"),
        ("COMPARRISON", "comparison"),
        ("REFERENCE EXAM", "comparison"),
        ("TYPE OF EXAMINATION", "examination"),
        ("EXAM", "examination"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("NOTIFICATION", "notification"),
        ("ADDENDUM", "addendum"),
        ("WET READ", "wet_read"),
    ],
)
def test_headings_are_recognised_even_if_misspelt(heading, section):
    filler = "IMPRESSION" if section == "findings" else "FINDINGS"
    assert cut_sections(f" {heading}: Some words.\n {filler}: Others.")[section] == "Some words."


def test_text_under_an_unknown_heading_is_kept_with_the_heading():
    assert written(" DOSE: 3 mGy\n FINDINGS: Clear.\n SEEN BY: A. B.") == {
        "other": "DOSE: 3 mGy SEEN BY: A. B.",
        "findings": "Clear.",
    }


def test_the_last_of_several_findings_counts_and_an_empty_one_is_ignored():
    report = " CHEST, PA AND LATERAL: \n \n INDICATION: Cough.\n FINDINGS: First.\n PORTABLE CHEST: Second.\n"
    assert written(report) == {"indication": "Cough.", "findings": "Second."}
    assert written(" IMPRESSION: Clear.\n INDICATION: Cough.\n IMPRESSION: \n") == {
        "impression": "Clear.",
        "indication": "Cough.",
    }


def test_the_line_below_a_heading_without_text_is_text():
    assert written(" FINDINGS:\n AP VIEW: clear.\n IMPRESSION: Normal.") == {
        "findings": "AP VIEW: clear.",
        "impression": "Normal.",
    }


def test_lower_case_digits_and_text_within_a_line_are_not_headings():
    report = " FINDINGS: Clear.\n Heart: normal\n L1: intact\n seen, IMPRESSION: none\n 10:30 AM\n -: x\n"
    assert list(written(report)) == ["findings"]


def test_without_findings_and_impression_the_last_section_is_divided_after_a_paragraph():
    report = " HISTORY: Fall.\n \n Portable film of the chest\n shows no fracture.\n \n No effusion.\n"
    assert written(report) == {
        "history": "Fall.",
        "last_paragraph": "Portable film of the chest shows no fracture. No effusion.",
    }
    assert written(" COMPARISON:\n \n Clear.\n") == {"comparison": "Clear."}
    assert written(" COMPARISON: \n \n Clear.\n") == {"last_paragraph": "Clear."}
    for title in ("FINDINGS", "IMPRESSION"):  # a title without text does not count
        assert written(f" {title}: \n COMPARISON: \n \n Clear.\n") == {"last_paragraph": "Clear."}
    assert written(" FINAL REPORT\n \n Lungs are clear.\n") == {"last_paragraph": "Lungs are clear."}
    assert written(" COMPARISON: None. Lungs are clear.\n") == {"comparison": "None. Lungs are clear."}


@given(st.text(alphabet=st.sampled_from("ab AB:\n(,\r\t"), max_size=60))
def test_any_text_gives_all_sections_and_no_text_is_added(text):
    sections = cut_sections(text)
    assert tuple(sections) == MIMIC_SECTIONS
    assert Counter("".join("".join(sections.values()).split())) <= Counter("".join(text.split()))


@pytest.mark.parametrize("heading", ["FINDINGS", "IMPRESSION"])
def test_a_report_with_findings_or_an_impression_alone_keeps_its_paragraphs_together(heading):
    sections = cut_sections(f"COMPARISON: None.\n\n{heading}: Clear.\n\nNo effusion.\n")
    assert sections[heading.lower()] == "Clear. No effusion."
    assert sections["last_paragraph"] == ""
