"""A case that a user gives: images, and a report that is cut into the sections that the model reads.

Training shows a section without its heading, and only the sections that the run reads. A report is therefore cut at its
headings by the rules of the reader that made the shards. What is left out is counted, and never quoted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cxr_dist.errors import UserError, require, unknown
from cxr_dist.format.redact import REPLACEMENT, Redaction
from cxr_dist.format.report_sections import MIMIC_SECTIONS, cut_sections, section_of
from cxr_dist.inference.given_image import GivenImage

_MIMIC = "mimic_cxr_jpg"
_SINGLE_SPACED = (_MIMIC, "openi")  # readers that replace all white space in a section by single spaces
_NO_HEADING = ("preamble", "last_paragraph", "other")
_STANDARD = frozenset(MIMIC_SECTIONS) - frozenset(_NO_HEADING)

_NAME = r"[ /(),_-]"
_AT_LINE_START = re.compile(rf"^\s*([A-Za-z](?:[A-Za-z]|{_NAME}){{0,60}}?)\s*:", re.MULTILINE)
_IN_CAPITALS = re.compile(rf"(?<!\S)([A-Z](?:[A-Z]|{_NAME}){{0,60}}?)\s*:")
_WORD = re.compile(r"\S+")
_AFTER_SENTENCE = re.compile(r"(?<=[.;!?])\s+([A-Z][a-z]+(?: [a-z]+){0,2}):")

_MOSTLY = 0.5  # share of unknown tokens above which a report is said to be unreadable

Report = str | Mapping[str, str]
"""The text of a report, or section -> text."""


class NoReport(UserError):
    """A model that reads reports was given none."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the user says about a report besides its text."""

    section: str | None = None
    """The section that a text without headings is; None if the user did not say."""
    no_report: bool = False
    """Whether to predict from the image alone if there is no report."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The images and the report of one case from outside the shards."""

    image: GivenImage | None = None
    """A PNG, JPEG or DICOM file, or pixels; None for a model that reads no image."""
    more_images: tuple[GivenImage, ...] = ()
    """The study's other images, for a model that was trained on studies. Their order does not matter."""
    report: Report = ""
    """The text, which is cut into sections at its headings, or section -> text; may be empty."""
    options: ReportOptions = ReportOptions()

    @classmethod
    def of(cls, images: Sequence[GivenImage], report: Report, options: ReportOptions = ReportOptions()) -> "Case":
        """The case of a study's images, in any order, and its report; raises UserError for a report and `no_report`."""
        if report and options.no_report:
            raise UserError(
                "a report was given together with --no-report (in Python no_report=True): leave one of them out"
            )
        image, more = images[0] if images else None, tuple(images[1:])
        return cls(image=image, more_images=more, report=report, options=options)


@dataclass(frozen=True, kw_only=True)
class GivenReport:
    """What the model reads of a report, and what was left out of it."""

    sections: Mapping[str, str] = field(default_factory=dict)
    """The sections that are read, without empty ones; empty if there is no report."""
    left_out: tuple[str, ...] = ()
    """Names of the sections whose text was left out, at least in part."""
    words_left_out: int = 0
    taken_whole: bool = False
    """Whether the user named the section of a text that has headings, which the model therefore reads as well."""

    def facts(self, unknown_share: float) -> dict[str, Any]:
        """What was read and left out, for JSON; names of sections and numbers, and no text."""
        return {
            "sections_read": list(self.sections),
            "sections_left_out": list(self.left_out),
            "words_left_out": self.words_left_out,
            "terms_masked": sum(text.count(REPLACEMENT) for text in self.sections.values()),
            "unknown_token_share": round(unknown_share, 4) if self.sections else None,
        }

    def warnings(self, unknown_share: float) -> list[str]:
        """Why the prediction may not be what the user expects, one sentence each."""
        found = []
        if not self.sections:
            found.append("no report was given to a model that reads one: this prediction is from the image alone")
        if unknown_share > _MOSTLY:
            found.append(
                f"{unknown_share:.0%} of the report's tokens are unknown to this model: it can hardly read this text"
            )
        if self.taken_whole:
            found.append(
                "the report has headings but was read as one section, as requested, headings included: training shows "
                "no headings"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class SectionRules:
    """Which sections a model reads, and how the reports of its shards were cut into sections."""

    read: tuple[str, ...]
    """The sections that the model reads, in its order."""
    stored: tuple[str, ...]
    """All sections of the shards that it was trained on; empty if that is not known."""
    reader: str
    """The reader of these shards; empty if that is not known."""
    redact: tuple[str, ...] = ()
    """The terms that were replaced in these shards, and are replaced in a report before it is read."""

    def of(self, report: Report, section: str | None = None) -> GivenReport:
        """The sections of a report; `section` is the one that a text without headings is.

        Raises UserError if the text has no headings and may be one of several sections, for an unknown section, and for
        a report without any section that the model reads or that is not text.
        """
        for text in [report] if isinstance(report, str) else report.values():
            # The shell's bytes that are no text arrive as surrogates, which no tokenizer takes.
            require(
                not any("\ud800" <= c <= "\udfff" for c in text),
                "the report is not UTF-8 text: convert it, for example with iconv",
            )
        if section is not None:
            self.check(section)
        if not isinstance(report, str):
            return self._chosen(self._checked(report).items())
        if not report.strip():
            return GivenReport()
        parts = self._parts(report)
        if section is not None:
            return GivenReport(sections={section: self._clean(report)}, taken_whole=parts is not None)
        if parts is not None:
            return self._chosen(parts)
        if len(self.read) == 1:
            return GivenReport(sections={self.read[0]: self._clean(report)})
        raise UserError(
            f"the report has no headings, and this run's model reads several sections ({', '.join(self.read)}): say "
            f"which one the text is, e.g. --section {self.read[-1]} (in Python section={self.read[-1]!r}), or give the "
            "report with its headings"
        )

    def check(self, section: str) -> None:
        """Raise UserError for a section that the model does not read."""
        if section not in self.read:
            raise unknown("section", section, self.read)

    def _checked(self, report: Mapping[str, str]) -> Mapping[str, str]:
        known = [*self.read, *self.stored, *MIMIC_SECTIONS]
        for name in report:
            if name not in known:
                raise unknown("section", name, dict.fromkeys([*self.read, *self.stored]))
        return report

    def _chosen(self, parts: Iterable[tuple[str, str]]) -> GivenReport:
        """The parts that are read; of several with the same name the last one, as readers do."""
        filled = [(name, text) for name, text in parts if text.strip()]
        last = {name: place for place, (name, _) in enumerate(filled)}
        sections = {name: self._clean(filled[last[name]][1]) for name in self.read if name in last}
        rest = [part for place, part in enumerate(filled) if part[0] not in sections or last[part[0]] != place]
        if filled and not sections:
            raise UserError(
                f"the report has none of the sections that this run's model reads ({', '.join(self.read)}); it has "
                f"{', '.join(dict.fromkeys(name for name, _ in filled))}: give one of them"
            )
        return GivenReport(
            sections=sections,
            left_out=tuple(dict.fromkeys(name for name, _ in rest)),
            words_left_out=sum(len(text.split()) for _, text in rest),
        )

    def _clean(self, text: str) -> str:
        """The text as sharding would have stored it."""
        text = " ".join(text.split()) if self.reader in _SINGLE_SPACED else text.strip()
        return Redaction(terms=self.redact).apply({"": text})[0][""]

    def _parts(self, report: str) -> list[tuple[str, str]] | None:
        """(section, text) in the report's order; None if the report has no heading."""
        headings = list(self._headings(report))
        if not headings:
            return None
        if self.reader == _MIMIC:
            if len(report.splitlines()) == 1:  # its line breaks were lost
                report = "\n".join(_lines(report, headings))
            cut = cut_sections(report)
            if any(cut[name] for name in _STANDARD):
                return list(cut.items())
        starts = [0, *(end for _, _, end in headings)]
        ends = [*(start for start, _, _ in headings), len(report)]
        names = ["preamble", *(name for _, name, _ in headings)]
        return [(name, report[start:end]) for name, start, end in zip(names, starts, ends, strict=True)]

    def _headings(self, report: str) -> Iterator[tuple[int, str, int]]:
        """(start, section, end) of each heading in order: at the start of a line, or in capitals elsewhere."""
        found = []
        for match in _IN_CAPITALS.finditer(report):
            # Other capitals can stand before a heading, as in FINAL REPORT INDICATION: the longest heading counts.
            for word in _WORD.finditer(report, *match.span(1)):
                found.append((word.start(), match.end(), self._section(report[word.start() : match.end(1)], True)))
        for kind in (_AT_LINE_START, _AFTER_SENTENCE):
            found += [(m.start(1), m.end(), self._section(m[1], False)) for m in kind.finditer(report)]
        last = 0
        for start, end, name in sorted(found, key=lambda entry: (entry[0], -entry[1])):
            if name is not None and start >= last:
                yield start, name, end
                last = end

    def _section(self, heading: str, capitals: bool) -> str | None:
        """The section under a heading; None if it is not known to be a heading."""
        plain = re.sub(r"[\s_]+", " ", heading.strip().lower())
        stored = {name.lower().replace("_", " "): name for name in (*self.stored, *self.read)}
        if plain in stored:
            return stored[plain] if self._has_headings else None
        if not self._standard:
            return None
        # Words in lower case are a heading only if they are exactly a section's name: a sentence can hold them too.
        by_rule = section_of(plain) if capitals or plain.replace(" ", "_") in _STANDARD else "other"
        return None if by_rule == "other" else by_rule

    @property
    def _standard(self) -> bool:
        """Whether the shards have sections of radiology reports, and not only a table's own columns."""
        return bool(_STANDARD & {*self.read, *self.stored})

    @property
    def _has_headings(self) -> bool:
        """False if all text of the shards is one section such as `notes`: training shows it with any heading in it."""
        return self._standard or len({*self.read, *self.stored}) > 1


def _lines(report: str, headings: list[tuple[int, str, int]]) -> Iterator[str]:
    """The report with a line break before each heading."""
    starts = [0, *(start for start, _, _ in headings), len(report)]
    return (report[start:end] for start, end in pairwise(starts))
