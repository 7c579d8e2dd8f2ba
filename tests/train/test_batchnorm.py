"""Running statistics follow the mean over a step's lanes in any order; with one lane they are torch's own."""

import torch
from torch import nn

from cxr_dist.train.batchnorm import LaneStatistics


def run_step(model, lanes, keep=True, statistics=None):
    statistics = statistics or LaneStatistics(model, len(lanes))
    statistics.start()
    for lane in lanes:
        model(lane)
        statistics.add()
    statistics.finish(keep=torch.tensor(keep))


def test_with_one_lane_the_statistics_are_those_of_torch():
    torch.manual_seed(0)
    ours, torchs, batch = nn.BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(8, 3, 4, 4)
    run_step(ours, [batch])
    torchs(batch)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    assert ours.momentum == 0.1


def test_several_lanes_update_the_buffers_once_with_their_mean_in_any_order():
    torch.manual_seed(0)
    lanes = list(torch.randn(4, 8, 3).double())
    first, second = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    run_step(first, lanes)
    run_step(second, lanes[::-1])
    expected = 0.9 * 1.0 + 0.1 * torch.stack([lane.var(0) for lane in lanes]).mean(0)
    torch.testing.assert_close(first.running_var, expected)
    torch.testing.assert_close(first.running_mean, 0.1 * torch.stack(lanes).mean((0, 1)))
    torch.testing.assert_close(second.running_var, first.running_var)
    assert first.num_batches_tracked == 1


def test_a_skipped_step_and_a_frozen_layer_change_no_buffer():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_step(model, [torch.full((8, 3), torch.nan)], keep=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    run_step(model, [torch.randn(8, 3)])
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])


def test_a_frozen_layer_keeps_its_whole_state_over_several_lanes_and_steps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.3))
    statistics = LaneStatistics(model, 4)  # the one of a whole run
    run_step(model, list(torch.randn(4, 8, 3)), statistics=statistics)
    model[1].eval()
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    other_before = {name: value.clone() for name, value in model[0].state_dict().items()}
    for _ in range(2):
        run_step(model, list(torch.randn(4, 8, 3)), statistics=statistics)
    assert [name for name, value in model[1].state_dict().items() if not torch.equal(value, before[name])] == []
    assert (model[1].momentum, model[1].training) == (0.3, False)
    assert int(model[0].num_batches_tracked - other_before["num_batches_tracked"]) == 2
    model[1].train()  # a layer that thaws goes on from its state
    run_step(model, list(torch.randn(4, 8, 3)), statistics=statistics)
    assert int(model[1].num_batches_tracked - before["num_batches_tracked"]) == 1
    assert not torch.equal(model[1].running_mean, before["running_mean"])
