"""Divide a MIMIC-CXR report into sections, by the rules of txt/section_parser.py of github.com/MIT-LCP/mimic-cxr.

A heading is in capitals at the start of a line. Of several findings or impressions the last one counts. If a report has
neither, its last section is divided after the first paragraph. The published script lists 54 reports as exceptions for
its labeller; they are divided by the rules here.
"""

import re
from difflib import get_close_matches
from functools import lru_cache

MIMIC_SECTIONS = (
    "preamble", "examination", "indication", "history", "technique", "comparison", "findings", "impression",
    "recommendations", "notification", "addendum", "wet_read", "last_paragraph", "other",
)  # fmt: skip
"""`preamble` is the text before the first heading, `other` the text under unknown headings, headings included."""

_HEADING = re.compile(r"(?=[^:]*[A-Z])([A-Z ()/,-]+):(?:\s|$)")
_VIEW = (
    r"chest|portable|(one|two) views?|\b(pa|ap|frontal|lateral) (view|and|upright)|frontal semi-upright|\bribs\b|"
    r"bone window"
)
# The first match counts: FINDINGS AND IMPRESSION is an impression, COMPARISON FINDINGS are findings.
_SECTION_OF = (
    (re.compile(r"(reason for (the )?)exam(ination)?|(clinical )?indications?"), "indication"),
    (re.compile(r"(type of )?exam(ination)?s?"), "examination"),
    (re.compile(r"reference exams?"), "comparison"),
    (re.compile(r"clinical information|pfi"), "history"),
    (re.compile(r".*impression.*|conclusions?"), "impression"),
    (re.compile(r".*findings?.*"), "findings"),
    (re.compile(r".*history.*"), "history"),
    (re.compile(r".*comparison.*"), "comparison"),
    (re.compile(r".*addendum.*"), "addendum"),
    (re.compile(r"techniques?"), "technique"),
    (re.compile(r"recommendations?(\(s\))?"), "recommendations"),
    (re.compile(r"notifications?"), "notification"),
    (re.compile(r"wet ?read"), "wet_read"),
    (re.compile(rf".*({_VIEW}).*"), "findings"),  # CHEST, TWO VIEWS: often heads the findings
)
_OFTEN_MISSPELT = (
    "impression",
    "findings",
    "indication",
    "comparison",
    "technique",
    "examination",
    "history",
)


def cut_sections(report: str) -> dict[str, str]:
    """Section -> text with single spaces, for all of MIMIC_SECTIONS; empty if the report has no such section."""
    parts = _parts(report)
    if not any(section in ("findings", "impression") for section, _ in parts):
        section, lines = parts.pop()
        first, rest = _first_paragraph(lines)
        parts += [(section, first), ("last_paragraph", rest)]
    sections = dict.fromkeys(MIMIC_SECTIONS, "")
    for section, lines in parts:
        text = " ".join(" ".join(lines).split())
        if section == "other":
            text = f"{sections['other']} {text}".strip()
        sections[section] = text or sections[section]
    return sections


def _parts(report: str) -> list[tuple[str, list[str]]]:
    """(section, lines) in order, without empty findings and impressions, whose headings are only titles."""
    parts: list[tuple[str, list[str]]] = [("preamble", [])]
    alone = False
    for line in map(str.lstrip, report.splitlines()):
        # The line below a heading that ends with its colon is text, even if it looks like a heading.
        heading = None if alone or ":" not in line else _HEADING.match(line)
        alone = heading is not None and heading[0].endswith(":")
        if heading is None:
            parts[-1][1].append(line)
            continue
        section = section_of(heading[1].strip().lower())
        if section == "other":
            parts.append((section, [line]))
        else:
            parts.append((section, [] if alone else [line[heading.end() :]]))
    return [
        (section, lines)
        for section, lines in parts
        if section not in ("findings", "impression") or "".join(lines).strip()
    ]


@lru_cache(maxsize=4096)
def section_of(heading: str) -> str:
    """The section of a lower-case heading; a misspelt one such as IMPRESSOIN is read as the closest known heading."""
    closest = get_close_matches(heading, _OFTEN_MISSPELT, n=1, cutoff=0.85)
    for name in (heading, *closest):
        for pattern, section in _SECTION_OF:
            if pattern.fullmatch(name):
                return section
    return "other"


def _first_paragraph(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines before the first empty line, a leading empty line excepted, and the lines from there on."""
    end = next((i for i, line in enumerate(lines) if i and not line.strip()), len(lines))
    return lines[:end], lines[end:]
