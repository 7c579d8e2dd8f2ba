"""A shard folder that is written by several runs or in parts has the same bytes as one written by a single run."""

import json
import os
import shutil
from pathlib import Path

import pytest
from table_source import contents, make_source, table_recipe, write_image

from cxr_dist.errors import UserError
from cxr_dist.shard.deal import plan_shards
from cxr_dist.shard.output_folder import UNFINISHED
from cxr_dist.shard.recipe import ImageFormat
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import Fill, write_part, write_planned, write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "shards"


class Killed(Exception):
    """Raised in place of killing the process."""


def killed_after(num_shards: int) -> Fill:
    """Return a `fill` that writes the first `num_shards` of the missing shards and then fails."""

    def fill(plan, out, shards, limit):
        write_planned(plan, out, shards[:num_shards], limit, workers=0)
        raise Killed

    return fill


def test_a_run_killed_after_any_shard_continues_to_the_same_bytes(source, out, tmp_path):
    recipe = table_recipe()
    write_shards(recipe, source, tmp_path / "whole", workers=0)
    expected = contents(tmp_path / "whole")
    plan = plan_shards(recipe, source)
    for written in range(len(plan.shards) + 1):
        with pytest.raises(Killed):
            write_shards(recipe, source, out, workers=0, fill=killed_after(written))
        (out / ".val-00000.tar.1.partial").write_bytes(b"half a shard")
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
        assert len(before) == written
        write_shards(recipe, source, out, workers=0)
        assert contents(out) == expected
        assert {name: (out / name).stat().st_mtime_ns for name in before} == before  # the shards were kept
        shutil.rmtree(out)


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "missing",
        "index missing",
        "receipt of another plan",
        "receipt truncated",
        "receipt of another format",
    ],
)
def test_a_shard_that_does_not_match_its_receipt_is_written_again(source, out, tmp_path, damage):
    write_shards(table_recipe(), source, tmp_path / "whole", workers=0)
    with pytest.raises(Killed):
        write_shards(table_recipe(), source, out, workers=0, fill=killed_after(2))
    tar, receipt = out / "train-00001.tar", out / UNFINISHED / "train-00001.json"
    if damage == "truncated":
        os.truncate(tar, 1024)
    elif damage == "receipt of another plan":
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"plan": "another"}))
    elif damage == "receipt of another format":
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"entry": {"file": "train-00001.tar"}}))
    elif damage == "receipt truncated":
        receipt.write_text(receipt.read_text()[:40])
    else:
        (tar if damage == "missing" else out / "train-00001.index.npy").unlink()
    write_shards(table_recipe(), source, out, workers=0)
    assert contents(out) == contents(tmp_path / "whole")


def test_shards_of_an_interrupted_run_with_another_recipe_are_not_kept(source, out, tmp_path):
    with pytest.raises(Killed):
        write_shards(table_recipe(), source, out, workers=0, fill=killed_after(3))
    smaller = table_recipe(image=ImageFormat(short_side=12))
    write_shards(smaller, source, out, workers=0)
    write_shards(smaller, source, tmp_path / "whole", workers=0)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("repaired", [False, True])
def test_images_that_failed_before_an_interruption_are_tried_again(source, out, tmp_path, repaired):
    image = source / "images" / "secret.film-3-0.png"
    image.write_bytes(b"broken")
    with pytest.raises(Killed):
        write_shards(table_recipe(), source, out, workers=0, allow_left_out=0.1, fill=killed_after(5))
    if repaired:
        write_image(image, seed=6)
    manifest = write_shards(table_recipe(), source, out, workers=0, allow_left_out=0.1)
    assert manifest.left_out == ({} if repaired else {"image not readable": 1})
    write_shards(table_recipe(), source, tmp_path / "whole", workers=0, allow_left_out=0.1)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_unreadable_image_moves_no_other_and_an_empty_shard_leaves_a_gap(source, tmp_path):
    recipe = table_recipe()
    write_shards(recipe, source, tmp_path / "whole", workers=0)
    plan = plan_shards(recipe, source)
    second = plan.shards[1]
    for sample in (*second.samples, plan.shards[0].samples[3]):
        sample.images[0].pixels.path.write_bytes(b"no image")
    manifest = write_shards(recipe, source, tmp_path / "gap", workers=0, allow_left_out=0.5)
    names = [shard.file for shard in manifest.splits["train"].shards]
    assert names == ["train-00000.tar", "train-00002.tar"]
    assert [shard.samples for shard in manifest.splits["train"].shards] == [15, 16]
    assert manifest.left_out == {"image not readable": 17}
    whole, gap = contents(tmp_path / "whole"), contents(tmp_path / "gap")
    assert {name for name in whole if gap.get(name) != whole[name]} == {
        "keys.csv", "manifest.json", "train-00000.tar", "train-00000.index.npy", "train-00001.tar",
        "train-00001.index.npy",
    }  # fmt: skip
    assert verify(tmp_path / "gap") == []


def test_parts_written_in_any_order_give_the_bytes_of_one_run(source, out, tmp_path):
    recipe = table_recipe()
    (source / "images" / "secret.film-3-0.png").write_bytes(b"broken")
    write_shards(recipe, source, tmp_path / "whole", workers=0, allow_left_out=0.1)

    def in_parts(plan, folder, shards, limit):
        for number in (2, 0, 1):
            stems = [shard.stem for shard in shards][number::3]
            write_part(recipe, source, folder, identity=plan.identity, stems=stems, workers=0, allow_left_out=0.1)

    write_shards(recipe, source, out, workers=0, allow_left_out=0.1, fill=in_parts)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_part_is_refused_if_the_rows_have_changed(source, out):
    identity = plan_shards(table_recipe(), source).identity
    table = source / "films.csv"
    table.write_text(table.read_text().replace("Report 7 ", "Addendum 7 "))
    out.mkdir()
    with pytest.raises(UserError, match="have changed since the job was submitted"):
        write_part(table_recipe(), source, out, identity=identity, stems=["train-00000"], workers=0, allow_left_out=0)
    assert list(out.iterdir()) == []
