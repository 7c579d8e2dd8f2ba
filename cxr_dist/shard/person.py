"""Parse sex and age from the spellings that sources use.

Neither is an input of a model; both serve to report results by subgroup.
"""

import re
from typing import Literal

Sex = Literal["F", "M", ""]

_SEXES: dict[str, Sex] = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_AGE = re.compile(r"(\d{1,4}(?:\.\d*)?)\s*(y|yr|yrs|years?|m|w|d)?\+?", re.IGNORECASE)
# The units of DICOM's age string (PS3.5, section 6.2): 052Y, 018M, 006W, 003D.
_PER_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}
OLDEST = 125
"""Highest accepted age in years."""


def sex_of(text: str) -> Sex:
    """F or M for the usual spellings, regardless of case; an empty string for anything else."""
    return _SEXES.get(text.strip().lower(), "")


def age_of(text: str) -> float | None:
    """Years, 0 to 125, from `52`, `52.5`, `52 years`, `90+` (90) or DICOM's `052Y`, `018M`; None for anything else.

    Whole years are integers. Old ages are not capped: apply the privacy rules of your site to the source.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return None
    years = float(match[1]) / _PER_YEAR.get((match[2] or "y").lower(), 1.0)
    if years > OLDEST:
        return None
    return int(years) if years.is_integer() else round(years, 2)


def age_between(birth: str, study: str) -> int | None:
    """Years from birth to study, 0 to 125, exact to one year; None if either year is unknown.

    A year is the first four digits of `1930`, `1930.0`, `1930-05-17` or `19300517`.
    """
    years = [re.match(r"\d{4}", text.strip()) for text in (birth, study)]
    if years[0] is None or years[1] is None:
        return None
    age = int(years[1][0]) - int(years[0][0])
    return age if 0 <= age <= OLDEST else None
