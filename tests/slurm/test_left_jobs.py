"""What a test leaves behind when it fails, commands and jobs, does not disturb the next one in the shared cluster."""

import pytest
from processes import of_job

pytestmark = pytest.mark.slurm


def test_a_test_leaves_neither_its_command_nor_its_jobs(cluster, tmp_path):
    """More than five seconds in a run of its own: the cluster starts."""
    (tmp_path / "again.sh").write_text(
        "while :; do sbatch --parsable --wrap='sleep 600' --output=/dev/null; sleep 1; done"
    )
    command = cluster.start("sh", "again.sh", cwd=tmp_path, output=tmp_path / "printed")
    held = cluster.sbatch("--wrap=sleep 600", "--output=/dev/null")
    while not (processes := of_job(cluster, held)) or not (tmp_path / "printed").read_text():
        assert command.poll() is None
    for process in processes:
        process.suspend()
    cluster.end_what_is_left()
    assert command.poll() is not None
    assert not cluster.run("squeue", "-h")
    assert not of_job(cluster, held)
