"""What a person reads: a line per check, what to do under it, and where ranks differ, which. Findings in, lines out."""

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from cxr_dist.doctor.finding import Finding, Findings, FindingState
from cxr_dist.doctor.ranks import name_ranks

_STYLE: dict[FindingState, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_STATE_WIDTH = 9
_CHECK_WIDTH = 24


def lines(findings: Mapping[int, Findings], hosts: Mapping[int, str]) -> list[tuple[str, Finding]]:
    """(check, finding) in the order of checking, alike findings of several ranks in one, naming the ranks.

    Args:
        findings: By rank; not every rank makes every check.
        hosts: The ranks' hosts.
    """
    checks = dict.fromkeys(check for rank in sorted(findings) for check in findings[rank])
    shown = []
    for check in checks:
        by_rank = {rank: findings[rank][check] for rank in sorted(findings) if check in findings[rank]}
        for finding, ranks in _groups(by_rank).items():
            named = "" if len(ranks) == len(by_rank) else f" [{_place(ranks, hosts)}]"
            shown.append(
                (check, Finding(state=finding.state, found=finding.found + named, advice=finding.advice))
            )
    return shown


def _groups(by_rank: Mapping[int, Finding]) -> dict[Finding, list[int]]:
    """Equal findings together; all good ones count as equal, and the first rank's stands for them."""
    groups: dict[Finding, list[int]] = {}
    first_good = next((finding for finding in by_rank.values() if finding.state == "ok"), None)
    for rank, finding in by_rank.items():
        key = first_good if finding.state == "ok" and first_good else finding
        groups.setdefault(key, []).append(rank)
    return groups


def _place(ranks: list[int], hosts: Mapping[int, str]) -> str:
    return f"{name_ranks(ranks)} on {', '.join(dict.fromkeys(hosts[rank] for rank in ranks))}"


def conclusion(shown: list[tuple[str, Finding]]) -> str:
    """The last line."""
    states = Counter(finding.state for _, finding in shown)
    warnings = (
        f", {states['warning']} warning{'s' if states['warning'] > 1 else ''}" if states["warning"] else ""
    )
    if states["failed"]:
        return f"{states['failed']} failed{warnings}: mend that, and ask the doctor again"
    return f"nothing failed{warnings}: the run can start"


def show(findings: Mapping[int, Findings], hosts: Mapping[int, str], title: str, console: Console) -> bool:
    """Print all; False where something failed."""
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    shown = lines(findings, hosts)
    for check, finding in shown:
        console.print(_line(check, finding), soft_wrap=True)
    console.print(conclusion(shown), highlight=False, markup=False, soft_wrap=True)
    return not any(finding.state == "failed" for _, finding in shown)


def _line(check: str, finding: Finding) -> Text:
    indent = "\n" + " " * (_STATE_WIDTH + _CHECK_WIDTH)
    text = Text(f"{finding.state:<{_STATE_WIDTH}}", style=_STYLE[finding.state])
    text.append(f"{check:<{_CHECK_WIDTH}}{finding.found}".replace("\n", indent), style="default")
    if finding.advice:
        text.append(f"{indent}→ {finding.advice}", style="default")
    return text
