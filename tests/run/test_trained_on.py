"""A run folder records what it was trained on, so that it is used after its shards are gone."""

import dataclasses
import json
import shutil

import pytest

from cxr_dist.config.file import load_config
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run.folder import check_same_run, with_recorded_class_weights
from cxr_dist.run.trained_on import TrainedOn, read_trained_on
from cxr_dist.train.assembly import parts_of, prepare_run_folder


@pytest.fixture
def config(tiny_config: Config, tiny_shards, tmp_path) -> Config:
    """A weighted run on a copy of the tiny shards, prepared and not trained."""
    shutil.copytree(tiny_shards, tmp_path / "shards")
    loss = dataclasses.replace(tiny_config.loss, class_weights="original")
    data = dataclasses.replace(tiny_config.data, shards=str(tmp_path / "shards"))
    config = dataclasses.replace(tiny_config, data=data, loss=loss)
    prepare_run_folder(config, load_manifest(tmp_path / "shards"), World())
    return config


def test_the_facts_are_those_of_the_manifest_and_need_no_shards(config, tmp_path):
    manifest = load_manifest(tmp_path / "shards")
    shutil.rmtree(tmp_path / "shards")
    facts = read_trained_on(config.run_dir, load_config(config.run_dir / "config.yaml"))
    assert (facts.task, facts.classes, facts.image) == (manifest.task, manifest.classes, manifest.image)
    assert (facts.text_sections, facts.section_rules) == (manifest.text_sections, "")
    assert facts.made_data
    assert list(facts.prior_shift) == list(facts.class_weights) == list(manifest.classes)
    assert max(facts.prior_shift.values()) > 0.5
    redacted = dataclasses.replace(manifest, recipe=manifest.recipe | {"redact": ["edema"]})
    assert (facts.redact, TrainedOn.of(config, redacted, "").redact) == ((), ("edema",))


def test_a_run_of_an_earlier_version_reads_its_shards(config, tmp_path):
    facts = read_trained_on(config.run_dir, config)
    (config.run_dir / "trained_on.json").unlink()
    assert read_trained_on(config.run_dir, config) == facts
    shutil.rmtree(tmp_path / "shards")
    with pytest.raises(UserError, match=r"holds no shards: put them back there"):
        read_trained_on(config.run_dir, config)


def test_a_record_of_other_shards_is_not_used(config, tmp_path):
    sha256 = sha256_of(tmp_path / "shards" / "manifest.json")
    path = config.run_dir / "trained_on.json"
    path.write_text(path.read_text().replace(sha256, "0" * 64))
    assert read_trained_on(config.run_dir, config, sha256).manifest_sha256 == sha256


def test_the_loss_has_the_recorded_class_weights(config, tmp_path):
    parts = parts_of(config, load_manifest(tmp_path / "shards"), World())
    parts.trackers.close()
    weights = parts.step.loss.class_weights
    facts = TrainedOn.of(config, load_manifest(tmp_path / "shards"), "")
    assert weights.tolist() == list(facts.class_weights.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r"trained_on\.json in .* has format version 2; this release reads version 1"),
        ({"format": "other"}, r"trained_on\.json in .* is not what `cxr-dist train` wrote"),
        ({"facts": {}}, r"trained_on\.json: facts\.task is missing"),
    ],
)
def test_a_damaged_or_newer_file_is_refused(config, change, message):
    path = config.run_dir / "trained_on.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_trained_on(config.run_dir, config)


def test_balanced_weights_of_an_earlier_version_are_original_ones_and_the_same_command_resumes(config):
    """The earlier version wrote no trained_on.json, and has trained if there are checkpoints."""
    balanced = dataclasses.replace(config, loss=dataclasses.replace(config.loss, class_weights="balanced"))
    path = config.run_dir / "config.yaml"
    path.write_text(path.read_text().replace("class_weights: original", "class_weights: balanced"))
    assert load_config(path).loss.class_weights == "balanced"
    assert with_recorded_class_weights(balanced) == balanced
    (config.run_dir / "checkpoints").mkdir()
    assert load_config(path).loss.class_weights == "balanced"
    (config.run_dir / "trained_on.json").unlink()
    assert load_config(path).loss.class_weights == "original"
    resumed = with_recorded_class_weights(balanced)
    assert resumed == config
    check_same_run(config.run_dir, resumed)
    path.write_text(path.read_text().replace("sampling: weighted", "sampling: uniform"))
    assert load_config(path).loss.class_weights == "balanced"
