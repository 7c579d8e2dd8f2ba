"""Contrastive pretraining has the losses and weights of one process at any number of ranks, lanes and engines."""

import json
from pathlib import Path

import forked_ranks
import pytest

pytestmark = pytest.mark.multiprocess

EXACT = [{"parallel": "ddp", "precision": "fp64", "lanes": lanes} for lanes in (1, 2, 4)]
CASES = {
    1: [*EXACT, {"parallel": "ddp", "precision": "bf16", "lanes": 2}],
    2: [
        *EXACT,
        {"parallel": "ddp", "precision": "fp64", "lanes": 2, "same_label": True},
        {"parallel": "ddp", "precision": "bf16", "lanes": 2},
        {"parallel": "zero1", "precision": "fp32", "lanes": 2},
        {"parallel": "zero2", "precision": "bf16", "lanes": 1},
        {"parallel": "zero3", "precision": "fp32", "lanes": 2},
    ],
    4: [*EXACT, {"parallel": "ddp", "precision": "fp64", "lanes": 2, "exact_sums": True}],
}


@pytest.mark.parametrize("ranks", CASES)
def test_steps_equal_those_of_one_graph_over_the_global_batch(ranks: int, small_bert: Path) -> None:
    """Takes more than five seconds: every case trains a network twice on each rank, and ranks share two cores."""
    script = Path(__file__).with_name("contrastive_step_ranks.py")
    output = forked_ranks.run(ranks, script, small_bert, *map(json.dumps, CASES[ranks]), seconds=580)
    assert output.count("agrees") == ranks * len(CASES[ranks])
