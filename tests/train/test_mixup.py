"""Mixup of images and labels: which samples are mixed with which, in which shares, and from which epoch on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.train.assembly import parts_of, prepare_run_folder


@pytest.fixture
def mixing_step(tiny_config):
    """mixing_step(**settings): a step, and a batch of eight images, of which image i is white in column i alone."""

    def made(**settings):
        config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, **settings))
        manifest = load_manifest(Path(config.data.shards))
        prepare_run_folder(config, manifest, World())
        step = parts_of(config, manifest, World()).step
        return step, torch.eye(8)[:, None, None], torch.eye(8), torch.ones(8, 8)

    return made


def test_mixup_gives_the_larger_share_to_the_sample_whose_report_is_used(mixing_step):
    step, images, targets, known = mixing_step(mixup_alpha=1.0, mixup_from_epoch=1)
    shares = set()
    for number in range(40):
        mixed, of_labels, _ = step.mix(number, 0, 0, images, None, targets, known)
        torch.testing.assert_close(mixed[:, 0, 0], of_labels)  # labels are mixed as images are
        torch.testing.assert_close(of_labels.sum(1), torch.ones(8))
        own = of_labels.diagonal()
        assert own.min() >= 0.5
        shares.add(round(float(own.min()), 3))
    # With alpha = 1 the share of the report's sample is uniform in 0.5 to 1.
    assert min(shares) < 0.6
    assert max(shares) > 0.9


def test_partners_and_shares_of_mixup_differ_between_steps_lanes_and_seeds(mixing_step):
    step, images, targets, known = mixing_step(mixup_alpha=1.0, mixup_from_epoch=1)
    orders, shares = set(), set()
    for seed in (1, 2):
        step.config = dataclasses.replace(step.config, seed=seed)
        for number in (0, 1):
            for lane in (0, 1):
                mixed = step.mix(number, 0, lane, images, None, targets, known)[0][:, 0, 0]
                others = mixed - torch.diag(mixed.diagonal())
                orders.add(tuple(others.argmax(dim=1).tolist()))
                shares.add(float(mixed.diagonal().min()))
    assert len(orders) == len(shares) == 8


def test_each_image_of_a_study_is_mixed_with_one_of_its_partner_study(mixing_step):
    step, images, _, _ = mixing_step(mixup_alpha=1.0, mixup_from_epoch=1)
    table = torch.arange(8).reshape(4, 2).numpy()
    mixed, of_labels, _ = step.mix(0, 0, 0, images, table, torch.eye(4), torch.ones(4, 4))
    shares = mixed[:, 0, 0]
    for image in range(8):
        torch.testing.assert_close(shares[image].reshape(4, 2).sum(dim=1), of_labels[image // 2])
    assert (of_labels.diagonal() < 1).sum() > 1


def test_a_label_that_is_unknown_in_either_sample_of_a_mixture_is_unknown(mixing_step):
    step, images, _, _ = mixing_step(mixup_alpha=1.0, mixup_from_epoch=1)
    known = (torch.arange(8)[:, None] >> torch.arange(3) & 1).float()
    mixed, of_labels, both = step.mix(0, 0, 0, images, None, known.clone(), known)
    partners = [int(row.argsort()[-2]) if (row > 0).sum() > 1 else i for i, row in enumerate(mixed[:, 0, 0])]
    assert sum(i != partner for i, partner in enumerate(partners)) > 3
    assert torch.equal(both, torch.minimum(known, known[partners]))
    torch.testing.assert_close(of_labels, both)  # both labels are 1 where both are known


def test_mixup_begins_in_its_first_epoch_counted_from_one(mixing_step):
    step, images, targets, known = mixing_step(mixup_alpha=1.0, mixup_from_epoch=3)
    mixed = [not torch.equal(step.mix(0, epoch, 0, images, None, targets, known)[0], images) for epoch in range(4)]
    assert mixed == [False, False, True, True]


def test_a_micro_batch_of_studies_is_mixed_study_by_study(study_config):
    config = dataclasses.replace(study_config, train=dataclasses.replace(study_config.train, mixup_alpha=1.0))
    manifest = load_manifest(Path(config.data.shards))
    prepare_run_folder(config, manifest, World())
    parts = parts_of(config, manifest, World())
    step, several = parts.step, (batch for batch in parts.open_stream(0) if len(batch.images) > len(batch.labels))
    batch = next(several)
    late = config.train.mixup_from_epoch
    mixed = step.prepared(0, late, 0, batch)
    step.config = dataclasses.replace(config, train=dataclasses.replace(config.train, mixup_alpha=0.0))
    plain = step.prepared(0, late, 0, batch)
    step.config = config
    table = batch.view_rows.numpy()
    expected = step.mix(0, late, 0, plain.inputs.images, table, plain.targets, plain.known)
    torch.testing.assert_close(mixed.inputs.images, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, expected[1], rtol=0, atol=0)
    assert not torch.equal(mixed.inputs.images, plain.inputs.images)
