"""Synthetic images and reports: reproducible, with visible findings that only the impression names."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import open_index
from cxr_dist.shard.phantom.canvas import Canvas, Pose
from cxr_dist.shard.phantom.frontal import draw_frontal
from cxr_dist.shard.phantom.lateral import draw_lateral
from cxr_dist.shard.phantom.phantom_image import PhantomImage
from cxr_dist.shard.phantom.study import FINDINGS, draw_study
from cxr_dist.shard.phantom.wording import PHANTOM_SECTIONS, write_report
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Demo, load_recipe
from cxr_dist.shard.write import write_shards

DEMO = Path(__file__).resolve().parents[2] / "shards" / "demo.yaml"
STRAIGHT = Canvas(side=96, pose=Pose(degrees=0, zoom=1, shift=(0, 0)))

numbers = st.integers(0, 5000)


@given(numbers, st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_an_image_is_a_function_of_seed_and_study(number, seed):
    image = PhantomImage(seed=seed, study=number, view="PA", side=64)
    pixels = image.read(64)
    assert (pixels.shape, pixels.dtype) == ((64, 64), np.uint8)
    assert np.array_equal(pixels, image.read(64))
    assert not np.array_equal(pixels, dataclasses.replace(image, study=number + 1).read(64))
    assert not np.array_equal(pixels, dataclasses.replace(image, seed=seed + 1).read(64))


@given(numbers)
@settings(max_examples=20, deadline=None)
def test_lungs_are_darker_than_heart_and_abdomen_and_air_is_darkest(number):
    density = draw_frontal(draw_study(0, number), STRAIGHT, np.random.default_rng(0))
    lungs = (density[38:50, 20:28].mean() + density[38:50, 68:76].mean()) / 2
    assert density[58:64, 48:54].mean() > lungs + 0.4
    assert density[88:, 30:66].mean() > lungs + 0.4
    assert density[:3, :8].mean() < 0.1


@pytest.mark.parametrize("draw", [draw_frontal, draw_lateral])
@pytest.mark.parametrize("finding", [name for name in FINDINGS if name != "normal"])
def test_a_plainer_finding_adds_more_density(draw, finding):
    study = dataclasses.replace(draw_study(0, 3), finding="normal", zone="mid")
    clear = draw(study, STRAIGHT, np.random.default_rng(0))
    sums = []
    for plainness in (0.0, 0.5, 1.0):
        ill = dataclasses.replace(study, finding=finding, plainness=plainness)
        sums.append(float((draw(ill, STRAIGHT, np.random.default_rng(0)) - clear).sum()))
    assert 0 <= sums[0] < sums[1] < sums[2]


def test_studies_of_one_patient_share_the_build():
    first, second = draw_study(0, 3), draw_study(0, 4)
    assert (first.patient, first.build) == (second.patient, second.build)
    assert draw_study(0, 5).patient != second.patient


def test_findings_have_their_shares_and_some_studies_have_two_views():
    studies = [draw_study(0, number) for number in range(1000)]
    counts = Counter(study.finding for study in studies)
    for name, share in FINDINGS.items():
        assert abs(counts[name] / 1000 - share) < 0.05
    assert 0.15 < sum(len(study.views) == 2 for study in studies) / 1000 < 0.35


def test_only_the_impression_names_the_finding():
    for number in range(1000):
        study = draw_study(0, number)
        report = write_report(study, 0)
        assert tuple(report) == PHANTOM_SECTIONS
        assert "{" not in "".join(report.values())
        for name in FINDINGS:
            assert name not in report["findings"].lower()
            assert name not in report["indication"].lower()
        assert study.finding in report["impression"].lower() or "abnormality" in report["impression"]


def test_reports_vary_between_studies_and_are_reproducible():
    reports = [write_report(draw_study(0, number), 0) for number in range(300)]
    assert len({report["findings"] for report in reports}) > 200
    assert reports[17] == write_report(draw_study(0, 17), 0)


def test_the_manifest_of_the_demo_says_that_the_data_are_synthetic(tmp_path):
    recipe = dataclasses.replace(load_recipe(DEMO), demo=Demo(studies=150, side=32))
    manifest = write_shards(recipe, None, tmp_path / "shards", workers=0)
    assert manifest.made_data
    assert manifest.classes == ("Normal", "Cardiomegaly", "Effusion", "Opacity", "Nodule")
    shard = manifest.splits["val"].shards[0]
    record = open_index(tmp_path / "shards", shard, 1)[0]
    tar = (tmp_path / "shards" / shard.file).read_bytes()
    content = json.loads(tar[record["json_offset"] :][: record["json_size"]])
    assert sorted(content["text"]) == sorted(PHANTOM_SECTIONS)
    with pytest.raises(UserError, match="reader demo makes its own data"):
        read_source(recipe, tmp_path)
