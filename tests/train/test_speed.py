"""What a log line says of speed: rates that agree with each other, and utilisation only where a peak is known."""

import dataclasses

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
        ("Tesla V100-SXM2-16GB", "bf16", None),  # has no such units
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L40", "bf16", None),  # in no sheet that we read
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA A10G", "bf16", None),  # another card
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),  # a part of one
        ("NVIDIA H100 80GB HBM3", "fp64", None),
    ],
)
def test_peaks_are_those_of_the_data_sheets_or_none(name, precision, expected):
    assert peak_of(name, precision, tf32=True) == expected


def test_a_run_without_tf32_is_held_against_plain_float32():
    assert peak_of("NVIDIA A100-SXM4-80GB", "fp32", tf32=False) == 19.5e12
    assert device_peak(CPU, "fp32") is None


@pytest.fixture
def counted(tiny_config):
    """(Speed of an image-only run that has taken one step, operations of that step)."""
    model = dataclasses.replace(tiny_config.model, mode="image")
    config = dataclasses.replace(tiny_config, model=model)
    clock = Clock()
    found = Speed(config, build_classifier(model, 3, None), World(), CPU, clock)
    batch = largest_batch(config, 4, 1)
    found.count([batch, batch], frozen=False)
    return found, 2 * found._flops.of(batch, frozen=False)


def test_rates_agree_and_a_lap_begins_anew(counted):
    found, operations = counted
    figures = found.lap(1)
    seconds = found.config.data.global_batch / figures["samples_per_second"]
    assert figures["model_tflops_per_second"] * 1e12 * seconds == pytest.approx(operations, rel=2e-3)
    assert "model_flops_utilisation" not in figures
    assert found.lap(2)["model_tflops_per_second"] == 0


def test_utilisation_is_of_all_ranks_devices(counted, monkeypatch):
    found, _ = counted
    monkeypatch.setattr(found, "_peak", 2e9)
    monkeypatch.setattr(found, "world", World(world_size=4))
    figures = found.lap(1)
    expected = figures["model_tflops_per_second"] * 1e12 / (4 * 2e9)
    assert figures["model_flops_utilisation"] == pytest.approx(expected, rel=1e-3)


def test_frozen_steps_count_less(counted):
    found, operations = counted
    found.lap(1)
    found.count([largest_batch(found.config, 4, 1)] * 2, frozen=True)
    assert 0 < found._done < operations / 2


def test_a_model_without_a_count_has_no_rate(tiny_config, monkeypatch):
    monkeypatch.setattr(speed_module, "count_flops", lambda *_: None)
    found = Speed(tiny_config, None, World(), CPU, Clock())
    found.count([], frozen=False)
    assert set(found.lap(1)) == {"samples_per_second", "data_wait_share"}
