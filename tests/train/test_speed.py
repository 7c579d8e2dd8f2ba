"""Speed in the log: the rates agree with each other, and utilisation is logged only if the peak is known."""

import dataclasses
import time

import pytest
import torch

from cxr_dist.distributed.world import World
from cxr_dist.model.classifier import build_classifier
from cxr_dist.train import speed as speed_module
from cxr_dist.train.flops import device_peak, peak_of
from cxr_dist.train.memory.micro_batch import largest_batch
from cxr_dist.train.speed import Clock, Speed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H200", "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 NVL", "bf16", 835.5e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 156e12),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),  # does not support bf16
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L40", "bf16", None),  # not listed
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA A10G", "bf16", None),  # a different GPU
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),  # a part of a GPU
        ("NVIDIA H100 80GB HBM3", "fp64", None),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name, precision, expected):
    assert peak_of(name, precision, tf32=True) == expected


def test_without_tf32_the_peak_is_that_of_float32():
    assert peak_of("NVIDIA A100-SXM4-80GB", "fp32", tf32=False) == 19.5e12
    assert device_peak(CPU, "fp32") is None


@pytest.fixture
def counted(tiny_config):
    """(Speed of an image-only run after one step, operations of that step)."""
    model = dataclasses.replace(tiny_config.model, mode="image")
    config = dataclasses.replace(tiny_config, model=model)
    clock = Clock()
    speed = Speed(config, build_classifier(model, 3, None), World(), clock)
    batch = largest_batch(config, 4, 1)
    speed.count([batch, batch], frozen=False)
    return speed, 2 * speed._flops.of(batch, frozen=False)


def test_rates_agree_and_each_lap_starts_from_zero(counted):
    speed, operations = counted
    figures = speed.lap(1)
    seconds = speed.config.data.global_batch / figures["samples_per_second"]
    assert figures["model_tflops_per_second"] * 1e12 * seconds == pytest.approx(operations, rel=2e-3)
    assert "model_flops_utilisation" not in figures
    assert speed.lap(2)["model_tflops_per_second"] == 0


def test_a_pause_inside_of_a_pause_counts_once():
    clock = Clock()
    with clock.paused():
        time.sleep(0.02)
        with clock.paused():
            time.sleep(0.05)
    steps, seconds, waited = clock.lap(1)
    assert (steps, waited) == (1, 0)
    assert seconds >= 0  # if both pauses counted, it would be less


def test_utilisation_is_relative_to_the_devices_of_all_ranks(counted, monkeypatch):
    speed, _ = counted
    monkeypatch.setattr(speed, "_peak", 2e9)
    monkeypatch.setattr(speed, "world", World(world_size=4))
    figures = speed.lap(1)
    expected = figures["model_tflops_per_second"] * 1e12 / (4 * 2e9)
    assert figures["model_flops_utilisation"] == pytest.approx(expected, rel=1e-3)


def test_steps_with_frozen_encoders_count_less(counted):
    speed, operations = counted
    speed.lap(1)
    speed.count([largest_batch(speed.config, 4, 1)] * 2, frozen=True)
    assert 0 < speed._done < operations / 2


def test_a_model_without_a_count_has_no_rate(tiny_config, monkeypatch):
    monkeypatch.setattr(speed_module, "count_flops", lambda *_: None)
    speed = Speed(tiny_config, None, World(), Clock())
    speed.count([], frozen=False)
    assert set(speed.lap(1)) == {"samples_per_second", "data_wait_share"}
