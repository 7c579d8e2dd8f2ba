"""`--model.init-from`: a run starts with the encoders of another, records which, and counts patients seen there."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from made_shards import write_other_shards
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.data.place import open_manifest
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.leakage import patients_in_training
from cxr_dist.files import sha256_of
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import new_model, prepare_run_folder, train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.started_from import started_from_lines


@pytest.fixture(scope="module")
def pretrained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of contrastive pretraining, two steps long."""
    run, out = named_run("demo-pretrain"), tmp_path_factory.mktemp("pretrained") / "reads"
    small = {"global_batch": 16, "micro_batch": 4, "image_size": 64, "max_tokens": 32, "shards": str(tiny_shards)}
    config = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, **small),
        train=dataclasses.replace(run.train, max_steps=2),
        out=str(out),
    )
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    return out


def started(config: Config, source: Path, **model: object) -> Config:
    settings = dataclasses.replace(config.train, max_steps=2, save_every=1)
    network = dataclasses.replace(config.model, init_from=str(source), **model)
    return dataclasses.replace(config, model=network, train=settings)


@pytest.mark.parametrize("mode", ["image", "text", "fused"])
def test_a_run_starts_with_the_encoders_of_the_other(tiny_config: Config, pretrained: Path, mode: str) -> None:
    config, manifest = started(tiny_config, pretrained, mode=mode), open_manifest(tiny_config.data)
    prepare_run_folder(config, manifest, World())
    model = new_model(config, manifest, config.run_dir, World().device)
    theirs = load_file((pretrained / "best").resolve() / "model.safetensors")
    state = model.state_dict()
    shared = [name for name in state if name.startswith(("image.", "text."))]
    assert {name.partition(".")[0] for name in shared} == {"image", "text"} if mode == "fused" else {mode}
    assert all(state[name].equal(theirs[name]) for name in shared)
    record = json.loads((config.run_dir / "started_from.json").read_text())
    assert record["manifest_sha256"] == sha256_of(Path(config.data.shards) / "manifest.json")
    assert record["checkpoint_sha256"] == sha256_of((pretrained / "best").resolve() / "model.safetensors")
    assert record["folder"] == "reads"
    assert record["patients_of_its_training"] == {"val": 0, "test": 0}
    if mode != "image":
        tokenizer = "text_encoder/tokenizer.json"
        assert (config.run_dir / tokenizer).read_bytes() == (pretrained / tokenizer).read_bytes()


def test_the_other_run_is_not_needed_after_the_first_checkpoint(
    tiny_config: Config, pretrained: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(pretrained, moved, symlinks=True)
    config = started(tiny_config, moved, mode="image")
    stopped = dataclasses.replace(config, train=dataclasses.replace(config.train, max_minutes=1e-4))
    assert train(stopped, StopRequest(1e-4)) is Outcome.STOPPED
    shutil.rmtree(moved)
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    assert list(losses(config.run_dir)) == [1, 2]


def test_patients_of_the_pretraining_in_the_new_test_split_are_counted(
    tiny_config: Config, pretrained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same synthetic patients are split in another way, so that some are in training there and in test here."""
    shards = write_other_shards(tmp_path, "test: 0.2, seed: 1", "test: 0.2, seed: 2")
    data = dataclasses.replace(tiny_config.data, shards=str(shards))
    config, manifest = (
        started(dataclasses.replace(tiny_config, data=data), pretrained, mode="image"),
        open_manifest(data),
    )
    prepare_run_folder(config, manifest, World())
    theirs = dataclasses.replace(tiny_config.data, shards=tiny_config.data.shards)
    expected = patients_in_training(data, manifest, "test", (theirs, open_manifest(theirs)))
    assert expected > 0
    record = json.loads((config.run_dir / "started_from.json").read_text())
    assert record["patients_of_its_training"]["test"] == expected
    lines = started_from_lines(config.run_dir)
    assert lines[0] == "encoders of reads (demo-pretrain, step 2): image"
    assert any(f"{expected} patients of this run's test split were in the training of reads" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_encoder": "densenet121"}, r"image encoder densenet-narrow, but .* add --model.image-encoder densen"),
        ({"image_dropout": 0.0, "init_from": "nowhere"}, r"init-from nowhere is no run folder: it has no config.yaml"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(tiny_config: Config, pretrained: Path, changes: dict, message: str) -> None:
    config = started(tiny_config, pretrained, mode="image")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    with pytest.raises(UserError, match=message):
        train(config, StopRequest(0))
    assert not config.run_dir.exists()


def test_a_damaged_checkpoint_is_refused(tiny_config: Config, pretrained: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(pretrained, damaged, symlinks=True)
    weights = next(damaged.glob("checkpoints/step-*")) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors does not have the bytes that were written \(sha256\)"):
        train(started(tiny_config, damaged, mode="image"), StopRequest(0))
