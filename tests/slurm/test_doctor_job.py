"""slurm/doctor.sh on a real SLURM: a healthy job says that its ranks met, and a failed check fails the job once."""

import pytest
from small_run import FLAGS, ON_CPUS, submit_script

pytestmark = pytest.mark.slurm
A_RANK_PER_NODE = ("--nodes=2", "--ntasks-per-node=1", *ON_CPUS)


def test_a_healthy_job_says_that_its_ranks_met(cluster, tiny_shards, tmp_path):
    arguments = ("enhanced", tiny_shards, tmp_path / "run", *FLAGS)
    job = submit_script(cluster, "doctor.sh", *arguments, log=tmp_path / "log", options=A_RANK_PER_NODE)
    ended, log = cluster.wait(job), (tmp_path / "log").read_text()
    assert ended["JobState"] == "COMPLETED", log
    assert "all 2 ranks met, on 2 hosts" in log
    assert "sum over all ranks is correct" in log
    assert log.count("cxr-dist doctor: run enhanced, 2 ranks") == 1, "only rank 0 prints"
    assert not (tmp_path / "run").exists()


def test_a_job_with_a_fault_fails_and_is_not_requeued(cluster, tmp_path):
    arguments = ("enhanced", tmp_path / "nowhere", tmp_path / "run", *FLAGS)
    job = submit_script(cluster, "doctor.sh", *arguments, log=tmp_path / "log", options=ON_CPUS)
    ended, log = cluster.wait(job), (tmp_path / "log").read_text()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0"), log
    assert "1 failed" in log


def test_without_arguments_the_script_prints_its_usage(cluster, tmp_path):
    ended = cluster.wait(submit_script(cluster, "doctor.sh", log=tmp_path / "log", options=ON_CPUS))
    assert ended["ExitCode"] == "2:0"
    assert "slurm/doctor.sh RUN [SHARDS [RUN_DIR]]" in (tmp_path / "log").read_text()
