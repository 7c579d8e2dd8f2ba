"""A mistake that every task of a real srun makes is said once, by rank 0, and the job fails."""

import sys

import pytest
from small_run import FOUR_RANKS, REPOSITORY

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optim.lrr 3", "cxr-dist: unknown flag '--optim.lrr' (did you mean '--optim.lr'?)"),
        ("--data.shards nope", "cxr-dist: no manifest.json in nope: expected a folder that `cxr-dist shard` finished"),
    ],
)
def test_srun_shows_a_mistake_of_four_tasks_on_two_nodes_once(cluster, tmp_path, arguments, message):
    log = tmp_path / "log"
    command = f"srun --kill-on-bad-exit=1 {sys.executable} -m cxr_dist train demo {arguments}"
    variables = f"--export=ALL,PYTHONPATH={REPOSITORY}"
    ended = cluster.wait(cluster.sbatch(variables, f"--output={log}", *FOUR_RANKS, f"--wrap={command}"))
    said = log.read_text()
    assert said.count(message) == 1, said
    assert said.count("cxr-dist: ") == 1, said
    assert "Traceback" not in said
    assert ended["JobState"] == "FAILED"
    assert said.count("task 0: Exited with exit code 2") == 1, said  # srun's own summary; it ends the other tasks
