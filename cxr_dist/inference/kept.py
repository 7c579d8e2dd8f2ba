"""Blocks of metrics.json that an evaluation without --audit or --boxes keeps from an earlier one."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_dist.config.decode import parse_record
from cxr_dist.errors import UserError
from cxr_dist.evaluate.metrics import strict_json

_MADE_BY = {"audit": ("audit", "--audit"), "explanations": ("scores against boxes", "--boxes")}
"""Block of metrics.json -> what it is called, and the flag of `cxr-dist evaluate` that makes it."""
_SAME = ("members", "manifest_sha256", "split", "external", "calibration")


def earlier_blocks(metrics_json: Path) -> dict[str, Any]:
    """The content of an earlier metrics.json if it has one of these blocks; empty otherwise, and if it is broken."""
    try:
        earlier = parse_record(metrics_json, str(metrics_json)) if metrics_json.is_file() else {}
    except UserError:
        return {}  # it is about to be replaced
    return earlier if any(name in earlier for name in _MADE_BY) else {}


def kept_blocks(metrics_json: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks that the file at `metrics_json` has and the new content `facts` lacks.

    They are kept if the earlier evaluation had the same checkpoints, shards and calibration, and the same metrics
    to the last digit. After another training or on other shards they would describe another model or other samples.
    """
    earlier, new = earlier_blocks(metrics_json), json.loads(strict_json(dict(facts)))
    same = bool(earlier) and [earlier.get(name) for name in _SAME] == [new[name] for name in _SAME]
    if not same or _scores(earlier) != _scores(new):
        return {}
    return {name: earlier[name] for name in _MADE_BY if name in earlier and name not in facts}


def kept_or_dropped(earlier: Mapping[str, Any], evaluation: Mapping[str, Any], asked: Collection[str]) -> Iterator[str]:
    """One sentence for each block of an earlier evaluation that this one did not make; it made those `asked` for."""
    for name, (called, flag) in _MADE_BY.items():
        if name not in earlier or name in asked:
            continue
        if name in evaluation:
            yield f"Kept: the {called}, from an earlier evaluation of this checkpoint with the same metrics."
        else:
            yield f"Dropped: the {called} of an earlier evaluation, whose metrics differ. Repeat it with {flag}."


def _scores(facts: Mapping[str, Any]) -> tuple[Any, Any]:
    metrics = facts.get("metrics") or {}
    return metrics.get("macro"), metrics.get("per_class")
