"""DDP and ZeRO 1-3 train the same fp32 run, also when encoders are unfrozen and when another engine resumes it.

The run has dropout, mixup, gradient checkpointing and averaged weights, and the learning rates of the `enhanced` run.
"""

import json
import shutil

import pytest
from ranks import SETTINGS
from run_losses import losses
from safetensors.torch import load_file

pytestmark = pytest.mark.multiprocess

LOSSES_AGREE = 1e-4  # relative
STEPS, UNFROZEN, SAVED = 20, 5, 6  # an epoch has five steps, so that step 6 is in the middle of one


@pytest.fixture(scope="module")
def train(tiny_shards, tmp_path_factory, run_ranks):
    """train(out, engine, ranks) -> the output of the ranks."""
    everything = tmp_path_factory.mktemp("settings") / "partition_all.json"
    section = {"stage3_param_persistence_threshold": 0}  # by default stage 3 does not partition small tensors
    everything.write_text(json.dumps({"zero_optimization": section}))

    def start(out, engine, ranks, *more, expected=0):
        command = ["train", "demo", *SETTINGS, "--data.shards", tiny_shards, "--out", out]
        command += ["--train.max-steps", STEPS, "--train.keep-checkpoints", STEPS, "--parallel", engine]
        command += ["--model.gradient-checkpointing", "true", "--optim.ema-decay", "0.9"]
        # With the demo's much higher learning rates, Adam would amplify rounding errors.
        command += ["--optim.lr", "2e-4", "--optim.warmup-steps", "100"]
        command += ["--deepspeed", everything] if engine == "zero3" else []
        return run_ranks(ranks, *command, *more, expected=expected)

    return start


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """runs(engine) -> the folder of a run with two ranks, which is trained when it is first needed."""
    folder, made = tmp_path_factory.mktemp("engines"), {}

    def run_of(engine):
        if engine not in made:
            train(folder / engine, engine, 2)
            made[engine] = folder / engine
        return made[engine]

    return run_of


def tensors(run_dir, step, name):
    return load_file(run_dir / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def validations(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["validation"]["loss"] for line in lines if "validation" in line]


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_every_engine_trains_the_same(runs, engine):
    ddp, zero = runs("ddp"), runs(engine)
    assert list(losses(zero)) == list(range(1, STEPS + 1))
    assert losses(zero) == pytest.approx(losses(ddp), rel=LOSSES_AGREE)
    assert validations(zero) == pytest.approx(validations(ddp), rel=1e-3)
    assert len(validations(zero)) == STEPS // UNFROZEN


@pytest.mark.parametrize("ranks", [1, 4])
def test_two_ranks_train_as_one_and_four_do(runs, train, tmp_path, ranks):
    train(tmp_path / "run", "ddp", ranks)
    assert losses(tmp_path / "run") == pytest.approx(losses(runs("ddp")), rel=LOSSES_AGREE)


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3"])
def test_unfrozen_encoders_have_their_own_step_count(runs, engine):
    early, frozen, unfrozen = (tensors(runs(engine), step, "model") for step in (2, 4, SAVED))
    for name in early:
        encoder = name.startswith(("image.", "text."))
        assert early[name].equal(frozen[name]) == encoder, name
    stem = "image.features.conv0.weight"
    assert not frozen[stem].equal(unfrozen[stem])
    assert f"step/{stem}" not in tensors(runs(engine), 4, "optimizer")
    state = tensors(runs(engine), SAVED, "optimizer")
    assert float(state["step/head.output.bias"]) == SAVED
    assert float(state[f"step/{stem}"]) == SAVED - UNFROZEN


@pytest.fixture
def cut_back(runs, tmp_path):
    """cut_back(engine) -> a copy of its run that ends at the checkpoint in the middle of an epoch."""

    def copy(engine):
        out = tmp_path / "resumed"
        shutil.copytree(runs(engine), out, symlinks=True)
        for folder in (out / "checkpoints").glob("step-*"):
            if int(folder.name[-8:]) > SAVED:
                shutil.rmtree(folder)
        (out / "best").unlink()
        return out

    return copy


@pytest.mark.parametrize(("before", "after", "ranks"), [("ddp", "zero3", 2), ("zero3", "ddp", 1)])
def test_a_checkpoint_serves_every_engine_and_world_size(runs, train, cut_back, before, after, ranks):
    out = cut_back(before)
    assert f"resumed after step {SAVED} of {STEPS}" in train(out, after, ranks)
    check_end(runs, out)


def test_a_zero_2_run_continues_with_ddp_on_four_ranks_and_back(runs, train, cut_back):
    out = cut_back("zero2")
    stopped = train(out, "ddp", 4, "--train.max-minutes", "0.0001", expected=1)
    assert f"resumed after step {SAVED} of {STEPS}" in stopped
    assert f"resumed after step {SAVED + 1} of {STEPS}" in train(out, "zero2", 2)
    check_end(runs, out)


def check_end(runs, out):
    """The losses and the last checkpoint are those of the uninterrupted DDP run."""
    assert losses(out) == pytest.approx(losses(runs("ddp")), rel=LOSSES_AGREE)
    ended, expected = tensors(out, STEPS, "optimizer"), tensors(runs("ddp"), STEPS, "optimizer")
    assert {n: t.shape for n, t in ended.items()} == {n: t.shape for n, t in expected.items()}
    assert all(ended[n].equal(expected[n]) for n in ended if n.startswith("step/"))
    assert not tensors(out, STEPS, "model")["head.output.bias"].equal(ended["parameter/head.output.bias"])
    averages, expected = tensors(out, STEPS, "model"), tensors(runs("ddp"), STEPS, "model")
    assert averages.keys() == expected.keys()
    for name, value in averages.items():
        assert (value - expected[name]).abs().max() <= 1e-3 * max(1.0, float(expected[name].abs().max())), name


def test_zero_on_one_rank_is_refused_before_anything_is_written(tiny_shards, tmp_path, run_ranks):
    out = tmp_path / "run"
    command = ("train", "demo", "--data.shards", tiny_shards, "--out", out, "--parallel", "zero2")
    assert "use --parallel ddp, or start several ranks" in run_ranks(1, *command, expected=1)
    assert not out.exists()
