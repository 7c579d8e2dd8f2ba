"""Fused runs on studies of one and two images: training, mixup, augmentation, evaluation and the dry run."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_losses import losses
from test_step import NothingIsRead, parts_for

from cxr_dist.config.run import Config
from cxr_dist.data.views import partner_images, row_table
from cxr_dist.doctor.dry_run import describe
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.memory.micro_batch import largest_batch


@pytest.fixture
def config(study_config: Config) -> Config:
    """A run of three steps with mixup and image dropout in float64."""
    settings = dataclasses.replace(study_config.train, max_steps=3, eval_every=3, mixup_alpha=0.4, mixup_from_epoch=1)
    model = dataclasses.replace(study_config.model, image_dropout=0.1)
    return dataclasses.replace(study_config, train=settings, model=model, precision="fp64")


def test_a_run_trains_and_is_evaluated_with_uncertainty(config):
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    assert np.isfinite(list(losses(config.run_dir).values())).all()
    evaluate_runs([config.run_dir], config.run_dir, "test", McDropout(passes=4, scope="all"))
    folder = config.run_dir / "evaluation" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    studies = load_manifest(Path(config.data.shards)).split("test").samples
    with (folder / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == studies
    by_view = metrics["subgroups"]["view"]  # studies without and with a lateral image
    assert set(by_view) == {"PA", "PA + LATERAL"}
    assert sum(group["n"] for group in by_view.values()) == studies


def test_mixup_blends_each_image_with_one_of_its_partner_study(config):
    step = parts_for(config).step
    table = row_table([1, 2, 2, 1, 2, 1, 1, 2], 2)
    images = torch.arange(12, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    targets = torch.eye(8, dtype=torch.float64)
    mixed, blended, _ = step.mix(0, 0, 0, images, table, targets, torch.ones_like(targets))
    share = blended.diagonal().clone()
    order = (blended - torch.diag(share)).argmax(1).numpy()
    kept = share < 1
    partners = torch.from_numpy(partner_images(order, table)).double()
    owners = torch.from_numpy(np.nonzero(table >= 0)[0])
    expected = share[owners] * images[:, 0, 0, 0] + (1 - share[owners]) * partners
    values = mixed[:, 0, 0, 0]
    assert kept.any()
    torch.testing.assert_close(values[kept[owners]], expected[kept[owners]])


def test_a_step_over_studies_needs_no_value_on_the_host(config):
    config = dataclasses.replace(config, precision="fp32")
    parts = parts_for(config)
    stream = parts.open_stream(0)
    steps = [[next(stream) for _ in parts.step.lanes] for _ in range(3)]
    for number in range(2):  # create kernels and moments
        parts.step(number, 0, steps[number], False)
    with NothingIsRead():
        parts.step(2, 0, steps[2], False)


def test_the_images_of_a_study_are_jittered_independently(config):
    step = parts_for(config).step
    batch = largest_batch(config, 2, 1, views=2)
    prepared = step.prepared(0, 0, 0, dataclasses.replace(batch, images=torch.full_like(batch.images, 90)))
    means = prepared.inputs.images.mean((1, 2, 3))
    assert len(set(means.tolist())) == 4


def test_auto_tries_batches_of_studies_with_all_their_images(config):
    batch = largest_batch(config, 3, 1, views=2)
    assert batch.images.shape == (6, 1, 64, 64)
    assert batch.view_rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    without = dataclasses.replace(config, model=dataclasses.replace(config.model, mode="text"))
    assert largest_batch(without, 3, 1, views=2).view_rows is None


def test_the_dry_run_shows_how_many_images_a_sample_has(config):
    assert describe(config)["training samples"].endswith(", each a study of up to 2 images")
