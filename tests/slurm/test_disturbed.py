"""A disturbed job gives the same result as an undisturbed one; `make torture` runs many more random disturbances."""

import pytest
from disturb import Disturbance
from trial import log_of, run_trial

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("launcher", "disturbance"),
    [
        ("submit.py", Disturbance(event="SIGKILL", target="rank 2", moment="save")),
        ("enhanced.sh", Disturbance(event="SIGSTOP", target="rank 1", moment="step", after=6)),
        ("submit.py", Disturbance(event="SIGKILL", target="batch shell", moment="step", after=11)),
        ("submit.py", Disturbance(event="node lost", target="cxrtest2", moment="step", after=9)),
    ],
    ids=str,
)
def test_a_disturbed_job_gives_the_result_of_an_undisturbed_one(
    cluster, two_nodes, tiny_shards, tmp_path, launcher, disturbance
):
    outcome = run_trial(cluster, launcher, disturbance, tiny_shards, tmp_path, two_nodes)
    assert outcome.equal, f"{outcome}\n{log_of(launcher, tmp_path)}"
