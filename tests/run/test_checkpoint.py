"""Checkpoints are restored exactly, damage is detected, and there is always one that can be loaded."""

import json
import random
import shutil

import pytest
import torch

from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress, TrainingState


def backend_of(model):
    made = new_backend(named_run("demo"), World(), model, torch.optim.AdamW)
    made.prepare()
    return made


def one_update(backend, inputs):
    backend.backward(backend.forward(inputs).square().sum())
    backend.update()


def save(run_dir, step, seed=0):
    torch.manual_seed(seed + step)
    backend = backend_of(torch.nn.Linear(5, 3))
    one_update(backend, torch.randn(4, 5))
    state = TrainingState(
        step=step,
        progress=Progress(best_score=0.5, best_step=step),
        manifest_sha256="m",
        config={"seed": 1, "data": {"shards": "s"}},
    )
    checkpoint.save(run_dir, state, backend.model_tensors(), backend.optimizer_tensors())
    return backend, state


def test_model_optimizer_and_state_are_restored_bit_for_bit(tmp_path):
    backend, state = save(tmp_path, 7)
    loaded = checkpoint.load(tmp_path / "checkpoints" / "step-00000007")
    assert loaded.state == state
    other = backend_of(torch.nn.Linear(5, 3))
    other.restore(loaded.model, loaded.optimizer)
    assert set(loaded.optimizer) == {
        f"{moment}/{name}" for moment in ("step", "exp_avg", "exp_avg_sq") for name in ("weight", "bias")
    }
    for each in (backend, other):
        one_update(each, torch.ones(2, 5))
    for name, value in (backend.model_tensors() | backend.optimizer_tensors()).items():
        assert torch.equal(value, (other.model_tensors() | other.optimizer_tensors())[name])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "sha256.json"])
def test_flipped_bits_and_truncation_are_always_detected(tmp_path, name):
    save(tmp_path, 1)
    save(tmp_path, 2)
    victim = tmp_path / "checkpoints" / "step-00000002" / name
    whole = victim.read_bytes()
    chance = random.Random(name)
    for _ in range(25):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        for damaged in (bytes(flipped), whole[:place]):
            victim.write_bytes(damaged)
            newest, skipped = checkpoint.newest_valid(tmp_path)
            assert newest.state.step == 1
            assert len(skipped) == 1
            assert skipped[0].startswith("step-00000002: ")
    victim.write_bytes(whole)
    assert checkpoint.newest_valid(tmp_path)[0].state.step == 2


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_the_model_alone_is_loaded_without_a_usable_optimizer_file(tmp_path, how):
    backend, state = save(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "step-00000001"
    if how == "missing":
        (folder / "optimizer.safetensors").unlink()
    else:
        (folder / "optimizer.safetensors").write_bytes(b"damaged")
    newest, skipped = checkpoint.newest_valid(tmp_path, model_only=True)
    assert skipped == []
    for loaded in (newest, checkpoint.load(folder, model_only=True)):
        assert (loaded.optimizer, loaded.state) == ({}, state)
        assert all(torch.equal(loaded.model[name], value) for name, value in backend.model_tensors().items())
    with pytest.raises(UserError, match="step-00000001"):
        checkpoint.load(folder)


def test_if_no_checkpoint_can_be_loaded_the_run_does_not_start_over(tmp_path):
    assert checkpoint.newest_valid(tmp_path) == (None, [])
    save(tmp_path, 3)
    (tmp_path / "checkpoints" / "step-00000003" / "state.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint can be loaded: step-00000003: .* Move the run folder"):
        checkpoint.newest_valid(tmp_path)


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    checkpoint.mark_best(tmp_path, 2)
    checkpoint.prune(tmp_path, newest=5, keep=2)
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    assert (tmp_path / "best").resolve().name == "step-00000002"


def test_pruning_keeps_the_new_checkpoint_and_deletes_a_later_damaged_one(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000003" / "state.json").unlink()
    save(tmp_path, 2)
    checkpoint.prune(tmp_path, newest=2, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_the_link_to_the_best_checkpoint_is_that_of_the_resumed_state(tmp_path):
    best = tmp_path / "best"
    for step in (1, 2, 3):
        save(tmp_path, step)
    state = checkpoint.load(tmp_path / "checkpoints" / "step-00000002").state
    checkpoint.mend_best(tmp_path, state)  # as after a kill before the link was set
    assert best.resolve().name == "step-00000002"
    checkpoint.mark_best(tmp_path, 3)  # as if loading had skipped step 3
    checkpoint.mend_best(tmp_path, state)
    assert best.resolve().name == "step-00000002"
    shutil.rmtree(best.resolve())
    checkpoint.mend_best(tmp_path, state)
    assert not best.is_symlink()


def test_a_folder_in_place_of_the_link_to_the_best_checkpoint_is_refused(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints" / "step-00000001", tmp_path / "best")
    with pytest.raises(UserError, match=r"best is a folder, but should be a symbolic link .*: delete it"):
        checkpoint.mark_best(tmp_path, 1)


def test_version_1_is_still_read_and_an_unknown_version_is_refused(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "step-00000001"
    plain = json.loads((folder / "state.json").read_text())
    del plain["config"]
    for version in (1, 4):
        (folder / "state.json").write_text(json.dumps(plain | {"format_version": version}))
        sums = {path.name: sha256_of(path) for path in folder.iterdir() if path.name != "sha256.json"}
        (folder / "sha256.json").write_text(json.dumps(sums))
        if version == 1:
            assert checkpoint.load(folder).state.step == 1
    with pytest.raises(UserError, match=r"has format version 4, but this release reads versions \(1, 2, 3\)"):
        checkpoint.load(folder)


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step-00000001", folder / ".step-00000002.partial")
    assert checkpoint.newest_valid(tmp_path)[0].state.step == 1
    save(tmp_path, 2)
    assert checkpoint.newest_valid(tmp_path)[0].state.step == 2
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path, full_disk):
    save(full_disk, 1)
    (full_disk / "filler").write_bytes(b"x" * (256 * 1024 - 40 * 1024))
    with pytest.raises(UserError, match="no space left for the checkpoint of step 2: the previous one is intact"):
        save_large(full_disk, 2)
    assert checkpoint.newest_valid(full_disk)[0].state.step == 1


def save_large(run_dir, step):
    state = TrainingState(step=step, progress=Progress(), manifest_sha256="m")
    checkpoint.save(run_dir, state, {"weight": torch.zeros(100_000)}, {})
