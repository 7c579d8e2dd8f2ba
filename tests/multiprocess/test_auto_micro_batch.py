"""Two ranks with `auto` choose the same micro-batch and gradient checkpointing, and train with them."""

import pytest
from ranks import SETTINGS

from cxr_dist.config.file import load_config

pytestmark = pytest.mark.multiprocess


def test_two_ranks_choose_the_same_micro_batch_and_gradient_checkpointing(run_ranks, tiny_shards, tmp_path):
    arguments = ("--data.shards", tiny_shards, "--train.max-steps", "2", "--out", tmp_path / "run")
    settings = (*SETTINGS, "--data.micro-batch", "auto", "--model.gradient-checkpointing", "auto")
    printed = run_ranks(2, "train", "demo", *settings, *arguments)
    assert load_config(tmp_path / "run" / "config.yaml").data.micro_batch == 8  # half of the global batch
    assert printed.count("data.micro_batch auto: 8 on CPU") == 1
    assert printed.count("model.gradient_checkpointing auto: off on CPU") == 1
    assert "step 2" in printed
