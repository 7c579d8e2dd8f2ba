"""Training on studies of one and two images is the same on one rank and on two."""

import pytest
from ranks import SETTINGS
from run_losses import losses

pytestmark = pytest.mark.multiprocess


def test_losses_are_the_same_at_any_world_size(cxr_dist, run_ranks, study_shards, tmp_path):
    more = ("--train.max-steps", 4, "--precision", "fp64", "--data.shards", study_shards)
    command = ("train", "demo", *SETTINGS, *map(str, more))
    status, _, said = cxr_dist(*command, "--out", tmp_path / "alone")
    assert status == 0, said
    run_ranks(2, *command, "--out", tmp_path / "together")
    alone, together = losses(tmp_path / "alone"), losses(tmp_path / "together")
    assert list(together) == list(alone) == [1, 2, 3, 4]
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, rel=1e-9), step
