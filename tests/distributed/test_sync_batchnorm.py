"""BatchNorm over ranks equals plain BatchNorm over their concatenated batches, in every engine."""

from dataclasses import replace
from pathlib import Path

import forked_ranks
import pytest
import torch
from torch import nn

from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.world import World


@pytest.mark.multiprocess
def test_two_ranks_normalise_together():
    assert forked_ranks.run(2, Path(__file__).with_name("sync_batchnorm_ranks.py")).count("agrees") == 2


def test_one_rank_keeps_torchs_own_layer(tiny_config):
    config = replace(tiny_config, model=replace(tiny_config.model, sync_batchnorm=True))
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    new_backend(config, World(), model, torch.optim.AdamW)
    assert type(model[1]) is nn.BatchNorm1d
