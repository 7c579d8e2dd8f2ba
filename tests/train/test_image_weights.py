"""A run that begins from a file of image weights: what is loaded, what is recorded, and what a resume needs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import DenseNet

from cxr_dist.config.run import Config
from cxr_dist.data.place import open_manifest
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.inference.opened import open_trained
from cxr_dist.run.image_weights import read_image_weights
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import parts_of, prepare_run_folder, train
from cxr_dist.train.loop import Outcome


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """The published weights of a narrow DenseNet, with its classifier."""
    torch.manual_seed(8)
    path = tmp_path / "weights of a colleague" / "narrow.safetensors"
    path.parent.mkdir()
    network = DenseNet(growth_rate=16, block_config=(1, 2, 4, 4), num_init_features=16)
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def config(tiny_config: Config, weights_file: Path) -> Config:
    """An image run of two steps from that file."""
    model = dataclasses.replace(tiny_config.model, mode="image", image_weights=str(weights_file))
    settings = dataclasses.replace(tiny_config.train, max_steps=2, save_every=1, eval_every=2, keep_checkpoints=2)
    return dataclasses.replace(tiny_config, model=model, train=settings)


def with_model(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def test_a_run_begins_from_the_file_and_records_it(config, weights_file, capsys) -> None:
    manifest = open_manifest(config.data)
    prepare_run_folder(config, manifest, World())
    said = capsys.readouterr().err
    parts = parts_of(config, manifest, World())
    parts.trackers.close()
    published, image = load_file(weights_file), parts.model.image.state_dict()  # type: ignore[union-attr]
    for name in image.keys() - {"features.conv0.weight"}:
        assert image[name].equal(published[name]), name
    assert image["features.conv0.weight"].equal(published["features.conv0.weight"].sum(1, keepdim=True))
    recorded = read_image_weights(Path(config.out))
    assert recorded is not None
    assert recorded.sha256 == sha256_of(weights_file)
    assert recorded.match.file == "narrow.safetensors"
    assert said == (
        f"--model.image-weights: narrow.safetensors: {len(image)} of {len(image)} tensors of the image encoder; "
        "2 not needed (classifier.bias, classifier.weight)\n"
    )
    assert "colleague" not in (Path(config.out) / "image_weights.json").read_text()


def test_a_resumed_run_needs_no_file_and_has_the_same_bits(config, weights_file, tmp_path) -> None:
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    one = dataclasses.replace(config, out=str(tmp_path / "resumed"))
    shutil.copytree(config.out, one.out, symlinks=True)  # as if the run had been killed after its first step
    shutil.rmtree(Path(one.out) / "checkpoints" / "step-00000002")
    weights_file.unlink()
    assert train(one, StopRequest(0)) is Outcome.FINISHED
    ours, theirs = (load_file(Path(c.out) / "checkpoints/step-00000002/model.safetensors") for c in (one, config))
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())
    open_trained(Path(one.out), torch.device("cpu"))
    with pytest.raises(UserError, match=r"began from narrow\.safetensors: use the same setting to resume it"):
        train(with_model(one, image_weights=""), StopRequest(0))
    save_file({"features.conv0.weight": torch.ones(1)}, weights_file)
    with pytest.raises(UserError, match=r"narrow\.safetensors is not the file that the run began from"):
        train(one, StopRequest(0))


def test_a_file_that_does_not_fit_ends_the_run_before_its_folder_exists(config, weights_file, cxr_dist) -> None:
    part = {name: tensor for name, tensor in load_file(weights_file).items() if "norm5" not in name}
    save_file(part, weights_file)
    arguments = ["--model.mode", "image", "--model.image-weights", weights_file, "--out", config.out]
    arguments += ["--data.shards", config.data.shards, "--data.workers", 0, "--train.max-steps", 1]
    for command in ("plan", "train"):
        status, _, err = cxr_dist(command, "demo", *arguments)
        assert status == 2
        assert "4 missing in the file (features.norm5.weight, features.norm5.bias, features.norm5.running_mean" in err
        assert "Traceback" not in err
        assert not Path(config.out).exists()
    status, _, err = cxr_dist("train", "demo", *arguments, "--model.allow-partial", "true")
    assert status == 0, err
    record = json.loads((Path(config.out) / "image_weights.json").read_text())["started_from"]
    assert len(record["match"]["missing"]) == 4


def test_the_page_and_the_model_card_say_where_the_weights_came_from(config, cxr_dist, weights_file, tmp_path) -> None:
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    run, card = Path(config.out), tmp_path / "export" / "README.md"
    assert cxr_dist("evaluate", run, "--mc-samples", 0)[0] == 0
    assert cxr_dist("compare", run, "--out", tmp_path / "page", "--controls", "false")[0] == 0
    assert cxr_dist("export", run, "--out", card.parent, "--onnx", "false")[0] == 0
    said = f"narrow.safetensors (sha256 {sha256_of(weights_file)[:16]}…), "
    pages = [(tmp_path / "page" / "report.html").read_text(), card.read_text()]
    for page in pages:
        assert said in page.replace("\\", "")  # the card escapes Markdown
    assert all("colleague" not in path.read_text() for path in (card, card.parent / "config.json"))
