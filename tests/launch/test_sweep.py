"""Sweeps: the runs of a grid, what is refused before anything is submitted, and what a second call submits."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cxr_dist.config.named import named_run
from cxr_dist.errors import UserError
from cxr_dist.launch import submit
from cxr_dist.launch.sweep import RunState, Sweep, SweepRun, sweep_runs, table
from cxr_dist.run.folder import mark_finished

FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 8 --data.image-size 32 --data.max-tokens 16 --data.workers 0 "
    "--train.epochs 1 --train.log-every 1"
).split()


def submit_py(*arguments):
    """Call `submit.py RUN …` in this process; training runs in other processes."""
    run, *rest = map(str, arguments)
    return submit.submit(run, rest)


def words(printed):
    """Return what tyro prints without its frames."""
    return " ".join(printed.replace("│", " ").split())


def test_every_combination_is_a_run_in_its_own_folder():
    sweeps = ("optim.lr=1e-4,2e-4", "data.text_sections=findings,indication findings")
    runs = sweep_runs("demo", ("--seed", "7"), sweeps, Path("out"))
    assert [run.name for run in runs] == [
        "optim.lr=1e-4,data.text-sections=findings",
        "optim.lr=1e-4,data.text-sections=indication-findings",
        "optim.lr=2e-4,data.text-sections=findings",
        "optim.lr=2e-4,data.text-sections=indication-findings",
    ]
    last = runs[-1].config
    assert (last.optim.lr, last.data.text_sections) == (2e-4, ("indication", "findings"))
    assert (last.seed, last.run_dir) == (7, Path("out") / runs[-1].name)
    assert last.model == named_run("demo").model


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters=",="), min_size=1))
def test_folder_names_are_valid_on_any_file_system(value):
    if not value.strip() or value.strip().startswith("-") or len(value.split()) != 1 or "\0" in value:
        return
    [run] = sweep_runs("demo", (), (f"model.text-encoder={value}",), Path("out"))
    assert run.name == Path(run.name).name
    assert run.name.isascii()
    assert 0 < len(run.name) <= 120


def test_long_names_with_the_same_beginning_stay_distinct():
    values = ",".join(f"/{'shelf/' * 40}{number}" for number in range(3))
    names = {run.name for run in sweep_runs("demo", (), (f"model.text-encoder={values}",), Path("out"))}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("flags", "sweeps", "message"),
    [
        ((), ("optim.lr",), r"--sweep optim.lr: expected FIELD=VALUE,VALUE"),
        ((), ("seed=1,,2",), r"--sweep seed=1,,2: expected FIELD=VALUE"),
        ((), ("optim.lr=1e-4,0.0001",), r"the same run twice: optim.lr=1e-4 and optim.lr=0.0001"),
        ((), ("seed=1", "seed=2"), r"--sweep seed=… and the same field a second time"),
        (
            ("--data.global_batch=8",),
            ("data.global-batch=8,16",),
            r"--sweep data.global-batch=… and the same",
        ),
        ((), ("out=a,b",), r"--sweep out=… and the same field a second time, or the run folder"),
        ((), ("optim.lr=1,0",), r"optim.lr is 0"),
    ],
)
def test_an_invalid_sweep_is_refused(flags, sweeps, message, capsys):
    with pytest.raises((UserError, SystemExit)) as refused:
        sweep_runs("demo", flags, sweeps, Path("out"))
    assert re.search(message, words(str(refused.value) + capsys.readouterr().err))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("data.micro-batch=8,16", "data.micro-batch=16: world size 2 does not divide 1 lanes"),
        ("data.shards=SHARDS,nowhere", "data.shards=nowhere: no manifest.json in nowhere"),
        ("seed=1,one", "--seed is 'one'; expected a whole number"),
    ],
)
def test_nothing_is_submitted_if_one_combination_would_fail(tiny_shards, tmp_path, monkeypatch, capsys, sweep, message):
    monkeypatch.chdir(tmp_path)
    site = (
        "--cluster",
        "local",
        "--tasks-per-node",
        "2",
        "--sweep",
        sweep.replace("SHARDS", str(tiny_shards)),
    )
    flags = [flag for flag in FLAGS if flag not in ("--data.micro-batch", "8")] if "micro" in sweep else FLAGS
    shards = () if "shards" in sweep else ("--data.shards", tiny_shards)
    with pytest.raises((UserError, SystemExit)) as refused:
        submit_py("demo", *site, *shards, *flags, "--out", "sweep")
    assert message in words(str(refused.value) + capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_sweep_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and not a sweep: choose another --out"):
        Sweep(tmp_path)


def sweep_of(out, jobs):
    sweep = Sweep(out)
    sweep.record(jobs)
    return sweep


def test_runs_neither_finished_nor_in_the_queue_are_open(tmp_path):
    names = {"a": "7_0", "b": "7_1", "c": "7_2", "d": "7_3", "e": "7_4"}
    sweep = sweep_of(tmp_path / "sweep", names)
    for name in ("a", "c"):
        (tmp_path / "sweep" / name).mkdir()
    mark_finished(tmp_path / "sweep" / "a", 5)
    queue = {"7_0": "COMPLETED", "7_1": "PENDING", "7_3": "FAILED", "8_4": "RUNNING"}
    states = {state.name: state.state for state in sweep.states(queue)}
    assert states == {"a": "finished", "b": "pending", "c": "stopped", "d": "failed", "e": "not started"}
    runs = [SweepRun(name=name, flags=(), config=named_run("demo")) for name in (*names, "new")]
    assert [run.name for run in Sweep(tmp_path / "sweep").open_runs(runs, queue)] == ["c", "d", "e", "new"]


def test_the_table_has_the_last_step_and_the_best_auc_despite_an_incomplete_line(tmp_path):
    sweep = sweep_of(tmp_path, {"run": "7"})
    (tmp_path / "run").mkdir()
    lines = [
        {"step": 1, "loss": 1.0},
        *({"step": n, "validation": {"mean_auc": a}} for n, a in ((1, 0.7), (2, None))),
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo')
    [state] = sweep.states({"7": "RUNNING"})
    assert state == RunState(name="run", job="7", state="running", step=2, best_auc=0.7)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table([state]))
    shown = captured.get()
    assert all(word in shown for word in ("run", "7", "running", "2", "0.700", "best validation AUC"))


def test_waiting_ends_at_the_deadline_and_distinguishes_failed_from_finished_runs(tmp_path):
    sweep = sweep_of(tmp_path, {"a": "7_0", "b": "7_1"})
    (tmp_path / "a").mkdir()
    mark_finished(tmp_path / "a", 5)
    with pytest.raises(UserError, match=r"1 of 2 runs are not done after 0.001 minutes; they continue"):
        sweep.watch(lambda: {"7_1": "RUNNING"}, minutes=0.001)
    assert sweep.watch(lambda: {"7_1": "FAILED"}, minutes=1) is False
    assert sweep.watch(lambda: {"7_1": "FINISHED"}, minutes=1) is False  # a local job that has ended with an error
    (tmp_path / "b").mkdir()
    mark_finished(tmp_path / "b", 5)
    assert sweep.watch(dict, minutes=1) is True


def test_a_sweep_on_this_machine_trains_all_and_a_second_call_only_what_is_new(
    tiny_shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")  # hides SLURM, if this machine has it
    flags = ("--data.shards", tiny_shards, *FLAGS, "--model.mode", "image", "--out", "sweep")
    site = ("demo", "--cluster", "local", "--cpus-per-task", "1", "--wait-minutes", "9")
    assert submit_py(*site, "--sweep", "seed=1", *flags)
    assert "1 of 1 runs submitted" in capsys.readouterr().out
    assert stat.S_IMODE((tmp_path / "sweep").stat().st_mode) == 0o700
    first = tmp_path / "sweep" / "seed=1" / "metrics.jsonl"
    before = first.stat().st_mtime_ns
    assert submit_py(*site, "--sweep", "seed=1,2", *flags)
    assert "1 of 2 runs submitted" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before
    submit.status(["sweep"])
    shown = capsys.readouterr().out
    assert shown.count("finished") == 2
    assert "from the run folders alone: no squeue on this machine" in shown
    with pytest.raises(UserError, match="seed=1: sweep/seed=1 holds a run of another configuration"):
        submit_py(*site, "--sweep", "seed=1,2", *flags, "--optim.lr", "1")
    with pytest.raises(UserError, match=r"no sweep\.json in nowhere: expected the --out of a sweep"):
        submit.status(["nowhere"])


def test_the_folds_of_a_cross_validation_are_one_sweep(fold_shards, tmp_path, monkeypatch, capsys):
    """Trains three runs in processes of their own, which takes about 20 s."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")  # hides SLURM, if this machine has it
    launch = Path(submit.__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{launch}{os.pathsep}{launch.parent}")  # so that the jobs can import TrainingJob
    flags = ("--data.shards", fold_shards, *FLAGS, "--model.mode", "image", "--out", "cv")
    site = ("demo", "--cluster", "local", "--cpus-per-task", "1", "--wait-minutes", "9")
    with pytest.raises(UserError, match=r"data.fold=3: the shards have 3 folds, and data.fold is 3: add --data.fold"):
        submit_py(*site, "--sweep", "data.fold=0,1,2,3", *flags)
    with pytest.raises(UserError, match="the shards have 3 folds, and which one is to be tested is not given"):
        submit_py(*site, *flags)
    assert not list(tmp_path.iterdir())
    assert submit_py(*site, "--sweep", "data.fold=0,1,2", *flags)
    assert "3 of 3 runs submitted" in capsys.readouterr().out
    facts = [json.loads((tmp_path / f"cv/data.fold={fold}/trained_on.json").read_text())["facts"] for fold in range(3)]
    assert [each["fold"] for each in facts] == [0, 1, 2]
    assert len({each["manifest_sha256"] for each in facts}) == 1
