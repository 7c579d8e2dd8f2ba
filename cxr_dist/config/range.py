"""The range of a number as part of its type: `lr: Annotated[float, Range(above=0)]`.

Dataclasses call `check_ranges` when they are made, from a file, from the command line or from code, and `in_range`
wraps the functions of commands. NaN and infinity are outside of every range.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from cxr_dist.errors import require

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers from `min` or above `above`, to `max` or below `below`; without an end, every finite number there."""

    min: float | None = None
    above: float | None = None
    max: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            (isinstance(number, float) or abs(number) < 2**63)  # as numpy's and torch's integers
            and math.isfinite(number)
            and (self.min is None or number >= self.min)
            and (self.above is None or number > self.above)
            and (self.max is None or number <= self.max)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """Such as `0 or more`, `above 0`, `0 to 1` or `0 to below 1`."""
        start = f"above {self.above}" if self.above is not None else "" if self.min is None else str(self.min)
        end = f"below {self.below}" if self.below is not None else "" if self.max is None else str(self.max)
        if start and end:
            return f"{start} to {end}"
        return f"{start} or more" if self.min is not None else start or end or "a finite number"


def check_ranges(owner: object, section: str = "") -> None:
    """Raise UserError if a number of a dataclass is outside of its range; `section` comes before the field's name."""
    kind: Any = type(owner)
    for name, bounds in ranges_of(kind).items():
        _check(f"{section}.{name}".removeprefix("."), getattr(owner, name), bounds)


def in_range(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """The function, which first raises UserError for a number outside of the range of its parameter."""

    @functools.wraps(command)
    def checked(*positional: Any, **named: Any) -> _Result:
        given = inspect.signature(command).bind(*positional, **named).arguments
        for name, bounds in ranges_of(command).items():
            _check(f"--{name.replace('_', '-')}", given.get(name), bounds)
        return command(*positional, **named)

    return checked


@functools.cache
def ranges_of(kind: Any) -> dict[str, Range]:
    """Name -> range of the fields of a dataclass or the parameters of a function that have one."""
    hints = get_type_hints(kind, include_extras=True)
    extras = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: extra for name, found in extras.items() for extra in found if isinstance(extra, Range)}


def _check(name: str, value: object, bounds: Range) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float):
            shown = value if not isinstance(number, int) or number.bit_length() <= 64 else "a number of too many digits"
            require(number in bounds, f"{name} is {shown}; expected {bounds}")
