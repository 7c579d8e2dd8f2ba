"""Training in bf16 follows training in float32; `python -m benchmarks.bf16_auc` says what it costs in accuracy."""

import dataclasses
from pathlib import Path

import pytest
from run_losses import losses

from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train

ROUNDING = 2**-8  # of a bfloat16, relative


@pytest.mark.parametrize("mode", ["image", "text", "fused"])
def test_losses_in_bf16_are_those_in_float32_to_a_few_roundings(tiny_config, tmp_path, mode):
    found = {}
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(
            tiny_config,
            precision=precision,
            model=dataclasses.replace(tiny_config.model, mode=mode),
            optim=dataclasses.replace(tiny_config.optim, lr=2e-4),
            train=dataclasses.replace(tiny_config.train, freeze_epochs=0, max_steps=10),
            out=str(tmp_path / precision),
        )
        train(config, StopRequest(0))
        found[precision] = losses(Path(config.out))
    assert len(found["bf16"]) == 10
    assert found["bf16"] != found["fp32"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=4 * ROUNDING)
