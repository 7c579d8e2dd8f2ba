"""A run whose tokenizer, encoder configuration, classes or settings differ from those of its checkpoint is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import forked_ranks
import pytest
import torch

from cxr_dist.config.file import TRAINED_ON
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.inference.export import export
from cxr_dist.inference.opened import open_model, open_run
from cxr_dist.run.checkpoint import newest_meaning
from cxr_dist.run.meaning import check_meaning, meaning_of
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome

CPU = torch.device("cpu")
OF_TEXT = ["config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """A run that has stopped after two of its three steps; tests must not change it."""
    demo = named_run("demo")
    data = dataclasses.replace(
        demo.data, shards=str(tiny_shards), global_batch=16, micro_batch=4, image_size=64, workers=0, max_tokens=32
    )
    settings = dataclasses.replace(demo.train, max_steps=3, save_every=1)
    config = dataclasses.replace(demo, data=data, train=settings, out=str(tmp_path_factory.mktemp("runs") / "run"))
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    shutil.rmtree(Path(config.out) / "checkpoints" / "step-00000003")
    return config


@pytest.fixture
def copied(trained: Config, tmp_path: Path) -> Config:
    """A copy of the run that a test may damage."""
    shutil.copytree(trained.out, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "best").unlink()
    return dataclasses.replace(trained, out=str(tmp_path / "run"))


def change(config: Config, how: str, name: str) -> None:
    path = Path(config.out) / "text_encoder" / name
    if how == "missing":
        path.unlink()
    elif how == "changed":
        path.write_bytes(path.read_bytes() + b"\n")
    else:
        path.write_text("{}")


@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        *(("missing", name, "is missing") for name in OF_TEXT),
        *(("changed", name, "has changed") for name in OF_TEXT),
        ("added", "added_tokens.json", "was added"),
    ],
)
def test_a_run_is_neither_resumed_nor_used_with_another_text_encoder(copied, tmp_path, how, name, message):
    change(copied, how, name)
    expected = (
        rf"text_encoder/{name} of the run .*run {message}.* since its checkpoint .*copy the whole run folder again"
    )
    run_dir = Path(copied.out)
    for use in (
        lambda: train(copied, StopRequest(0)),
        lambda: open_model(run_dir, CPU),
        lambda: export(run_dir, tmp_path / "exported", with_onnx=False),
    ):
        with pytest.raises(UserError, match=expected) as refused:
            use()
        assert "\n" not in str(refused.value)


def test_two_ranks_leave_with_the_line(copied):
    """Takes about 10 s: two processes start, and import torch unless another test has started ranks before."""
    change(copied, "missing", "tokenizer.json")
    arguments = ["train", "demo", "--data.shards", copied.data.shards, "--out", copied.out, "--data.workers", "0"]
    arguments += ["--data.global-batch", "16", "--data.micro-batch", "4", "--data.image-size", "64"]
    arguments += ["--data.max-tokens", "32", "--train.max-steps", "3", "--train.save-every", "1"]
    said = forked_ranks.run(2, "-m", "cxr_dist", *arguments, expected=1, seconds=120)
    assert "cxr-dist: text_encoder/tokenizer.json of the run" in said
    assert "Traceback" not in said


def test_changed_settings_and_other_classes_are_refused(copied):
    run_dir = Path(copied.out)
    path, written = run_dir / "config.yaml", (run_dir / "config.yaml").read_text()
    for old, new, name in (
        ("  - indication\n  - findings\n", "  - findings\n  - indication\n", "data.text_sections"),
        ("max_tokens: 32", "max_tokens: 16", "data.max_tokens"),
        ("image_size: 64", "image_size: 96", "data.image_size"),
    ):
        assert old in written
        path.write_text(written.replace(old, new))
        with pytest.raises(UserError, match=rf"^{name} is .*, but the checkpoint of .*run was trained with "):
            open_run(run_dir, CPU)
    path.write_text(written)
    facts = (run_dir / "trained_on.json").read_text()
    classes = json.loads(facts)["facts"]["classes"]
    swapped = facts.replace(classes[0], "first").replace(classes[1], classes[0]).replace("first", classes[1])
    (run_dir / "trained_on.json").write_text(swapped)
    with pytest.raises(UserError, match=r"^trained_on\.json of the run .* has changed"):
        open_run(run_dir, CPU)


def test_a_model_of_images_alone_depends_on_no_file_of_the_text_encoder(copied):
    images = dataclasses.replace(copied, model=dataclasses.replace(copied.model, mode="image"))
    assert set(meaning_of(Path(copied.out), copied)["files"]) == {TRAINED_ON, *(f"text_encoder/{f}" for f in OF_TEXT)}
    assert set(meaning_of(Path(copied.out), images)["files"]) == {TRAINED_ON}


def test_hidden_files_and_a_checkpoint_without_the_record_are_accepted(copied):
    (Path(copied.out) / "text_encoder" / ".DS_Store").write_text("")
    open_run(Path(copied.out), CPU)
    check_meaning({}, Path(copied.out), copied)


def test_the_record_of_a_damaged_state_is_not_used(copied):
    run_dir = Path(copied.out)
    older = max((run_dir / "checkpoints").iterdir())
    newer = Path(shutil.copytree(older, older.with_name("step-00000003")))
    state = (newer / "state.json").read_text()
    (newer / "state.json").write_text(state.replace("tokenizer.json", "tokenizer.jsom"))
    check_meaning(newest_meaning(run_dir), run_dir, copied)
