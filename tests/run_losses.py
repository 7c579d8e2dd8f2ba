"""Reads the losses that a run logged."""

import json
from pathlib import Path


def losses(run_dir: Path) -> dict[int, float]:
    """Step -> loss in a run's metrics.jsonl; fails if a step occurs twice."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert len(dict(steps)) == len(steps)
    return dict(steps)
