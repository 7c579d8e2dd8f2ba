"""How a command ends: Ctrl-C and closed pipes without a traceback, and a mistake of all ranks said once.

Each case is a real process, which imports torch, so that most of the time of this module is the start of processes.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SMALL = "--data.global-batch 16 --data.micro-batch 8 --data.image-size 32 --data.max-tokens 16 --train.log-every 1"


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start a command in a process group of its own, as a shell does."""
    command = [sys.executable, "-m", "cxr_dist", *map(str, arguments)]
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    defaults["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, start_new_session=True, **defaults | options)


def interrupted(process: "subprocess.Popen[str]", is_time: Callable[[], object]) -> tuple[int, str, str]:
    """Send Ctrl-C to the process group once it is time, and return exit status, standard output and error."""
    while not is_time():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in (out or "") + err, err
    return process.returncode, out, err


def has_loaded(process: "subprocess.Popen[str]", library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


def is_waiting(process: "subprocess.Popen[str]") -> bool:
    """Whether the process uses no time for half a second."""

    def used() -> list[str]:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    before = used()
    time.sleep(0.5)
    return used() == before


@pytest.fixture(scope="module")
def run_dir(tiny_shards, tmp_path_factory):
    """A run of the demo's size, stopped by Ctrl-C after its first steps and resumed for one step."""
    run = tmp_path_factory.mktemp("ending") / "run"
    command = ["train", "demo", "--data.shards", tiny_shards, "--out", run, *SMALL.split(), "--train.epochs", "400"]
    log = run / "metrics.jsonl"
    process = start(*command)
    status, out, _ = interrupted(process, lambda: log.is_file() and log.stat().st_size)
    [checkpoint] = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    words = f"stopped: saved at step {step} of 2000 in {run}; the same command resumes\n"
    assert (status, out) == (130, words)
    process = start(*command, "--train.max-minutes", "0.001")
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert f"resumed after step {step} of 2000\n" in err
    assert out == words.replace(f"step {step} ", f"step {step + 1} ")
    return run


def test_ctrl_c_again_and_again_ends_a_run_at_once(tiny_shards, tmp_path):
    command = ["train", "demo", "--data.shards", tiny_shards, "--out", tmp_path / "run", *SMALL.split()]
    process = start(*command, "--train.epochs", "400")
    while not has_loaded(process, "libtorch_cpu"):
        time.sleep(0.01)
    while process.poll() is None:  # at any moment: imports, checks, the first step, the save
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1].startswith("cxr-dist: interrupted: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate RUN", "nothing written"),
        ("predict RUN --image IMAGE --report REPORT", "nothing written"),
        ("export RUN --out OUT", "nothing written"),
        ("plan demo --data.shards SHARDS", "nothing written"),
        ("doctor demo --data.shards SHARDS", "nothing written"),
        ("fetch --out OUT", "nothing written"),
    ],
)
def test_ctrl_c_while_torch_is_imported(run_dir, tiny_shards, tmp_path, tmp_path_factory, command, words):
    image = tmp_path_factory.mktemp("case") / "image.png"
    Image.new("L", (64, 64)).save(image)
    places = {"RUN": run_dir, "SHARDS": tiny_shards, "OUT": tmp_path / "out", "IMAGE": image}
    places["REPORT"] = "FINDINGS: the heart is large. IMPRESSION: the heart is large."
    process = start(*[places.get(word, word) for word in command.split()])
    status, out, err = interrupted(process, lambda: has_loaded(process, "libtorch_cpu"))
    assert (status, out, err) == (130, "", f"cxr-dist: interrupted: {words}\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_during_an_evaluation_says_what_was_written(run_dir):
    results = run_dir / "evaluation"
    process = start("evaluate", run_dir, "--split", "train", "--mc-samples", "100", "--mc-scope", "all")
    status, out, err = interrupted(process, (results / "val" / "metrics.json").is_file)
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == f"cxr-dist: interrupted: {results}/val/metrics.json written, and nothing else"
    assert [folder.name for folder in results.iterdir()] == ["val"]


def test_ctrl_c_during_a_comparison(run_dir, tmp_path):
    run, out = shutil.copytree(run_dir, tmp_path / "run", symlinks=True), tmp_path / "comparison"
    process = start("evaluate", run, "--mc-samples", "0")
    process.communicate()
    assert process.returncode == 0
    process = start("compare", run, "--out", out)
    status, printed, err = interrupted(process, lambda: has_loaded(process, "libtorch_cpu"))
    assert (status, printed, err) == (130, "", "cxr-dist: interrupted: nothing written\n")
    assert not out.exists()


def test_ctrl_c_while_sharding_keeps_finished_shards(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "reader: demo\ndemo: {studies: 600, side: 256, seed: 0}\nlabels: {task: multiclass, classes: {Normal: normal, "
        "Other: '*'}}\nsplit: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}\nimage: {short_side: 256, "
        "quality: 90}\nshard: {samples: 10}\n"
    )
    out = tmp_path / "shards"
    process = start("shard", tmp_path / "recipe.yaml", "--out", out, "--workers", "2")
    status, _, err = interrupted(process, lambda: len(list(out.glob("*.tar"))) > 2)
    assert status == 130
    assert err.splitlines()[-1] == ("cxr-dist: interrupted: finished shards are kept, and the same command continues")
    process = start("verify", out)
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (2, 1)


def test_ctrl_c_during_verify(tiny_shards):
    process = start("verify", tiny_shards)
    status, out, err = interrupted(process, lambda: has_loaded(process, "cv2"))
    assert (status, out, err) == (130, "", "cxr-dist: interrupted: nothing written\n")


@pytest.mark.parametrize("command", ["recipes", "recipes openi", "--help", "plan --help"])
def test_ctrl_c_while_nobody_reads_what_is_printed(command):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    process = start(*command.split(), stdout=writing)
    status, _, err = interrupted(process, lambda: is_waiting(process))
    os.close(reading)
    os.close(writing)
    assert (status, err) == (130, "cxr-dist: interrupted: nothing written\n")


@pytest.mark.parametrize("command", ["--help", "train --help", "train demo --help", "verify SHARDS", "doctor --help"])
def test_a_closed_pipe_is_quiet(tiny_shards, command):
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [str(tiny_shards) if word == "SHARDS" else word for word in command.split()]
    process = start(*arguments, stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": ["accelerate.commands.launch", "--config_file", "launch/accelerate/cpu2.yaml"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optim.lrr 3", "unknown flag '--optim.lrr' (did you mean '--optim.lr'?)"),
        ("--data.shards nope", "no manifest.json in nope: expected a folder that `cxr-dist shard` finished"),
    ],
)
def test_a_mistake_of_all_ranks_is_said_once_and_repeated_by_the_launcher(launcher, arguments, message):
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "cxr_dist", "train", "demo", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    said, _, summary = done.stderr.partition("Root Cause")
    assert said.count(message) == 1, done.stderr
    assert re.search(rf"rank +: 0 .*\n.*exitcode +: 2 .*\n.*\n +traceback : cxr-dist: {re.escape(message)}", summary)


def test_a_mistake_of_one_rank_on_another_node_is_said_there():
    """A task of srun on node 1, whose disk lacks the shards that rank 0 sees, speaks if the launcher lets it live.

    It waits ten seconds for that.
    """
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    found = []
    for rank, node in ((1, 1), (1, 0)):
        place = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(rank - node)}
        process = start("train", "demo", "--data.shards", "nope", env=os.environ | step | place)
        found.append(process)
    said = [process.communicate()[1] for process in found]
    assert [process.returncode for process in found] == [2, 2]
    assert "no manifest.json in nope" in said[0]
    assert said[1] == ""
