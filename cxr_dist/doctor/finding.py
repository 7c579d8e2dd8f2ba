"""The finding of a check: a state, a sentence and advice, as plain text that can be sent between ranks."""

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
    """`warning`: the run would start, but more slowly or differently than the user may expect."""
    found: str
    """One sentence without private names."""
    advice: str = ""
    """What to do, unless `found` says so."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The input of the checks."""

    config: Config
    world: World
    ranks_on_node: int = 1


Findings = dict[str, Finding]
"""By the check's name, in the order of checking."""
Check = Callable[[Setting], Finding]


def ok(found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(state="ok", found=found)


def warning(found: str, advice: str) -> Finding:
    """Return a finding with which the run would still start."""
    return Finding(state="warning", found=found, advice=advice)


def failed(found: str, advice: str = "") -> Finding:
    """Return a finding with which the run would not start, or would fail later."""
    return Finding(state="failed", found=found, advice=advice)


def outcomes(
    checks: Mapping[str, Check], setting: Setting, needs: Mapping[str, tuple[str, ...]] | None = None
) -> Findings:
    """Run the checks in order; a check that raises an error has failed.

    Args:
        checks: Checks by name.
        setting: Input of the checks.
        needs: Name of a check -> earlier checks. If one of these failed, the check is skipped, as it would repeat it.
    """
    findings: Findings = {}
    for name, check in checks.items():
        if not any(findings[need].state == "failed" for need in (needs or {}).get(name, ())):
            findings[name] = _outcome(check, setting)
    return findings


def _outcome(check: Check, setting: Setting) -> Finding:
    try:
        return check(setting)
    except UserError as error:
        return failed(str(error))
    # The other checks must still run. The error's own text is left out, because it may contain private names.
    except Exception as error:
        return failed(f"the check itself failed ({type(error).__name__})", "look at the other lines first")


def findings_to_json(findings: Findings) -> str:
    """Convert findings to text for another rank."""
    return json.dumps({name: dataclasses.asdict(finding) for name, finding in findings.items()})


def findings_from_json(text: str) -> Findings:
    """Invert `findings_to_json`."""
    return {name: Finding(**fields) for name, fields in json.loads(text).items()}
