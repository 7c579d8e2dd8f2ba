"""A folder of images and a table become shards that any WebDataset reader can read, or one clear error."""

import dataclasses
import io
import json
import stat
from pathlib import Path

import pytest
import webdataset
from PIL import Image
from rich.console import Console
from table_source import contents, make_source, source_names, table_recipe, write_image

from cxr_dist.errors import UserError
from cxr_dist.format.image import ImageFile, encode_jpeg
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.shard.recipe import ImageFormat, Labels
from cxr_dist.shard.summary import print_summary
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "shards"


def test_any_webdataset_reader_gets_every_image_with_its_report(source, out):
    manifest = write_shards(table_recipe(), source, out, workers=0)
    urls = [str(out / shard.file) for split in manifest.splits.values() for shard in split.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None, empty_check=False))
    names = source_names(out)
    assert sorted(names[sample["__key__"]] for sample in samples) == sorted(
        p.name for p in (source / "images").iterdir()
    )
    for sample in samples:
        name = names[sample["__key__"]]
        patient = int(name.split("-")[1])
        content = json.loads(sample["json"])
        assert content["label"] == patient % 2
        assert content["view"] == "PA"
        assert content["text"] == {"notes": f"Report {patient} says ü."}
        assert sample["jpg"] == encode_jpeg(ImageFile(path=source / "images" / name).read(16), 92)
        assert Image.open(io.BytesIO(sample["jpg"])).size == (21, 16)


def test_the_index_locates_each_sample_without_parsing_the_tar(source, out):
    manifest = write_shards(table_recipe(), source, out, workers=0)
    for split in manifest.splits.values():
        for shard in split.shards:
            tar = (out / shard.file).read_bytes()
            for record in open_index(out, shard, 1):
                content = json.loads(tar[record["json_offset"] :][: record["json_size"]])
                assert (content["label"],) == tuple(record["label"]) == (record["group"],)
                assert content["patient"].encode() == record["patient"]
                assert tar[record["jpg_offset"] :].startswith(b"\xff\xd8")


def test_the_same_input_gives_the_same_bytes_at_any_number_of_workers(source, tmp_path):
    folders = []
    for workers in (0, 1, 2, 3):
        write_shards(table_recipe(), source, tmp_path / str(workers), workers=workers)
        folders.append(contents(tmp_path / str(workers)))
    assert len(folders[0]) > 8
    assert all(other == folders[0] for other in folders)


def test_the_order_of_rows_does_not_matter(source, tmp_path):
    write_shards(table_recipe(), source, tmp_path / "a", workers=0)
    header, *rows = (source / "films.csv").read_text().splitlines(keepends=True)
    (source / "films.csv").write_text(header + "".join(reversed(rows)))
    write_shards(table_recipe(), source, tmp_path / "b", workers=0)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_source_names_and_patient_ids_are_only_in_the_private_key_list(source, out):
    write_shards(table_recipe(), source, out, workers=0)
    assert stat.S_IMODE((out / "keys.csv").stat().st_mode) == 0o600
    for path in out.iterdir():
        if path.name != "keys.csv":
            assert b"secret.film" not in path.read_bytes()
            assert b"MRN0" not in path.read_bytes()


def test_the_manifest_has_the_counts_of_the_table(source, out):
    manifest = write_shards(table_recipe(), source, out, workers=0)
    assert load_manifest(out) == manifest
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 48,
        "val": 16,
        "test": 16,
    }
    assert manifest.splits["train"].label_counts["Sick"] == {"positive": 24, "negative": 24, "unknown": 0}
    assert manifest.splits["train"].patients == 24
    assert [shard.samples for shard in manifest.splits["train"].shards] == [16, 16, 16]
    assert (manifest.source_rows, manifest.left_out) == (80, {})


def test_a_second_run_returns_the_manifest_and_other_input_is_refused(source, out):
    manifest = write_shards(table_recipe(), source, out, workers=0)
    before = contents(out)
    assert write_shards(table_recipe(), source, out, workers=0) == manifest
    with pytest.raises(UserError, match=r"another recipe \(it differs in: image\)"):
        write_shards(table_recipe(image=ImageFormat(short_side=12)), source, out, workers=0)
    table = source / "films.csv"
    table.write_text(table.read_text().replace("Report 7 ", "Addendum 7 "))
    with pytest.raises(UserError, match="made from other rows"):
        write_shards(table_recipe(), source, out, workers=0)
    assert contents(out) == before


def test_a_folder_with_other_files_is_refused_and_kept(source, out):
    out.mkdir()
    (out / "train-00000.tar").write_text("another file")
    with pytest.raises(UserError, match=r"holds files, but no manifest\.json"):
        write_shards(table_recipe(), source, out, workers=0)
    assert [path.read_text() for path in out.iterdir()] == ["another file"]


def test_the_leftovers_of_a_failed_run_are_replaced(source, out, tmp_path):
    write_shards(table_recipe(), source, tmp_path / "whole", workers=0)
    (source / "images" / "secret.film-3-0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="image not readable 1"):
        write_shards(table_recipe(shard=table_recipe().shard), source, out, workers=0)
    assert not (out / "manifest.json").exists()
    (out / "train-00099.tar").write_text("of an older attempt")
    write_image(source / "images" / "secret.film-3-0.png", seed=6)
    write_shards(table_recipe(), source, out, workers=0)
    assert contents(out) == contents(tmp_path / "whole")


def test_failures_are_counted_by_reason_and_stop_the_run_above_the_limit(source, out):
    (source / "images" / "secret.film-0-0.png").write_bytes(b"no image")
    (source / "images" / "secret.film-1-0.png").unlink()
    table = source / "films.csv"
    table.write_text(table.read_text().replace("secret.film-2-0.png,MRN0002", "secret.film-2-0.png,"))
    message = r"at least 1 of 80 images failed \(no patient or study id 1\); 1.00% may be left out"
    with pytest.raises(UserError, match=message):
        write_shards(table_recipe(), source, out, workers=0)
    manifest = write_shards(table_recipe(), source, out, workers=2, allow_left_out=0.05)
    assert manifest.left_out == {
        "image file missing": 1,
        "image not readable": 1,
        "no patient or study id": 1,
    }
    assert sum(split.samples for split in manifest.splits.values()) == 77
    assert manifest.source_rows == 80
    assert verify(out) == []


def test_exclusions_by_the_recipe_are_counted_and_do_not_stop_the_run(source, out):
    table = source / "films.csv"
    table.write_text(
        table.read_text().replace("MRN0000,sick", "MRN0000,todo").replace("MRN0001,well,PA", "MRN0001,well,CT")
    )
    recipe = table_recipe(
        where={"view": ("PA",)}, labels=Labels(classes={"Sick": ("sick",), "Well": ("*",)}, drop=("todo",))
    )  # fmt: skip
    manifest = write_shards(recipe, source, out, workers=0)
    assert manifest.left_out == {
        "not selected by the recipe's where": 2,
        "label value dropped by the recipe": 2,
    }


def test_a_full_disk_leaves_only_whole_files(source, full_disk):
    recipe = table_recipe(
        image=ImageFormat(short_side=4096, quality=100),
        shard=dataclasses.replace(table_recipe().shard, samples=4),
    )
    for path in (source / "images").iterdir():
        write_image(path, seed=1, side=128)
    with pytest.raises(UserError, match=r"no space left to write train-\d+\.tar: free some"):
        write_shards(recipe, source, full_disk, workers=0)
    written = sorted(path.name for path in full_disk.iterdir())
    assert "manifest.json" not in written
    assert not [name for name in written if name.endswith(".partial")]
    assert [name for name in written if name.endswith(".tar")]
    for path in full_disk.glob("*.tar"):
        assert len(list(webdataset.WebDataset(str(path), shardshuffle=False))) == 4


def test_the_summary_says_what_was_left_out_and_why(source, out):
    (source / "images" / "secret.film-0-0.png").unlink()
    manifest = write_shards(table_recipe(), source, out, workers=0, allow_left_out=0.02)
    sick = manifest.splits["train"].label_counts["Sick"]["positive"]
    console = Console(file=io.StringIO(), width=100)
    print_summary(manifest, console)
    lines = console.file.getvalue().splitlines()
    assert any("Sick" in line and str(sick) in line for line in lines)
    assert any("image file missing" in line and "failed" in line and "1" in line for line in lines)
    assert any("Left out: 1 of 80 rows" in line for line in lines)
