"""What is noticed when manifest.json is edited together with its sha256, and what nothing in the folder can tell.

The sum in the manifest protects from damage and not from an edit: whoever edits it can also compute the sum. Then the
tars and indices still have to agree with the manifest. What stands nowhere else cannot be checked by the shards alone,
but a run that was trained before the edit knows the manifest's sha256, and refuses it.
"""

import dataclasses
from pathlib import Path

import pytest
from bad_files import FLAGS

from cxr_dist.config.file import load_config
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, load_manifest
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.shard.verify import verify


def edited(manifest: Manifest, split: str, **changes: object) -> Manifest:
    """The manifest with other fields of the first shard of a split."""
    entry = manifest.splits[split]
    first = dataclasses.replace(entry.shards[0], **changes)
    splits = manifest.splits | {split: dataclasses.replace(entry, shards=(first, *entry.shards[1:]))}
    return dataclasses.replace(manifest, splits=splits)


def noticed(shards: Path) -> bool:
    try:
        return bool(verify(shards, near_duplicates=False))
    except UserError:
        return True


def with_other_shards(manifest: Manifest, split: str, other: str) -> Manifest:
    """The manifest whose split has the shards of another split."""
    return dataclasses.replace(manifest, splits=manifest.splits | {split: manifest.splits[other]})


NOTICED = {
    "a sample more in a shard": lambda m: edited(m, "train", samples=m.splits["train"].shards[0].samples + 1),
    "a sample less in a shard": lambda m: edited(m, "train", samples=m.splits["train"].shards[0].samples - 1),
    "a byte less in a shard": lambda m: edited(m, "train", bytes=m.splits["train"].shards[0].bytes - 1),
    "another sha256 of a shard": lambda m: edited(m, "val", sha256="0" * 64),
    "another sha256 of an index": lambda m: edited(m, "val", index_sha256="0" * 64),
    "another shard's file": lambda m: edited(m, "train", file=m.splits["train"].shards[1].file),
    "other counts by sampling group": lambda m: edited(m, "train", group_counts=(0,) * len(m.classes)),
    "the classes in another order": lambda m: dataclasses.replace(m, classes=m.classes[::-1]),
    "a class less": lambda m: dataclasses.replace(m, classes=m.classes[:-1]),
    "the training split for test": lambda m: with_other_shards(m, "test", "train"),
    "more samples in a split": lambda m: dataclasses.replace(
        m, splits=m.splits | {"test": dataclasses.replace(m.splits["test"], samples=1 + m.splits["test"].samples)}
    ),
}
NOWHERE_ELSE = {
    "that the images are real": lambda m: dataclasses.replace(m, made_data=False),
    "another reader": lambda m: dataclasses.replace(m, reader="openi"),
    "more images left out": lambda m: dataclasses.replace(m, left_out={"image cannot be read": 9}),
    "a larger short side": lambda m: dataclasses.replace(m, image=m.image | {"short_side": 128}),
    "more rows of the source": lambda m: dataclasses.replace(m, source_rows=10**6),
    "another quality": lambda m: dataclasses.replace(m, image=m.image | {"quality": 100}),
}


@pytest.mark.parametrize("edit", NOTICED)
def test_an_edit_that_the_shards_contradict_is_noticed(shards, tried, edit):
    path = shards / "manifest.json"
    path.write_text(NOTICED[edit](load_manifest(shards)).to_json())
    assert noticed(shards)
    tried(f"{edit} in a manifest, with its sha256", "noticed")


@pytest.mark.parametrize("edit", NOWHERE_ELSE)
def test_what_stands_nowhere_else_is_noticed_by_a_run_alone(shards, run_copy, edit):
    path = shards / "manifest.json"
    path.write_text(NOWHERE_ELSE[edit](load_manifest(shards)).to_json())
    assert verify(shards, near_duplicates=False) == []
    assert load_config(run_copy / "config.yaml").data.shards != str(shards)
    with pytest.raises(UserError, match="are not those that the run was trained on"):
        evaluate_runs([run_copy], run_copy, "test", McDropout(), str(shards))


def test_a_run_is_not_resumed_with_an_edited_manifest(shards, run_copy, cxr_dist, tried):
    path = shards / "manifest.json"
    path.write_text(dataclasses.replace(load_manifest(shards), made_data=False).to_json())
    status, _, err = cxr_dist("train", "demo", "--data.shards", shards, *FLAGS, "--out", run_copy)
    assert status == 2
    assert "other shards" in err
    tried("an edited manifest for a run that is resumed", "refused in one line")
