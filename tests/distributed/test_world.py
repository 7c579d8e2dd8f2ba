"""The place of a rank, read from the variables that torchrun, srun and a batch script set (SLURM 22.05)."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.distributed.world import World, lanes_of, launched_for_gpus, rendezvous
from cxr_dist.errors import UserError

STEP_TASK = {
    "SLURM_JOB_ID": "5",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "cxrtest[1-2]",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "5",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "cxrtest[1-2]",
}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}


def test_a_task_of_srun_knows_its_place():
    assert World.from_environment(STEP_TASK) == World(rank=3, world_size=4, local_rank=1, node=1)


def test_a_batch_script_is_a_single_rank_although_its_job_has_tasks():
    assert World.from_environment(BATCH_SCRIPT) == World()


def test_a_shell_without_variables_is_a_single_rank():
    assert World.from_environment({}) == World()


def test_torchrun_inside_a_slurm_step_wins():
    found = World.from_environment(STEP_TASK | TORCHRUN)
    assert found == World(rank=5, world_size=8, local_rank=1, node=1)


def test_the_node_follows_from_the_local_size_where_no_group_rank_is_set():
    variables = {name: value for name, value in TORCHRUN.items() if name != "GROUP_RANK"}
    assert World.from_environment(variables).node == 1


def test_only_rank_0_is_main():
    assert [World(rank=rank, world_size=3).is_main for rank in range(3)] == [True, False, False]


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(UserError, match="rank 4 is not in 0 to world size 4 - 1"):
        World.from_environment(TORCHRUN | {"RANK": "4", "WORLD_SIZE": "4"})


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Put a command of this name on the PATH that runs the script a test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)

    return write


def test_under_srun_the_first_host_and_the_job_give_the_rendezvous(scontrol):
    scontrol('[ "$*" = "show hostnames cxrtest[1-2]" ] && printf "cxrtest1\\ncxrtest2\\n"')
    world = World.from_environment(STEP_TASK)
    assert rendezvous(world, STEP_TASK) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "cxrtest1",
        "MASTER_PORT": "20005",
    }


def test_where_scontrol_fails_the_user_is_told_to_set_the_address(scontrol):
    scontrol("exit 1")
    with pytest.raises(UserError, match=r"`scontrol show hostnames cxrtest\[1-2\]`.*set MASTER_ADDR"):
        rendezvous(World.from_environment(STEP_TASK), STEP_TASK)


def test_what_the_launcher_set_is_left_alone():
    launcher = TORCHRUN | {"MASTER_ADDR": "there", "MASTER_PORT": "1234"}
    assert rendezvous(World.from_environment(launcher), launcher) == {}


def test_a_world_without_a_launcher_is_refused():
    with pytest.raises(UserError, match="MASTER_ADDR is not set: start with torchrun, accelerate or srun"):
        rendezvous(World(world_size=2), {})


@given(st.integers(0, 2**32 - 1))
def test_a_jobs_port_is_free_to_use_and_not_ephemeral(job):
    assert 20000 <= int(rendezvous(World(), {"SLURM_JOB_ID": str(job)})["MASTER_PORT"]) < 32000


@given(st.integers(1, 64), st.integers(1, 8))
def test_the_ranks_share_the_lanes_evenly(world_size, lanes_per_rank):
    num_lanes = world_size * lanes_per_rank
    shares = [lanes_of(World(rank=r, world_size=world_size), num_lanes) for r in range(world_size)]
    assert {len(share) for share in shares} == {lanes_per_rank}
    assert sorted(lane for share in shares for lane in share) == list(range(num_lanes))


def test_a_world_size_that_does_not_divide_the_lanes_lists_those_that_do():
    with pytest.raises(UserError, match=r"world size 3 does not divide 4 lanes.*use 1, 2, 4 ranks"):
        lanes_of(World(world_size=3), 4)


def test_a_requeued_job_does_not_use_the_port_of_its_previous_start():
    ports = [
        rendezvous(World(), {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restart)})["MASTER_PORT"]
        for restart in range(12)
    ]
    assert ports[0] == rendezvous(World(), {"SLURM_JOB_ID": "7"})["MASTER_PORT"]
    assert len(set(ports)) == 12


@pytest.mark.parametrize(
    ("environment", "for_gpus"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "no"}, True),
        ({"LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "no", "CUDA_VISIBLE_DEVICES": "-1,-1"}, False),
        ({"LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "false"}, False),
    ],
)
def test_accelerates_launcher_for_gpus_is_recognised(environment, for_gpus):
    assert launched_for_gpus(environment) is for_gpus
