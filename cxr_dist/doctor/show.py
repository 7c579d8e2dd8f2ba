"""Print findings: a line per check with the advice below it, and the ranks concerned if ranks differ."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from cxr_dist.doctor.finding import Finding, Findings, FindingState
from cxr_dist.doctor.ranks import name_ranks
from cxr_dist.errors import printable
from cxr_dist.format.escape import terminal_text

_STYLE: dict[FindingState, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_STATE_WIDTH = 9
_CHECK_WIDTH = 24


def lines(findings: Mapping[int, Findings], hosts: Mapping[int, str]) -> list[tuple[str, Finding]]:
    """Return (check, finding) in the order of checking, with equal findings of several ranks merged.

    Args:
        findings: Findings by rank; not every rank runs every check.
        hosts: Host of each rank.
    """
    checks = dict.fromkeys(check for rank in sorted(findings) for check in findings[rank])
    shown = []
    for check in checks:
        by_rank = {rank: findings[rank][check] for rank in sorted(findings) if check in findings[rank]}
        for finding, ranks in _groups(by_rank).items():
            named = "" if len(ranks) == len(by_rank) else f" [{_place(ranks, hosts)}]"
            shown.append((check, replace(finding, found=finding.found + named)))
    return shown


def _groups(by_rank: Mapping[int, Finding]) -> dict[Finding, list[int]]:
    """Group ranks with equal findings; all `ok` findings count as equal to the first one."""
    groups: dict[Finding, list[int]] = {}
    first_good = next((finding for finding in by_rank.values() if finding.state == "ok"), None)
    for rank, finding in by_rank.items():
        key = first_good if finding.state == "ok" and first_good else finding
        groups.setdefault(key, []).append(rank)
    return groups


def _place(ranks: list[int], hosts: Mapping[int, str]) -> str:
    return f"{name_ranks(ranks)} on {', '.join(dict.fromkeys(hosts[rank] for rank in ranks))}"


def conclusion(shown: list[tuple[str, Finding]]) -> str:
    """Return the last line, which counts failures and warnings."""
    states = Counter(finding.state for _, finding in shown)
    count = states["warning"]
    warnings = f", {count} warning{'s' if count > 1 else ''}" if count else ""
    if states["failed"]:
        return f"{states['failed']} failed{warnings}: correct that, and run the doctor again"
    return f"nothing failed{warnings}: the run can start"


def show(findings: Mapping[int, Findings], hosts: Mapping[int, str], title: str, console: Console) -> bool:
    """Print all findings and return whether none failed."""
    console.print(terminal_text(title), soft_wrap=True)
    shown = lines(findings, hosts)
    for check, finding in shown:
        console.print(_line(check, finding), soft_wrap=True)
    console.print(conclusion(shown), highlight=False, markup=False, soft_wrap=True)
    return not any(finding.state == "failed" for _, finding in shown)


def _line(check: str, finding: Finding) -> Text:
    indent = "\n" + " " * (_STATE_WIDTH + _CHECK_WIDTH)
    text = Text(f"{finding.state:<{_STATE_WIDTH}}", style=_STYLE[finding.state])
    text.append(f"{check:<{_CHECK_WIDTH}}{printable(finding.found)}".replace("\n", indent), style="default")
    if finding.advice:
        text.append(f"{indent}→ {printable(finding.advice)}", style="default")
    return text
