"""verify finds every kind of damage to a shard folder, and reports nothing for an undamaged one."""

import dataclasses
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from table_source import make_source, table_recipe

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, load_manifest, open_index
from cxr_dist.shard.recipe import Split
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_shards(table_recipe(), make_source(folder / "source"), folder / "shards", workers=0)
    return folder / "shards"


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "shards"))


def rewrite_index(shards: Path, name: str, change) -> None:
    """Change an index, and update the manifest to match."""
    manifest = load_manifest(shards)
    split, number = name.split("-")
    shard = manifest.splits[split].shards[int(number)]
    index = np.array(open_index(shards, shard, 1))
    change(index)
    buffer = io.BytesIO()
    np.save(buffer, index)
    (shards / shard.index).write_bytes(buffer.getvalue())
    entry = dataclasses.replace(shard, index_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    entries = list(manifest.splits[split].shards)
    entries[int(number)] = entry
    splits = manifest.splits | {split: dataclasses.replace(manifest.splits[split], shards=tuple(entries))}
    (shards / "manifest.json").write_text(dataclasses.replace(manifest, splits=splits).to_json())


def test_an_undamaged_folder_has_no_problem(whole):
    assert verify(whole) == []


def test_a_flipped_bit_is_found_and_its_sample_named(shards):
    manifest = load_manifest(shards)
    record = open_index(shards, manifest.splits["train"].shards[1], 1)[5]
    tar = bytearray((shards / "train-00001.tar").read_bytes())
    tar[int(record["jpg_offset"]) + 40] ^= 1
    (shards / "train-00001.tar").write_bytes(tar)
    assert verify(shards) == [
        "train-00001.tar: sha256 differs from the manifest's",
        "train-00001.tar: 1 of 16 samples, first sample 5, does not have the bytes that were written (crc32)",
    ]


@pytest.mark.parametrize("blocks", [10, 1, 7])
def test_a_truncated_tar_is_found(shards, blocks):
    tar = (shards / "val-00000.tar").read_bytes()
    (shards / "val-00000.tar").write_bytes(tar[: blocks * 512])
    problems = "\n".join(verify(shards))
    assert f"val-00000.tar: {blocks * 512} bytes, the manifest says {len(tar)}" in problems
    assert "val-00000.tar: sha256 differs" in problems
    assert "does not have the bytes that were written (crc32)" in problems


def test_a_tar_with_other_members_is_found(shards):
    with tarfile.open(shards / "val-00000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("other.jpg"))
    assert "val-00000.tar: 1 members, the index says 32" in verify(shards)


@pytest.mark.parametrize("name", ["test-00000.tar", "test-00000.index.npy"])
def test_a_missing_file_is_found(shards, name):
    (shards / name).unlink()
    assert any(problem.startswith(f"{name}: missing") for problem in verify(shards))


def test_a_tar_that_the_manifest_does_not_list_is_found(shards):
    shutil.copy(shards / "train-00000.tar", shards / "train-00009.tar")
    assert verify(shards) == ["train-00009.tar: not in the manifest"]


def test_a_changed_index_is_found(shards):
    path = shards / "test-00000.index.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert "test-00000.index.npy: sha256 differs from the manifest's" in verify(shards)


def test_a_patient_in_two_splits_is_found(shards):
    patient = open_index(shards, load_manifest(shards).splits["train"].shards[0], 1)[0]["patient"]
    rewrite_index(shards, "test-0", lambda index: index["patient"].__setitem__(0, patient))
    assert "1 patients in both test and train" in verify(shards)


def test_a_key_used_twice_is_found(shards):
    key = open_index(shards, load_manifest(shards).splits["train"].shards[0], 1)[0]["key"]
    rewrite_index(shards, "val-0", lambda index: index["key"].__setitem__(3, key))
    problems = verify(shards)
    assert "1 keys are used more than once" in problems
    assert "val-00000.tar: the index does not fit the tar, first at sample 3" in problems


def test_labels_and_groups_that_do_not_add_up_are_found(shards):
    def relabel(index: np.ndarray) -> None:
        index["label"][0] = 1 - index["label"][0]
        index["group"][0] = 1 - index["group"][0]

    rewrite_index(shards, "train-2", relabel)
    problems = verify(shards)
    assert "train-00002.index.npy: samples per sampling group differ from the manifest's" in problems
    assert "train: label counts of class 'Sick' differ from the manifest's" in problems


def test_counts_in_the_manifest_are_checked(shards):
    manifest = load_manifest(shards)
    wrong = dataclasses.replace(manifest.splits["val"], samples=17, patients=3)
    changed: Manifest = dataclasses.replace(manifest, splits=manifest.splits | {"val": wrong})
    (shards / "manifest.json").write_text(changed.to_json())
    assert verify(shards) == [
        "val: the samples of its shards do not add up to 17",
        "val: 8 patients, the manifest says 3",
    ]


def test_a_patient_may_be_in_two_splits_if_the_split_is_by_image(tmp_path):
    recipe = table_recipe(split=dataclasses.replace(table_recipe().split, by="image"))
    manifest = write_shards(recipe, make_source(tmp_path / "source"), tmp_path / "shards", workers=0)
    assert sum(split.patients for split in manifest.splits.values()) > 40
    assert verify(tmp_path / "shards") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"format_version": 2', '"format_version": 99'), "has format version 99; this"),
        (lambda text: text[: len(text) // 2], r"manifest.json is not JSON \(line \d+\)"),
        (lambda text: text.replace("cxr_dist shards", "other shards"), "is not a manifest of cxr_dist shards"),
        (lambda text: text.replace('"reader"', '"writer"'), "does not have the bytes that were written"),
    ],
)  # fmt: skip
def test_a_manifest_of_another_format_or_with_damage_is_refused(shards, change, message):
    path = shards / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        verify(shards)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json in"):
        verify(tmp_path)


def test_a_patient_in_two_folds_is_found(tmp_path):
    recipe = table_recipe(split=Split(folds=4))
    write_shards(recipe, make_source(tmp_path / "source"), tmp_path / "shards", workers=0)
    shards = tmp_path / "shards"
    patient = open_index(shards, load_manifest(shards).splits["fold1"].shards[0], 1)[0]["patient"]
    rewrite_index(shards, "fold3-0", lambda index: index["patient"].__setitem__(0, patient))
    assert "1 patients in both fold1 and fold3" in verify(shards)
