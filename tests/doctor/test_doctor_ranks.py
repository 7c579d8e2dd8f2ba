"""The doctor on several ranks: missing ranks, differing nodes, shared GPUs; and two real ranks that sum."""

import os
import re
import subprocess
import sys

import pytest
import torch
from free_ports import free_ports
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.config.named import named_run
from cxr_dist.distributed.world import World
from cxr_dist.doctor import machine, ranks, show
from cxr_dist.doctor.finding import (
    Finding,
    Setting,
    failed,
    findings_from_json,
    findings_to_json,
    ok,
    warning,
)

HOSTS = {0: "n1", 1: "n1", 2: "n2", 3: "n2"}
TEXT = st.text(max_size=20)
SETTING = Setting(config=named_run("enhanced"), world=World())


@given(st.dictionaries(TEXT, st.builds(Finding, state=st.sampled_from(["ok", "failed"]), found=TEXT, advice=TEXT)))
def test_findings_cross_ranks_unchanged(findings):
    assert findings_from_json(findings_to_json(findings)) == findings


@given(st.sets(st.integers(0, 40), min_size=1))
def test_the_formatted_ranks_are_exactly_those_given(chosen):
    named = ranks.name_ranks(chosen).partition(" ")[2]
    read = set()
    for part in named.split(", "):
        first, _, last = part.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == chosen


def test_missing_ranks_are_named_with_those_that_joined():
    found = ranks.who_came({0: "n1", 1: "n1", 4: "n3"}, world_size=6, seconds=60)
    assert found.state == "failed"
    assert found.found == "ranks 2-3, 5 of 6 did not join within 60 s; joined: ranks 0-1 on n1; rank 4 on n3"
    assert ranks.who_came(HOSTS, 4, 60) == ok("all 4 ranks met, on 2 hosts")


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ({0: "a", 1: "a", 2: "b", 3: "c"}, "ranks 0-1 would share one GPU of n1"),
        ({0: "a", 1: "b", 2: "", 3: ""}, r"ranks 2-3 \(first on n2\) have no GPU, and the others have one"),
    ],
)
def test_shared_and_missing_gpus_are_failures(gpus, message):
    found = ranks.devices(gpus, HOSTS)
    assert found.state == "failed"
    assert re.match(message, found.found)


@pytest.mark.parametrize("gpus", [dict.fromkeys(HOSTS, ""), {0: "a", 1: "b", 2: "c", 3: "d"}])
def test_a_gpu_for_each_rank_or_for_none_is_no_failure(gpus):
    assert ranks.devices(gpus, HOSTS) is None


def test_nodes_with_different_versions_are_listed_side_by_side():
    findings = {0: {"packages": ok("torch 2.15")}, 1: {}, 2: {"packages": ok("torch 2.14")}, 3: {}}
    found = ranks.differing(findings, HOSTS)["packages alike"]
    assert (found.state, found.found) == ("failed", "nodes differ: n1: torch 2.15; n2: torch 2.14")
    findings[2] = {"packages": ok("torch 2.15"), "room": ok("another number")}
    assert ranks.differing(findings, HOSTS) == {}


@pytest.mark.parametrize(
    ("variables", "node", "count"),
    [
        ({"LOCAL_WORLD_SIZE": "3"}, 0, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 0, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 1, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 2, 3),
        ({}, 0, 11),
    ],
)
def test_ranks_of_a_node_come_from_the_launcher(variables, node, count):
    assert ranks.ranks_on_node(11, node, variables) == count


def test_a_slow_network_between_hosts_is_a_warning_with_the_cost():
    slow = ranks.speed(1e-3, 1e8, 500_000_000, num_hosts=2)
    assert slow.state == "warning"
    assert "at most 10000 ms a step" in slow.found
    assert "NCCL_SOCKET_IFNAME" in slow.advice
    assert ranks.speed(1e-5, 1e11, 500_000_000, num_hosts=2).state == "ok"


def test_clocks_that_differ_are_a_warning():
    assert ranks.clocks(0.004) == ok("of all ranks agree to 0.01 s")
    assert ranks.clocks(7.5).state == "warning"


def test_the_page_names_differing_ranks_and_merges_equal_findings():
    findings = {
        0: {"GPU": ok("H100, 80 GiB"), "shards": ok("14 shards")},
        1: {"GPU": ok("H100, 79 GiB")},
        2: {"GPU": failed("broken", "another node"), "shards": warning("slow", "stage them")},
        3: {"GPU": failed("broken", "another node")},
    }
    shown = show.lines(findings, HOSTS)
    assert [(check, finding.state, finding.found) for check, finding in shown] == [
        ("GPU", "ok", "H100, 80 GiB [ranks 0-1 on n1]"),
        ("GPU", "failed", "broken [ranks 2-3 on n2]"),
        ("shards", "ok", "14 shards [rank 0 on n1]"),
        ("shards", "warning", "slow [rank 2 on n2]"),
    ]
    assert show.conclusion(shown) == "1 failed, 1 warning: correct that, and run the doctor again"
    assert show.conclusion(shown[:1]) == "nothing failed: the run can start"


@pytest.mark.parametrize(
    ("cuda_build", "driver", "variables", "state", "text"),
    [
        (None, "", {}, "warning", "none: the run would train on the CPU"),
        ("13.2", "", {}, "warning", "none: the run would train on the CPU"),
        ("13.2", "", {"SLURM_GPUS_ON_NODE": "4"}, "failed", "there is no driver on this node"),
        (None, "580.1", {}, "failed", "torch is built for the CPU"),
        ("13.2", "580.1", {"CUDA_VISIBLE_DEVICES": ""}, "failed", "no GPU was given to this job"),
        ("13.2", "470.1", {}, "failed", r"driver 470.1 shows torch (built for CUDA 13.2) no GPU"),
    ],
)
def test_why_torch_sees_no_gpu(cuda_build, driver, variables, state, text):
    found = machine.no_gpu(cuda_build, driver, variables)
    assert found.state == state
    assert text in found.found
    assert found.advice


@pytest.mark.parametrize(
    ("fields", "state", "text"),
    [
        ({}, "ok", "A100, 40 GiB, driver 580.1, bf16"),
        ({"works": False}, "failed", "a small computation on it failed"),
        ({"free_bytes": 20 * 2**30}, "warning", "20.0 GiB are used by other processes"),
        ({"bf16": False}, "warning", "no bf16 in hardware"),
    ],
)
def test_a_gpu_is_judged_by_what_the_run_needs(fields, state, text):
    good = {"name": "A100", "total_bytes": 40 * 2**30, "free_bytes": 39 * 2**30, "bf16": True, "works": True}
    found = machine.judge_gpu(machine.Gpu(**good | fields), "580.1", SETTING)
    assert found.state == state
    assert text in found.found


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_this_machines_gpu_is_read():
    found = machine.own_gpu(SETTING)
    assert found.works
    assert 0 < found.free_bytes <= found.total_bytes
    assert machine.gpu_uuid(SETTING)
    assert re.match(r"\d+\.", machine.driver_version())
    assert machine.gpu(SETTING).found.startswith(found.name)


@pytest.mark.multiprocess
def test_two_ranks_meet_and_sum_and_see_one_run_folder(tiny_shards, tmp_path):
    (port,) = map(str, free_ports())
    command = [sys.executable, "-m", "cxr_dist", "doctor", "demo", "--data.shards", str(tiny_shards)]
    command += ["--data.global-batch", "16", "--data.micro-batch", "8"]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        variables = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        # Relative to the folder of each rank, so that rank 1 is like a node whose disk is not shared.
        started.append(
            subprocess.Popen([*command, "--out", "run"], env=variables, cwd=folder, stdout=subprocess.PIPE, text=True)
        )
    (page, _), (other, _) = (process.communicate(timeout=200) for process in started)
    assert [process.returncode for process in started] == [1, 0], page
    assert other == "", "rank 0 prints"
    lines = {line[9:33].strip(): line for line in page.splitlines()}
    assert "all 2 ranks met, on 1 host" in lines["rendezvous"]
    assert lines["all-reduce"].startswith("ok       all-reduce              sum over all ranks is correct")
    assert lines["clocks"].startswith("ok")
    assert "this host does not see what rank 0 writes there [rank 1 on " in lines["run folder seen"]
    assert page.count("1 failed") == 1
    assert not list(tmp_path.rglob(".cxr-dist-doctor-*"))
