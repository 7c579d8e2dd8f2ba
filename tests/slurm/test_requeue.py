"""A job whose tasks died is requeued, but only if another start can help.

The behaviour of the job's shell is tested with a short script in place of the training, so that a start takes no time.
"""

import re
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster
from processes import wait_until
from small_run import FLAGS, ON_CPUS, REPOSITORY, submit_script

from cxr_dist.config.file import to_yaml
from cxr_dist.config.flags import config_of

pytestmark = pytest.mark.slurm


def test_an_error_that_only_rank_0_detects_fails_the_job_without_requeue(cluster, tiny_shards, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    out.mkdir()
    (out / "config.yaml").write_text(to_yaml(config_of("enhanced", FLAGS, "test")))
    options = ("--nodes=2", "--ntasks-per-node=1", *ON_CPUS)
    arguments = (tiny_shards, out, *FLAGS, "--seed", "2")
    ended = cluster.wait(submit_script(cluster, "enhanced.sh", *arguments, log=log, options=options))
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), log.read_text()
    assert "seed: 1 -> 2" in log.read_text()


def submit_stand_in(cluster: Cluster, folder: Path, script: str, arguments: list[Path | str], task: str) -> str:
    """Submit a job script whose tasks run a few lines of bash in place of cxr-dist, with FOLDER/log as its log."""
    python = folder / "python"
    python.write_text(f'#!/bin/bash\n[[ $2 == cxr_dist ]] || exec {sys.executable} "$@"\n{task}\n')
    python.chmod(0o755)
    (folder / "SHARDS").mkdir()
    (folder / "SHARDS" / "manifest.json").touch()
    variables = f"--export=ALL,CXR_DIST_HOME={REPOSITORY},CXR_DIST_PYTHON={python}"
    options = (variables, f"--output={folder / 'log'}", "--nodes=2", "--ntasks-per-node=1", *ON_CPUS)
    return cluster.sbatch(*options, REPOSITORY / "slurm" / script, *arguments, cwd=folder)


def test_a_run_that_dies_three_times_at_the_same_step_is_not_requeued(cluster, tmp_path):
    out = tmp_path / "a run"
    (out / "checkpoints" / "step-00000012").mkdir(parents=True)
    (out / "config.yaml").touch()
    task = "sleep 1; ((SLURM_PROCID)) || kill -KILL $$; sleep 100"
    ended = cluster.wait(submit_stand_in(cluster, tmp_path, "enhanced.sh", ["SHARDS", out], task))
    log = (tmp_path / "log").read_text()
    assert (ended["JobState"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "2", "2:0"), log
    assert log.count("; requeued job") == 2
    # srun returns 137 or 143, depending on whether the other task was killed before it received SIGTERM
    died = r"has died 3 times in a row \(status (1\d\d(, )?){3}\) without a checkpoint after step 12: not requeued"
    assert re.search(died, log), log


def test_an_evaluation_is_repeated_after_a_preemption_but_not_after_a_failure(cluster, tmp_path):
    # The first task that exits ends the other, which must have started by then.
    task = "echo started; ((${SLURM_RESTART_COUNT:-0})) && sleep 3 && exit 3; sleep 100"
    job = submit_stand_in(cluster, tmp_path, "evaluate.sh", ["RUN_DIR"], task)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and log.read_text().count("started") == 2, "tasks", cluster, job)
    cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "1"), log.read_text()
    deadline = time.monotonic() + 10  # what tasks print may reach the log after the job has ended
    while log.read_text().count("started") < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert log.read_text().count("started") == 4


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_signal_to_the_batch_shell_reaches_the_tasks(cluster, tmp_path, name):
    task = 'trap "echo heard; exit 0" USR2; echo started; while :; do sleep 0.2; done'
    job = submit_stand_in(cluster, tmp_path, "enhanced.sh", ["SHARDS", tmp_path / "run"], task)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and log.read_text().count("started") == 2, "tasks", cluster, job)
    cluster.run("scancel", "--batch", f"--signal={name}", job)
    assert cluster.wait(job)["JobState"] == "COMPLETED", log.read_text()
    assert log.read_text().count("heard") == 2
