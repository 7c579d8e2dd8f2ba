"""Every engine gives the losses, norms, weights and moments of plain torch at any number of ranks."""

import json
from pathlib import Path

import forked_ranks
import pytest

pytestmark = pytest.mark.multiprocess

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "deepspeed"


DECAY = 0.7  # of averaged weights, in about half of the cases


def case(parallel, precision, file=None, **options):
    settings = {"deepspeed": str(LAUNCH / f"{file}.json")} if file else {}
    return {"parallel": parallel, "precision": precision} | settings | options


# Ranks start once for all their cases, because importing takes longer than the steps.
CASES = {
    2: [
        case("ddp", "fp32", decay=DECAY),
        case("ddp", "bf16"),
        case("zero1", "fp32"),
        case("zero1", "bf16", "zero1", decay=DECAY),
        case("zero2", "bf16", "zero2"),
        case("zero2", "fp32", "zero2_offload", decay=DECAY),
        case("zero3", "fp32", "zero3", decay=DECAY),
        case("zero3", "bf16", "zero3_offload"),
    ],
    4: [case("zero3", "fp32", decay=DECAY), case("ddp", "fp32")],
}


@pytest.mark.parametrize("ranks", CASES)
def test_steps_agree_with_plain_torch(ranks, tmp_path):
    cases = CASES[ranks]
    if ranks == 4:  # DeepSpeed does not partition small tensors, and all of these are small
        whole = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
        (tmp_path / "all.json").write_text(json.dumps(whole))
        cases[0]["deepspeed"] = str(tmp_path / "all.json")
    script = Path(__file__).with_name("engine_ranks.py")
    output = forked_ranks.run(ranks, script, tmp_path, *map(json.dumps, cases), seconds=580)
    assert output.count("agrees") == ranks * len(cases)
