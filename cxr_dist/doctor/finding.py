"""What a check found: a state, a sentence, and for a failure what to do. Plain text, so that it can cross ranks."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError

FindingState = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check on one rank."""

    state: FindingState
    """`warning`: the run would start, but slower or on other terms than one may think."""
    found: str
    """One sentence; no private names."""
    advice: str = ""
    """What to do, where `found` does not say it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the checks look at."""

    config: Config
    world: World
    ranks_on_node: int = 1


Findings = dict[str, Finding]
"""By the check's name, in the order of checking."""
Check = Callable[[Setting], Finding]


def ok(found: str) -> Finding:
    """Nothing to do."""
    return Finding(state="ok", found=found)


def warning(found: str, advice: str) -> Finding:
    """The run would start all the same."""
    return Finding(state="warning", found=found, advice=advice)


def failed(found: str, advice: str = "") -> Finding:
    """The run would not start, or end badly."""
    return Finding(state="failed", found=found, advice=advice)


def outcomes(
    checks: Mapping[str, Check], setting: Setting, needs: Mapping[str, tuple[str, ...]] | None = None
) -> Findings:
    """Make the checks, one after another; one that ends in an error has failed.

    Args:
        checks: By name.
        setting: What they look at.
        needs: For a check the earlier ones that must not have failed; else it is left out, as it would repeat them.
    """
    found: Findings = {}
    for name, check in checks.items():
        if not any(found[need].state == "failed" for need in (needs or {}).get(name, ())):
            found[name] = _outcome(check, setting)
    return found


def _outcome(check: Check, setting: Setting) -> Finding:
    try:
        return check(setting)
    except UserError as error:
        return failed(str(error))
    # A doctor that dies of what it finds helps nobody; the text of a foreign error may hold private names.
    except Exception as error:
        return failed(f"the check itself failed ({type(error).__name__})", "look at the other lines first")


def to_json(findings: Findings) -> str:
    """For another rank; no pickle."""
    return json.dumps({name: dataclasses.asdict(finding) for name, finding in findings.items()})


def from_json(text: str) -> Findings:
    """The inverse of `to_json`."""
    return {name: Finding(**fields) for name, fields in json.loads(text).items()}
