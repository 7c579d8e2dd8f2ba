"""verify finds an image that is in two splits, even if it was distorted, and does not confuse different images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from table_source import make_source, source_names, table_recipe
from textured_images import DISTORTIONS, texture

from cxr_dist.format.image import ImageFile
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.shard.likeness import correlation, fingerprint, nearest_neighbours
from cxr_dist.shard.near_duplicates import find_near_duplicates
from cxr_dist.shard.recipe import Demo, ImageFormat, load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

RECIPES = Path(__file__).resolve().parents[2] / "shards"
RECIPE = table_recipe(image=ImageFormat(short_side=128))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_source(tmp_path_factory.mktemp("near") / "source", patients=20, films=2)
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        Image.fromarray(texture(number)).save(path)
    return folder


@pytest.fixture(scope="module")
def clean(source: Path) -> Path:
    write_shards(RECIPE, source, source.parent / "clean", workers=0)
    return source.parent / "clean"


def place_of(shards: Path, split: str, name: str) -> str:
    """Return the shard file and sample of a source image."""
    names = source_names(shards)
    for shard in load_manifest(shards).splits[split].shards:
        for sample, key in enumerate(open_index(shards, shard, 1)["key"]):
            if names[key.decode()] == name:
                return f"{shard.file} sample {sample}"
    raise AssertionError(f"{name} is not in {split}")


def names_in(shards: Path, split: str) -> list[str]:
    """Return the source names of a split's images."""
    names = source_names(shards)
    entries = load_manifest(shards).splits[split].shards
    return [names[key.decode()] for shard in entries for key in open_index(shards, shard, 1)["key"]]


def plant(source: Path, shards: Path, original: str, target: str, distort: Callable) -> None:
    """Shard the source with the image `target` replaced by a distorted copy of `original`."""
    images = source / "images"
    kept = (images / target).read_bytes()
    copy = distort(np.asarray(Image.open(images / original)))
    (images / target).write_bytes(bytes(cv2.imencode(".png", copy)[1]))
    write_shards(RECIPE, source, shards, workers=0)
    (images / target).write_bytes(kept)


def test_different_images_are_not_reported(clean):
    assert verify(clean) == []


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_a_distorted_copy_in_another_split_is_found(source, clean, tmp_path, distort):
    original, target = names_in(clean, "train")[5], names_in(clean, "test")[3]
    plant(source, tmp_path / "shards", original, target, distort)
    first = place_of(tmp_path / "shards", "test", target)
    other = place_of(tmp_path / "shards", "train", original)
    (problem,) = verify(tmp_path / "shards")
    assert problem.startswith(
        f"1 images of test are near-duplicates of images of train, first {first} and {other}: give"
    )
    assert "secret" not in problem
    assert "--near-duplicates false" in problem
    assert verify(tmp_path / "shards", near_duplicates=False) == []


def test_each_pair_of_splits_is_searched_with_any_number_of_processes(source, clean, tmp_path):
    original, target = names_in(clean, "val")[2], names_in(clean, "test")[1]
    plant(source, tmp_path / "shards", original, target, DISTORTIONS["all at once"])
    problems = verify(tmp_path / "shards", workers=0)
    assert [problem.partition(", first")[0] for problem in problems] == [
        "1 images of val are near-duplicates of images of test"
    ]
    assert verify(tmp_path / "shards", workers=1) == problems


def test_copies_within_a_split_are_not_reported(source, clean, tmp_path):
    original, target = names_in(clean, "train")[3], names_in(clean, "train")[20]
    plant(source, tmp_path / "shards", original, target, DISTORTIONS["turned"])
    assert verify(tmp_path / "shards") == []


def test_copies_are_not_reported_if_the_split_is_by_image(source, tmp_path):
    recipe = dataclasses.replace(RECIPE, split=dataclasses.replace(RECIPE.split, by="image"))
    write_shards(recipe, source, tmp_path / "other", workers=0)
    original, target = names_in(tmp_path / "other", "train")[0], names_in(tmp_path / "other", "test")[0]
    kept = (source / "images" / target).read_bytes()
    (source / "images" / target).write_bytes((source / "images" / original).read_bytes())
    manifest = write_shards(recipe, source, tmp_path / "shards", workers=0)
    (source / "images" / target).write_bytes(kept)
    assert verify(tmp_path / "shards") == []
    by_patient = dataclasses.replace(manifest, split_by="patient")
    assert len(find_near_duplicates(tmp_path / "shards", by_patient, 0)) == 1


def test_synthetic_images_are_not_reported_although_they_are_alike(tiny_shards, tmp_path):
    assert verify(tiny_shards) == []
    recipe = dataclasses.replace(load_recipe(RECIPES / "demo.yaml"), demo=Demo(studies=300))
    write_shards(recipe, None, tmp_path / "demo", workers=0)
    assert verify(tmp_path / "demo") == []


@pytest.mark.shared
def test_a_real_image_that_was_published_for_two_patients_is_found(real_data, tmp_path):
    write_shards(load_recipe(RECIPES / "covid_cxr.yaml"), real_data / "covid-cxr", tmp_path / "s", workers=0)
    (problem,) = verify(tmp_path / "s")
    assert problem.startswith("1 images of test are near-duplicates of images of train, first test-00000.tar sample")


@pytest.mark.shared
def test_distorted_real_images_are_found(real_data):
    paths = sorted((real_data / "covid-cxr" / "images").iterdir())[::5]
    images = [ImageFile(path=path).read(256) for path in paths]
    prints = [fingerprint(image) for image in images]
    hashes = np.stack([each.hashes for each in prints])
    for distort in DISTORTIONS.values():
        copies = [fingerprint(distort(image)) for image in images]
        neighbours = nearest_neighbours(np.stack([copy.hashes for copy in copies]), hashes, 4)
        assert all(number in row for number, row in enumerate(neighbours))
        correlations = [correlation(copies[i].thumbnail, prints[i].thumbnail) for i in range(len(images))]
        assert np.mean(np.array(correlations) > 0.85) >= 0.95
