"""Run folders of every mode, without training, and images with reports from outside the shards."""

import dataclasses
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cxr_dist.config.named import named_run
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.train.assembly import new_model, prepare_run_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def run_of(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`run_of(mode)` gives a run folder of mode `image`, `text` or `fused` with random weights."""
    folders = tmp_path_factory.mktemp("predict")

    def make(mode: str) -> Path:
        folder = folders / mode
        if folder.exists():
            return folder
        demo = named_run("demo")
        data = dataclasses.replace(demo.data, shards=str(tiny_shards), image_size=64, max_tokens=16, workers=0)
        model = dataclasses.replace(demo.model, mode=mode)
        config = dataclasses.replace(demo, data=data, model=model, out=str(folder), precision="fp32")
        manifest = load_manifest(tiny_shards)
        prepare_run_folder(config, manifest, World())
        tensors = new_model(config, manifest, folder, CPU).state_dict()
        tensors["head.output.weight"] *= 20  # so that the predictions of the cases differ
        state = checkpoint.TrainingState(step=7, progress=Progress(), manifest_sha256=manifest_sha256(tiny_shards))
        checkpoint.save(folder, state, tensors, {})
        checkpoint.mark_best(folder, 7)
        return folder

    return make


@pytest.fixture
def images(tiny_shards: Path, tmp_path: Path) -> Path:
    """A folder with five images, smith-0.jpg to smith-4.jpg, and the reports of the first four."""
    folder = tmp_path / "images"
    folder.mkdir()
    with tarfile.open(tiny_shards / "test-00000.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for i, key in enumerate(sorted({name.split(".")[0] for name in contents})[:5]):
        (folder / f"smith-{i}.jpg").write_bytes(contents[f"{key}.jpg"])
        if i < 4:
            report = json.loads(contents[f"{key}.json"])["text"]["findings"]
            (folder / f"smith-{i}.txt").write_text(f"{report} Featherstone{i} agrees.")
    return folder
