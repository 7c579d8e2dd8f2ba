"""Replace label terms in reports by [MASK], and count the replacements.

[MASK] is a single token for BERT-like encoders, which were trained to read it as an unknown word; "[REDACTED]" would be
split into several tokens, and an ordinary word would look like a part of the report. The model still sees that a term
was replaced: list the terms of all classes, not only of one.
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
    """Replaces words and phrases wherever they occur as whole words, regardless of case."""

    terms: tuple[str, ...]
    """Each plural and spelling is a separate term; a space matches any white space."""

    def __post_init__(self) -> None:
        for term in self.terms:
            if not re.fullmatch(r"\w(.*\w)?", term) or set("[]") & set(term):
                raise UserError(
                    f"redact has the term {term!r}: expected words that begin and end with a letter or digit"
                )
            if _same(term) == "mask":
                raise UserError(f"redact has the term {term!r}, which is the replacement itself: remove it")
        twice = [term for term, count in Counter(map(_same, self.terms)).items() if count > 1]
        if twice:
            raise UserError(f"redact has the term {twice[0]!r} twice (case is ignored): remove one")

    def apply(self, sections: Mapping[str, str]) -> tuple[dict[str, str], Counter[str]]:
        """The sections with the terms replaced, and how often each term was replaced."""
        counts: Counter[str] = Counter()
        if not self.terms:
            return dict(sections), counts

        def replaced(match: re.Match[str]) -> str:
            counts[self._terms_by_group[match.lastindex or 0]] += 1
            return REPLACEMENT

        return {name: self._pattern.sub(replaced, text) for name, text in sections.items()}, counts

    @cached_property
    def _terms_by_group(self) -> dict[int, str]:
        """Group of the pattern -> term; the longest comes first, so that no term hides a longer one."""
        return dict(enumerate(sorted(self.terms, key=lambda term: (-len(term), term)), start=1))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        phrases = (r"\s+".join(map(re.escape, term.split())) for term in self._terms_by_group.values())
        return re.compile(rf"(?<!\w)(?:{'|'.join(f'({phrase})' for phrase in phrases)})(?!\w)", re.IGNORECASE)


def _same(term: str) -> str:
    return " ".join(term.split()).lower()
