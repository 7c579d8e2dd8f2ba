"""An image file under several names is one image, and its patients are one patient."""

import csv
import os
import subprocess
from collections import defaultdict

import pytest
from table_source import make_source, source_names, table_recipe, write_rows

from cxr_dist.format.image import ImageFile
from cxr_dist.format.manifest import open_index
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.record import Record
from cxr_dist.shard.same_files import with_one_id_per_file
from cxr_dist.shard.write import write_shards


def record(path, name):
    return Record(source_id=name, image_id=name, study="", patient="", values=(), text={}, pixels=ImageFile(path=path))


def spellings(images, name):
    """Other names of an image: longer paths, links, and an absolute path."""
    (images / f"link-{name}").symlink_to(name)
    os.link(images / name, images / f"hard-{name}")
    if not (images / "folder").exists():
        (images / "folder").symlink_to(".")
    names = [f"./{name}", f"x/../{name}", f"folder//{name}", f"link-{name}", f"hard-{name}", str(images / name)]
    return [*names, name]


def test_no_spelling_puts_an_image_into_two_splits(tmp_path):
    source, out = make_source(tmp_path / "source", patients=60, films=1), tmp_path / "shards"
    header, *rows = list(csv.reader((source / "films.csv").open()))
    for number in range(0, 60, 2):  # one class, so that the two patients agree
        names = spellings(source / "images", rows[number][0])
        rows.append([names[number // 2 % len(names)], f"TWIN{number}", *rows[number][2:]])
    write_rows(source / "films.csv", header, rows)
    manifest = write_shards(table_recipe(), source, out, workers=0)
    assert sum(split.samples for split in manifest.splits.values()) == 90
    assert sum(split.patients for split in manifest.splits.values()) == 60
    splits = defaultdict(set)
    for name, split in manifest.splits.items():
        for shard in split.shards:
            for key in open_index(out, shard, 1)["key"]:
                row = source_names(out)[key.decode()].partition("#")[0]
                splits[os.stat(os.path.normpath(source / "images" / row)).st_ino].add(name)
    assert {len(names) for names in splits.values()} == {1}
    assert len(splits) == 60


def test_equal_copies_and_missing_files_keep_their_own_ids(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    paths = [tmp_path / name for name in ("a", "b", "absent", "nul\0", "absent")]
    records = [record(path, f"{number}") for number, path in enumerate(paths)]
    assert with_one_id_per_file(records) == records
    assert with_one_id_per_file([]) == []


def test_the_first_of_many_records_gives_the_id(tmp_path):
    (tmp_path / "a").touch()
    records = [record(tmp_path / ("a" if number % 1500 == 7 else "absent"), f"{number}") for number in range(4000)]
    found = with_one_id_per_file(records)
    assert [one.image_id for one in found if one.pixels.path.name == "a"] == ["7", "7", "7"]


def test_names_that_differ_in_case_are_one_image_where_the_file_system_says_so(tmp_path):
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    disk.write_bytes(bytes(2**21))
    made = subprocess.run(["mkfs.vfat", disk], capture_output=True).returncode if _has("mkfs.vfat") else 1
    if made or subprocess.run(["mount", "-o", "loop", disk, mounted], capture_output=True).returncode:
        pytest.skip("no file system without case: needs mkfs.vfat, and root to mount it")
    try:
        (mounted / "film.png").touch()
        names = ("film.png", "FILM.PNG")
        assert {one.image_id for one in with_one_id_per_file([record(mounted / n, n) for n in names])} == {"film.png"}
    finally:
        subprocess.run(["umount", mounted], check=True)


def _has(command):
    return subprocess.run(["which", command], capture_output=True).returncode == 0


def test_read_source_uses_it(tmp_path):
    source = make_source(tmp_path / "source", patients=3, films=1)
    rows = [[f"{dots}secret.film-0-0.png", f"P{i}", "sick", "PA", ""] for i, dots in enumerate(("", "./", "././"))]
    write_rows(source / "films.csv", ["file", "mrn", "label", "view", "notes"], rows)
    records = read_source(table_recipe(), source).records
    assert len({one.image_id for one in records}) == 1
    assert len({one.source_id for one in records}) == 3
