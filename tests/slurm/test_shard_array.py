"""`cxr-dist shard --slurm`: a real job array writes the bytes of one machine, and repeats only the tasks that died."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from cluster import Cluster, missing

from cxr_dist.config.slurm import SlurmResources
from cxr_dist.errors import UserError
from cxr_dist.shard import array as shard_array
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

pytestmark = pytest.mark.slurm
RECIPE = """
reader: demo
demo: {studies: 60, side: SIDE, seed: 0}
labels:
  task: multiclass
  classes: {Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 64, quality: 90}
shard: {samples: 9}
"""


TABLE_RECIPE = """
reader: table
table: films.csv
columns: {image: file, patient: patient, label: label}
labels: {task: multiclass, classes: {Sick: sick, Well: well}}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 64, quality: 90}
shard: {samples: 4}
"""


def write_recipe(folder: Path, side: int) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("SIDE", str(side)))
    return path


def write_table_source(folder: Path) -> Path:
    """Write a recipe and 30 images in FOLDER/source."""
    source = folder / "source"
    (source / "images").mkdir(parents=True)
    rows = [f"film-{n}.png,P{n},{('sick', 'well')[n % 2]}\n" for n in range(30)]
    (source / "films.csv").write_text("file,patient,label\n" + "".join(rows))
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 80), np.uint8)
        (source / "images" / f"film-{number}.png").write_bytes(bytes(cv2.imencode(".png", pixels)[1]))
    path = folder / "recipe.yaml"
    path.write_text(TABLE_RECIPE)
    return path


def start(cluster: Cluster, folder: Path, recipe: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command in the background with three tasks of one core; its output goes to FOLDER/printed."""
    command = [sys.executable, "-m", "cxr_dist", "shard", recipe, "--out", "shards", "--slurm", "3", *more]
    command += ["--slurm-cpus-per-task", "1", "--slurm-partition", "main", "--slurm-logs", "logs"]
    return cluster.start(*command, cwd=folder, output=folder / "printed")


def end(command: subprocess.Popen[str], folder: Path, expected: int = 0) -> str:
    status = command.wait(timeout=150)
    printed = (folder / "printed").read_text()
    logs = "".join(log.read_text() for log in (folder / "logs").glob("*.out"))
    assert status == expected, printed + logs
    return printed


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tasks_submitted(printed: str) -> list[int]:
    return [int(number) for number in re.findall(r"shards in (\d+) tasks", printed)]


def job_of(folder: Path, seconds: float = 60) -> str:
    """Return the array's job id, which the command prints after submitting it."""
    deadline = time.monotonic() + seconds
    while (found := re.search(r"job (\d+) ", (folder / "printed").read_text())) is None:
        assert time.monotonic() < deadline, (folder / "printed").read_text()
        time.sleep(0.02)
    return found[1]


def process_of(task: str, seconds: float = 60) -> int:
    """Return the process id of the running task whose SLURM id is JOB_TASK."""
    job, number = task.split("_")
    wanted = (f"SLURM_ARRAY_JOB_ID={job}".encode(), f"SLURM_ARRAY_TASK_ID={number}".encode())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            is_python = command.split(b"\0")[1:3] == [b"-u", b"-m"] and b"submitit.core._submit" in command
            if is_python and all(name in variables for name in wanted):
                return int(folder.name)
        time.sleep(0.05)
    raise AssertionError(f"task {task} was not seen running")


def wait_for(pattern: str, folder: Path, command: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert command.poll() is None, "the command ended before there was " + pattern
        assert time.monotonic() < deadline, f"no {pattern} within {seconds} s"
        time.sleep(0.02)


def test_three_tasks_write_the_bytes_of_one_machine_and_a_second_call_does_nothing(cluster, tmp_path):
    recipe = write_recipe(tmp_path, side=64)
    write_shards(load_recipe(recipe), None, tmp_path / "alone", workers=0)
    printed = end(start(cluster, tmp_path, recipe), tmp_path)
    assert tasks_submitted(printed) == [3]
    assert contents(tmp_path / "shards") == contents(tmp_path / "alone")
    jobs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    printed = end(start(cluster, tmp_path, recipe), tmp_path)
    assert tasks_submitted(printed) == [3]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == jobs
    assert contents(tmp_path / "shards") == contents(tmp_path / "alone")


def test_only_a_killed_task_is_repeated_and_it_keeps_its_finished_shards(cluster, tmp_path):
    recipe = write_recipe(tmp_path, side=350)
    command = start(cluster, tmp_path, recipe)
    wait_for("shards/.unfinished/train-00001.json", tmp_path, command)  # the first shard of the second task
    first = tmp_path / "shards" / "train-00001.tar"
    written = first.stat().st_mtime_ns
    job = job_of(tmp_path)
    os.kill(process_of(f"{job}_1"), signal.SIGKILL)
    printed = end(command, tmp_path)
    assert tasks_submitted(printed) == [3, 1]
    ended = re.findall(r"job (\d+_\d) ended with (\d+) of (\d+) shards missing", printed)
    assert [task for task, _, _ in ended] == [f"{job}_1"]
    assert int(ended[0][1]) < int(ended[0][2])
    assert first.stat().st_mtime_ns == written
    write_shards(load_recipe(recipe), None, tmp_path / "alone", workers=2)
    assert contents(tmp_path / "shards") == contents(tmp_path / "alone")


def test_a_task_warned_of_its_time_limit_is_requeued_and_continues(cluster, tmp_path):
    recipe = write_recipe(tmp_path, side=350)
    command = start(cluster, tmp_path, recipe)
    wait_for("shards/.unfinished/train-00001.json", tmp_path, command)
    job = job_of(tmp_path)
    cluster.run("scancel", "--signal=USR2", f"{job}_1")
    printed = end(command, tmp_path)
    assert tasks_submitted(printed) == [3]
    assert "ended" not in printed
    log = (tmp_path / "logs" / f"{job}_1_0_log.out").read_text()
    assert "Exiting gracefully after preemption/timeout" in log
    write_shards(load_recipe(recipe), None, tmp_path / "alone", workers=2)
    assert contents(tmp_path / "shards") == contents(tmp_path / "alone")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_takes_over_after_the_first_was_stopped(cluster, tmp_path, stop):
    recipe = write_recipe(tmp_path, side=500)
    command = start(cluster, tmp_path, recipe)
    wait_for("logs/*.pkl", tmp_path, command)
    held = process_of(f"{job_of(tmp_path)}_2")
    os.kill(held, signal.SIGSTOP)  # so that the array cannot finish before the command is stopped
    wait_for("shards/.unfinished/*.json", tmp_path, command)
    command.send_signal(stop)
    assert command.wait(timeout=30) == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    os.kill(held, signal.SIGCONT)
    message = re.search(r"the jobs cxr-shard-\w+ stay with SLURM", (tmp_path / "printed").read_text())
    assert bool(message) is (stop == signal.SIGINT)
    printed = end(start(cluster, tmp_path, recipe), tmp_path)
    assert "tasks of an earlier call" in printed
    assert tasks_submitted(printed) == [3]
    assert (tmp_path / "shards" / "manifest.json").is_file()
    assert not (tmp_path / "shards" / ".unfinished").exists()


def test_unreadable_images_are_counted_over_all_tasks_and_a_repaired_source_continues(cluster, tmp_path):
    recipe = write_table_source(tmp_path)
    image = tmp_path / "source" / "images" / "film-3.png"
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    printed = end(start(cluster, tmp_path, recipe, "--source", "source"), tmp_path, expected=2)
    assert "at least 1 of 30 images failed (image not readable 1); 1.00% may be left out" in printed
    image.write_bytes(whole)
    printed = end(start(cluster, tmp_path, recipe, "--source", "source"), tmp_path)
    write_shards(load_recipe(recipe), tmp_path / "source", tmp_path / "alone", workers=0)
    assert contents(tmp_path / "shards") == contents(tmp_path / "alone")


def test_a_task_that_never_finishes_a_shard_ends_the_command_and_its_log_says_why(cluster, tmp_path):
    recipe = write_table_source(tmp_path)
    later = ("--slurm-sbatch", "begin", "now+2")
    command = start(cluster, tmp_path, recipe, "--source", "source", *later)
    wait_for("logs/*.pkl", tmp_path, command)
    table = tmp_path / "source" / "films.csv"
    table.write_text(table.read_text().replace("well", "sick", 1))  # while the tasks wait in the queue
    printed = end(command, tmp_path, expected=2)
    assert "ended 3 times without finishing any of its" in printed
    logs = [log.read_text() for log in (tmp_path / "logs").glob("*.out")]
    assert any("cxr-dist: the source's rows, or the versions" in log for log in logs)
    assert not cluster.run("squeue", "-h", "--states=PENDING,RUNNING").strip()  # the others were cancelled


@pytest.mark.skipif(bool(missing()), reason=missing() or "SLURM is here")
@pytest.mark.parametrize(
    ("programs", "tasks", "message"),
    [
        ("", 3, "--slurm needs sbatch, srun, squeue, scancel"),
        (None, -1, "number of tasks and must be 1 or more, not -1"),
    ],
)
def test_invalid_options_of_an_array_are_refused(tmp_path, monkeypatch, programs, tasks, message):
    if programs is not None:
        monkeypatch.setenv("PATH", programs)
    recipe = load_recipe(write_recipe(tmp_path, side=64))
    with pytest.raises(UserError, match=message):
        shard_array.write_shards_by_array(recipe, None, tmp_path / "shards", tasks=tasks, resources=SlurmResources())
    assert not (tmp_path / "shards").exists()


@pytest.mark.skipif(bool(missing()), reason=missing() or "SLURM is here")
def test_a_slurm_that_does_not_answer_is_reported_as_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "slurm.conf").write_text("# no cluster")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr(shard_array, "_PATIENCE", 0.0)
    recipe = load_recipe(write_recipe(tmp_path, side=64))
    with pytest.raises(UserError, match=r"squeue fails \(.+\): run the same command again later"):
        shard_array.write_shards_by_array(recipe, None, tmp_path / "shards", tasks=1, resources=SlurmResources())
