"""Shards are staged only where this was requested, in a folder to which only their user has access."""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from shard_server import serving

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import at, open_store, own_place, shards_folder, stage_root
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import load_manifest


@pytest.fixture
def other_disk():
    """A folder that is not on the file system of the temporary folder."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(tempfile.gettempdir()).st_dev:
        pytest.skip("needs /dev/shm as a second file system")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_is_staged_only_on_request(tmp_path, other_disk):
    shards = DataConfig(shards=str(tmp_path))
    assert stage_root(shards, {}) is None
    assert stage_root(shards, {"TMPDIR": str(other_disk)}) is None
    assert stage_root(shards, {"SLURM_TMPDIR": str(other_disk)}) == other_disk
    assert stage_root(shards, {"SLURM_TMPDIR": str(tmp_path)}) is None  # the shards are already on that disk
    requested = DataConfig(shards=str(tmp_path), stage_dir=str(tmp_path / "disk"))
    assert stage_root(requested, {"SLURM_TMPDIR": str(other_disk)}) == tmp_path / "disk"
    assert stage_root(DataConfig(shards=str(tmp_path), stage_dir="none"), {"SLURM_TMPDIR": "/x"}) is None


def test_a_url_is_always_staged():
    shards = DataConfig(shards="s3://bucket/shards")
    assert stage_root(shards, {}) == Path(tempfile.gettempdir())
    assert stage_root(shards, {"TMPDIR": "/t"}) == Path("/t")
    assert stage_root(shards, {"TMPDIR": "/t", "SLURM_TMPDIR": "/s"}) == Path("/s")
    never = DataConfig(shards="s3://bucket/shards", stage_dir="none")
    with pytest.raises(UserError, match="at a URL can only be read from staged copies"):
        stage_root(never, {})


def test_reading_elsewhere_drops_the_training_jobs_staging_folder():
    trained = DataConfig(shards="s3://bucket/shards", stage_dir="/job/123")
    assert at(trained, None) == DataConfig(shards="s3://bucket/shards")
    assert at(trained, "s3://other/shards") == DataConfig(shards="s3://other/shards")


def test_the_staging_folder_is_private_and_each_data_set_has_its_own(tiny_shards, tmp_path):
    data = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path / "disk"))
    manifest = load_manifest(tiny_shards)
    folder = open_store(data, manifest, "train").folder
    assert folder.parent.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    other = shutil.copytree(tiny_shards, tmp_path / "other")
    changed = dataclasses.replace(manifest, source_rows=manifest.source_rows + 1)
    (other / "manifest.json").write_text(changed.to_json())
    again = DataConfig(shards=str(other), stage_dir=str(tmp_path / "disk"))
    assert open_store(again, load_manifest(other), "train").folder != folder


def test_a_limit_must_hold_the_largest_shard(tiny_shards, tmp_path):
    manifest = load_manifest(tiny_shards)
    largest = max(shard.bytes for shard in manifest.split("train").shards)
    data = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path), stage_gib=largest / 2**30)
    open_store(data, manifest, "train").close()
    smaller = dataclasses.replace(data, stage_gib=(largest - 1) / 2**30)
    with pytest.raises(UserError, match=rf"does not hold one shard: train-\d+\.tar has {largest / 2**30:.3g} GiB"):
        open_store(smaller, manifest, "train")


def test_shards_that_moved_are_read_where_the_manifest_of_training_lies(tiny_shards, tmp_path):
    trained = DataConfig(shards=str(tiny_shards), stage_dir="/job/123")
    sha256 = sha256_of(tiny_shards / "manifest.json")
    copy = str(shutil.copytree(tiny_shards, tmp_path / "copy"))
    assert own_place(trained, copy, sha256) == DataConfig(shards=copy)
    assert own_place(trained, copy, "0" * 64) == DataConfig(shards=str(tiny_shards))
    assert own_place(trained, str(tmp_path / "nowhere"), sha256) == DataConfig(shards=str(tiny_shards))
    assert own_place(trained, None, sha256) == DataConfig(shards=str(tiny_shards))


def test_a_folder_that_others_can_enter_or_that_cannot_be_created_is_refused(tiny_shards, tmp_path):
    data = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path))
    own = tmp_path / f"cxr_dist-{os.getuid()}"
    own.mkdir(mode=0o755)
    with pytest.raises(UserError, match=r"is not a folder that only you can enter \(mode 0700\): remove it"):
        open_store(data, load_manifest(tiny_shards), "train")
    own.rmdir()
    own.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    with pytest.raises(UserError, match="is not a folder that only you can enter"):
        open_store(data, load_manifest(tiny_shards), "train")
    (tmp_path / "file").touch()
    data = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be created \(Not a directory\): choose another folder .--data"):
        open_store(data, load_manifest(tiny_shards), "train")


def test_a_url_with_a_secret_is_refused_without_repeating_it():
    for url in ("https://host/shards?sig=s3cret", "https://me:s3cret@host/shards"):
        with pytest.raises(UserError, match=r"data\.shards is a URL with a query or a user name") as caught:
            DataConfig(shards=url)
        assert "s3cret" not in str(caught.value)
    assert DataConfig(shards="s3://bucket/me@home/shards").shards


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (
            "gs://bucket/shards",
            r"reading gs:// needs another library: pip install 'cxr_dist\[remote\]' installs those",
        ),
        ("nonsense://x", r"^the shards at nonsense:// cannot be opened \(ValueError\)"),
    ],
)
def test_a_kind_of_url_that_cannot_be_read_is_named(shards, message, tmp_path):
    with pytest.raises(UserError, match=message):
        shards_folder(DataConfig(shards=shards, stage_dir=str(tmp_path)))


def test_the_manifest_of_a_url_lies_in_the_staging_folder_of_its_data_set(tiny_shards, tmp_path):
    with serving(tiny_shards) as server:
        data = DataConfig(shards=server.http, stage_dir=str(tmp_path / "disk"))
        folder = shards_folder(data)
        assert (folder / "manifest.json").read_bytes() == (tiny_shards / "manifest.json").read_bytes()
        assert folder == shards_folder(data)
        assert folder.parent.parent == tmp_path / "disk"
        assert open_store(data, load_manifest(folder), "train").folder == folder
    never = DataConfig(shards=str(tiny_shards), stage_dir=str(tmp_path / "disk"))
    assert shards_folder(never) == tiny_shards
