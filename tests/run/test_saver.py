"""Background checkpoints contain the state at the call, are written one at a time, and lose no error."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.errors import UserError
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.saver import BackgroundSaver, HostBlock

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool)
shapes = st.lists(st.integers(0, 5), max_size=3)


def state(step):
    return TrainingState(step=step, progress=Progress(), manifest_sha256="m")


def weights(value, size=10_000_000):
    return {"weight": torch.full((size,), float(value))}


@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES), st.booleans()), max_size=6), st.integers(0, 2**31))
def test_copies_are_equal_contiguous_and_independent(wanted, seed):
    torch.manual_seed(seed)
    tensors = {}
    for number, (shape, dtype, turned) in enumerate(wanted):
        tensor = (torch.randn(shape) * 100).to(dtype)
        tensors[str(number)] = tensor.T if turned and tensor.dim() == 2 else tensor
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    first, second = HostBlock().of(tensors, tensors)
    for tensor in tensors.values():
        tensor.zero_()
    for copies in (first, second):
        assert all(copies[name].equal(value) and copies[name].is_contiguous() for name, value in expected.items())
        assert [copy.dtype for copy in copies.values()] == [value.dtype for value in expected.values()]


def test_host_memory_is_reused_and_grows_if_more_is_needed():
    host, tensors = HostBlock(), {"a": torch.randn(100, requires_grad=True)}
    places = [host.of(tensors)[0]["a"].data_ptr() for _ in range(3)]
    assert len(set(places)) == 1
    more = host.of(tensors, {"b": torch.ones(10_000)})
    assert more[0]["a"].equal(tensors["a"])
    assert more[1]["b"].equal(torch.ones(10_000))


def test_changes_during_the_write_are_not_in_the_file(tmp_path):
    model, moments = weights(1), weights(2)
    with BackgroundSaver(tmp_path, keep=2) as saver:
        saver.save(state(1), model, moments)
        model["weight"].fill_(8)
        moments["weight"].fill_(9)
    loaded, _ = checkpoint.newest_valid(tmp_path)
    assert loaded.model["weight"].equal(weights(1)["weight"])
    assert loaded.optimizer["weight"].equal(weights(2)["weight"])


def test_a_second_save_waits_for_the_first(tmp_path):
    with BackgroundSaver(tmp_path, keep=3) as saver:
        for step in (1, 2, 3):
            saver.save(state(step), weights(step), {})
            on_disk = sorted(int(folder.name[-1]) for folder in (tmp_path / "checkpoints").glob("step-*"))
            assert on_disk[: step - 1] == list(range(1, step))
    for step in (1, 2, 3):
        loaded = checkpoint.load(tmp_path / "checkpoints" / f"step-{step:08d}")
        assert loaded.model["weight"].equal(weights(step)["weight"])


def save_and_fail(run_dir):
    with BackgroundSaver(run_dir, keep=2) as saver:
        saver.save(state(1), weights(1), {})
        raise KeyError


def test_a_write_that_has_begun_is_finished_when_the_run_fails(tmp_path):
    with pytest.raises(KeyError):
        save_and_fail(tmp_path)
    assert checkpoint.newest_valid(tmp_path)[0].state.step == 1


def check_until_it_raises(saver):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        saver.check()
        time.sleep(0.005)


def test_a_full_disk_is_reported_at_a_later_step_and_the_next_save_may_succeed(full_disk):
    with BackgroundSaver(full_disk, keep=2) as saver:
        saver.save(state(1), weights(1, 1000), {})
        saver.save(state(2), weights(2, 100_000), {})
        with pytest.raises(UserError, match="no space left for the checkpoint of step 2: the previous one is intact"):
            check_until_it_raises(saver)
        assert checkpoint.newest_valid(full_disk)[0].state.step == 1
        saver.check()
        saver.save(state(3), weights(3, 1000), {})
    assert checkpoint.newest_valid(full_disk)[0].state.step == 3
