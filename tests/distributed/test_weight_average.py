"""The moving average equals torch's bit for bit, and ignores skipped updates."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cxr_dist.distributed.weight_average import WeightAverage


def move(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))


@given(st.floats(0.01, 0.9999), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_the_average_equals_torchs(decay, dtype, seed):
    torch.manual_seed(seed)
    model = nn.Linear(5, 3).to(dtype)
    ours = WeightAverage(list(model.parameters()))
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    torchs.update_parameters(model)  # the first call copies
    for step in range(5):
        move(model, seed + step)
        ours.update(decay, torch.tensor(1.0))
        torchs.update_parameters(model)
    for average, expected in zip(ours.averages, torchs.module.parameters(), strict=True):
        assert average.equal(expected)


@pytest.mark.parametrize("norm", [math.nan, math.inf, torch.tensor(math.nan), torch.tensor(math.inf)])
def test_a_skipped_update_leaves_the_average_unchanged(norm):
    model = nn.Linear(5, 3)
    average = WeightAverage(list(model.parameters()))
    move(model, 1)
    average.update(0.9, 1.0)
    before = [each.clone() for each in average.averages]
    average.update(0.9, norm)
    assert all(map(torch.equal, average.averages, before))


def test_a_decay_of_0_sets_the_average_to_the_weights_whatever_their_dtype():
    weights = [torch.randn(5), torch.randn(3, dtype=torch.float64)]
    average = WeightAverage(weights)
    for weight in weights:
        weight.add_(torch.pi)
    average.update(0.0, 1.0)
    assert all(map(torch.equal, average.averages, weights))


def test_averages_and_weights_are_swapped_and_swapped_back_even_after_an_error():
    model = nn.Linear(5, 3)
    average = WeightAverage(list(model.parameters()))
    move(model, 1)
    weight, mean = model.weight.detach().clone(), average.averages[0].clone()
    with average.swapped():
        assert model.weight.equal(mean)
        assert average.averages[0].equal(weight)
    with pytest.raises(ZeroDivisionError), average.swapped():
        raise ZeroDivisionError
    assert model.weight.equal(weight)
    assert average.averages[0].equal(mean)
