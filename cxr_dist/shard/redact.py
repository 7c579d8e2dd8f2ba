"""Label terms out of reports: sections in, the same sections with [MASK] in place of each listed term, and counts.

[MASK] is one token for every BERT-like encoder and was trained to mean "some word stood here"; "[REDACTED]" would
be five pieces, and an ordinary word could not be told from the report's own. That a term stood there is still to be
seen: list the terms of all classes, not of one.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cxr_dist.errors import UserError

REPLACEMENT = "[MASK]"


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """Words or phrases to be replaced wherever they stand as whole words, in upper or lower case."""

    terms: tuple[str, ...]
    """Plurals and spellings are terms of their own; a space stands for any white space."""

    def __post_init__(self) -> None:
        for term in self.terms:
            if not re.fullmatch(r"\w(.*\w)?", term) or set("[]") & set(term):
                raise UserError(
                    f"redact has the term {term!r}: expected words that begin and end with a letter or digit"
                )
            if _same(term) == "mask":
                raise UserError(f"redact has the term {term!r}, which is what terms are replaced by")
        twice = [term for term, count in Counter(map(_same, self.terms)).items() if count > 1]
        if twice:
            raise UserError(f"redact has the term {twice[0]!r} twice (upper and lower case are the same)")

    def apply(self, sections: Mapping[str, str]) -> tuple[dict[str, str], Counter[str]]:
        """The sections without the terms, and how often each term was replaced."""
        counts: Counter[str] = Counter()
        if not self.terms:
            return dict(sections), counts

        def replaced(match: re.Match[str]) -> str:
            counts[self._terms_by_group[match.lastindex or 0]] += 1
            return REPLACEMENT

        return {name: self._pattern.sub(replaced, text) for name, text in sections.items()}, counts

    @cached_property
    def _terms_by_group(self) -> dict[int, str]:
        """Group of the pattern -> term, longest first, so that no term hides a longer one."""
        return dict(enumerate(sorted(self.terms, key=lambda term: (-len(term), term)), start=1))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        phrases = (r"\s+".join(map(re.escape, term.split())) for term in self._terms_by_group.values())
        return re.compile(rf"(?<!\w)(?:{'|'.join(f'({phrase})' for phrase in phrases)})(?!\w)", re.IGNORECASE)


def _same(term: str) -> str:
    return " ".join(term.split()).lower()
