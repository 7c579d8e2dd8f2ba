"""A run whose losses are no longer finite ends on all ranks, with the same message at any world size."""

import re

import pytest
from ranks import SETTINGS

from cxr_dist.config.flags import config_of
from cxr_dist.errors import UserError
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train

pytestmark = pytest.mark.multiprocess


def test_too_many_nonfinite_steps_end_the_run_on_all_ranks(tiny_shards, tmp_path, run_ranks):
    # The first update makes the weights so large that the updates of steps 2 and 3 are skipped. Steps are not logged.
    wild = ("--optim.lr", "1e30", "--train.max-nonfinite-steps", "1", "--train.log-every", "100")
    command = (*SETTINGS, "--data.shards", str(tiny_shards), "--train.save-every", "100", *wild)
    alone = config_of("demo", [*command, "--out", str(tmp_path / "alone")], "cxr-dist train demo")
    message = r"in 2 steps in a row, up to step 3, where the loss is not finite in micro-batches of .* and 11 more: "
    with pytest.raises(UserError, match=message) as alone_refused:
        train(alone, StopRequest(0))
    output = run_ranks(2, "train", "demo", *command, "--out", tmp_path / "together", expected=1)
    assert len(re.findall(re.escape(f"cxr-dist: {alone_refused.value}"), output)) == 1  # once per node
    assert output.count("step 2: loss or gradient not finite, update left out") == 1
