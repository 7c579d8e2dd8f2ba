"""Runs with `--model.adapt`: what changes in training, resuming and exporting."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.config.model import Adapt
from cxr_dist.config.run import Config
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.place import open_manifest
from cxr_dist.inference.opened import open_run
from cxr_dist.model.inputs import Inputs
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import new_model, train
from cxr_dist.train.loop import Outcome

STEPS = 4


def run_of(config: Config, adapt: Adapt, out: Path, **changes: object) -> Config:
    """Four steps, saved after each."""
    model = dataclasses.replace(config.model, adapt=adapt, lora_rank=2, image_dropout=0.1)
    settings = dataclasses.replace(config.train, max_steps=STEPS, save_every=1, eval_every=2, keep_checkpoints=STEPS)
    return dataclasses.replace(config, model=model, train=settings, out=str(out), **changes)  # type: ignore[arg-type]


def saved(out: Path | str, step: int, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(Path(out) / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def cut_back(config: Config, out: Path, step: int) -> Config:
    """A copy of the run as if it had been killed after this step."""
    shutil.copytree(config.out, out, symlinks=True)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(out / "checkpoints" / f"step-{later:08d}")
    return dataclasses.replace(config, out=str(out))


@pytest.fixture
def lora(tiny_config: Config, tmp_path: Path) -> Config:
    pytest.importorskip("peft", reason="needs the extra adapters")
    config = run_of(tiny_config, "lora", tmp_path / "lora")
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    return config


def test_adapters_learn_and_the_weights_below_them_stay(lora: Config) -> None:
    first, last = saved(lora.out, 1), saved(lora.out, STEPS)
    changed = {name for name in first if not first[name].equal(last[name])}
    encoders = {name for name in changed if name.startswith(("image.", "text."))}
    assert encoders
    assert all("lora_" in name for name in encoders)
    moments = {name.split("/", 1)[1] for name in saved(lora.out, STEPS, "optimizer")}
    assert all("lora_" in name for name in moments if name.startswith(("image.", "text.")))


def test_a_resumed_run_with_adapters_has_the_same_bits(lora: Config, tmp_path: Path) -> None:
    resumed = cut_back(lora, tmp_path / "resumed", 2)
    assert train(resumed, StopRequest(0)) is Outcome.FINISHED
    assert losses(Path(resumed.out)) == losses(Path(lora.out))
    for name in ("model", "optimizer"):
        expected = saved(lora.out, STEPS, name)
        assert all(expected[key].equal(value) for key, value in saved(resumed.out, STEPS, name).items())


def test_an_export_has_merged_weights_and_opens_without_peft(lora: Config, cxr_dist, tmp_path: Path) -> None:
    run, out = Path(lora.out), tmp_path / "export"
    assert cxr_dist("export", run, "--out", out, "--onnx", "false")[0] == 0
    assert not any("lora" in name or "base_layer" in name for name in load_file(out / "model.safetensors"))
    assert "adapt" not in json.loads((out / "config.json").read_text())["architecture"]
    opened, manifest = open_run(run, torch.device("cpu"))
    batch = next(
        evaluation_loader(
            opened.config.data, manifest, "val", rank=0, world_size=1, tokenizer=opened.tokenizer, with_images=True
        )
    )
    inputs = Inputs.of(batch, opened.classifier.levels.normalise(batch.images))
    trained = new_model(lora, manifest, run, torch.device("cpu"))
    trained.load_state_dict(saved(run, int((run / "best").resolve().name.split("-")[1])))
    with torch.no_grad():
        torch.testing.assert_close(opened.classifier(*inputs), trained.eval()(*inputs), rtol=0, atol=1e-6)
    torch.save(inputs, tmp_path / "inputs.pt")
    program = (
        "import sys; sys.modules['peft'] = None\n"
        "import torch, cxr_dist\n"
        "from cxr_dist.model.inputs import Inputs\n"
        f"with torch.serialization.safe_globals([Inputs]): inputs = torch.load({str(tmp_path / 'inputs.pt')!r})\n"
        f"model = cxr_dist.load({str(out)!r})\n"
        f"torch.save(model.classifier(*inputs).detach(), {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with torch.no_grad():
        expected = opened.classifier(*inputs)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=0, atol=1e-6)


def test_averaged_adapters_resume_exactly(tiny_config: Config, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra adapters")
    optim = dataclasses.replace(tiny_config.optim, ema_decay=0.9)
    config = run_of(tiny_config, "lora", tmp_path / "averaged", optim=optim)
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    resumed = cut_back(config, tmp_path / "resumed", 2)
    assert train(resumed, StopRequest(0)) is Outcome.FINISHED
    expected = saved(config.out, STEPS)
    assert all(expected[name].equal(value) for name, value in saved(resumed.out, STEPS).items())


def test_a_run_of_the_head_alone_leaves_the_encoders_as_they_were(tiny_config: Config, tmp_path: Path) -> None:
    config = run_of(tiny_config, "head", tmp_path / "head")
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    start = new_model(config, open_manifest(config.data), Path(config.out), torch.device("cpu")).state_dict()
    end = saved(config.out, STEPS)
    encoders = [name for name in start if name.startswith(("image.", "text."))]
    assert all(end[name].equal(start[name]) for name in encoders), "BatchNorm's statistics among them"
    assert not end["head.output.weight"].equal(start["head.output.weight"])
    assert not any("image." in name or "text." in name for name in saved(config.out, STEPS, "optimizer"))
