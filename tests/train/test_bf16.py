"""Losses in bf16 agree with those in float32; `python -m benchmarks.bf16_auc` measures the effect on accuracy."""

import dataclasses
from pathlib import Path

import pytest
from run_losses import losses

from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train

ROUNDING = 2**-8  # relative precision of bfloat16


@pytest.mark.parametrize("mode", ["image", "text", "fused"])
def test_losses_in_bf16_agree_with_float32_up_to_rounding(tiny_config, tmp_path, mode):
    by_precision = {}
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
        by_precision[precision] = losses(Path(config.out))
    assert len(by_precision["bf16"]) == 10
    assert by_precision["bf16"] != by_precision["fp32"]
    assert by_precision["bf16"] == pytest.approx(by_precision["fp32"], rel=4 * ROUNDING)
