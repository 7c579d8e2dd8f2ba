"""Learning rates, early stopping and the plateau schedule, compared with torch's schedulers."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.optim import OptimConfig
from cxr_dist.run.checkpoint import Progress
from cxr_dist.train.schedule import ema_decay, learning_rate

scores = st.lists(st.floats(0.3, 1.0), min_size=1, max_size=40)


@given(scores, st.integers(0, 4))
def test_the_plateau_schedule_is_that_of_torch(values, patience):
    config = OptimConfig(lr=1.0, schedule="plateau", plateau_patience=patience)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=patience, eps=0)
    progress = Progress()
    for step, score in enumerate(values, 1):
        reference.step(score)
        progress = progress.after(score, step, config)
        assert learning_rate(config, step, 10**6, progress.plateau_scale) == optimizer.param_groups[0]["lr"]


@given(scores)
def test_best_and_stale_follow_the_scores(values):
    progress = Progress()
    for step, score in enumerate(values, 1):
        progress = progress.after(score, step, OptimConfig())
    assert progress.best_score == max(values)
    assert progress.best_step == values.index(max(values)) + 1
    assert progress.stale == len(values) - progress.best_step


def test_an_undefined_score_counts_as_no_improvement():
    progress = Progress()
    for step, score in enumerate((None, 0.6, None), 1):
        progress = progress.after(score, step, OptimConfig())
    assert (progress.best_score, progress.best_step, progress.stale) == (0.6, 2, 1)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_rises_and_the_decay_ends_at_zero(schedule):
    config = OptimConfig(lr=2.0, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_decay_of_the_average_warms_up_as_timms_does():
    """The values of timm's ModelEmaV3 with use_warmup; its step counts from 1, and one is subtracted."""
    decays = [ema_decay(OptimConfig(ema_decay=0.999), step) for step in (0, 1, 7, 200, 10**6)]
    assert decays == pytest.approx([0.0, 1 - 2 ** (-2 / 3), 0.75, 0.970857, 0.999], abs=1e-6)
    assert ema_decay(OptimConfig(ema_decay=0.5), 200) == 0.5


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.99999])
@pytest.mark.parametrize("steps", [1, 2, 10, 200, 5000])
def test_no_run_ends_with_an_average_that_is_mostly_its_start(decay, steps):
    """The initial weights have no share at all, and the first half of the steps has less than half of the average."""
    config = OptimConfig(ema_decay=decay)
    assert math.prod(ema_decay(config, step) for step in range(steps)) == 0
    if steps > 1:
        assert math.prod(ema_decay(config, step) for step in range(-(-steps // 2), steps)) < 0.5
