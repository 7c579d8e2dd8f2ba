"""If a rank is stopped, killed, stuck or missing, or fails, all ranks end and name its host, step and phase."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import watched_ranks

pytestmark = pytest.mark.multiprocess
SCRIPT = Path(watched_ranks.__file__)
SOMEBODY = r"rank {} on \S+ \(pid \d+\) "


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """ended(case) returns (exit status by rank, log by rank); all cases run at the same time."""
    folder = tmp_path_factory.mktemp("watched")
    subprocess.run([sys.executable, SCRIPT, folder], check=True, timeout=480)

    def of(case):
        ranks = watched_ranks.CASES[case][0]
        statuses = json.loads((folder / f"{case}.json").read_text())["statuses"]
        logs = [(folder / f"{case}.{rank}.log").read_text() for rank in ranks]
        return dict(zip(ranks, statuses, strict=True)), dict(zip(ranks, logs, strict=True))

    yield of
    logs = (path.read_text() for path in folder.glob("kill_*.log"))
    for pid in re.findall(r"worker (\d+)", "".join(logs)):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers(logs):
    return [int(pid) for log in logs.values() for pid in re.findall(r"worker (\d+)", log)]


def test_ranks_that_finish_exit_silently(ended):
    statuses, logs = ended("finish")
    assert set(statuses.values()) == {0}
    assert "watchdog" not in str(logs)


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("stop_0", r"stopped answering \d+ s ago at step 3, waiting for data \(pid \d+ is T, stopped\)"),
        ("stop_1", r"stopped answering \d+ s ago at step 3, waiting for data \(pid \d+ is T, stopped\)"),
        ("kill_0", "died, last heard at step 3, waiting for data"),
        ("kill_1", "died, last heard at step 3, waiting for data"),
        (
            "read_1",
            r"has made no progress for \d+ s at step 3, waiting for data; "
            r"the others are at step 3, forward and backward",
        ),
        ("leave_1", "left at step 3, waiting for data, while others continue"),
        ("fail_1", r"failed at step 3, waiting for data \(RuntimeError\)"),
        (
            "skip_1",
            r"has made no progress for \d+ s at step 3, validation; the others are at step 3, forward and backward",
        ),
    ],
)
def test_every_other_rank_names_the_culprit_and_ends(ended, case, line):
    statuses, logs = ended(case)
    culprit = int(case[-1])
    for rank in statuses.keys() - {culprit}:
        expected = rf"\[rank {rank}\] watchdog: {SOMEBODY.format(culprit)}{line}; ending the job"
        assert re.search(expected, logs[rank]), logs[rank]
        assert re.search(rf"\[rank {rank}\] +File .*watched_ranks.py", logs[rank])
        assert statuses[rank] == 70


def test_a_stopped_rank_is_killed_together_with_its_worker(ended):
    for case in ("stop_0", "stop_1"):
        statuses, logs = ended(case)
        assert statuses[int(case[-1])] == -signal.SIGKILL
        assert [pid for pid in workers(logs) if is_running(pid)] == []


def test_a_stuck_rank_shows_its_stack_and_worker_and_ends_both(ended):
    statuses, logs = ended("read_1")
    (worker,) = workers(logs)
    assert statuses[1] == 70
    assert f"[rank 1] its worker, pid {worker}, is sleeping" in logs[1]
    assert re.search(r"\[rank 1\] +File .* in disturb", logs[1])
    assert not is_running(worker)


def test_a_death_is_noticed_at_once_although_a_worker_inherited_open_connections(ended):
    # Silence would be noticed only at the timeout, with another message.
    for case in ("kill_0", "kill_1"):
        _, logs = ended(case)
        (worker,) = workers(logs)
        assert is_running(worker)


def test_a_rank_that_failed_exits_by_itself(ended):
    statuses, logs = ended("fail_1")
    assert statuses[1] == 1  # its caller prints the traceback
    assert "watchdog" not in logs[1]


@pytest.mark.parametrize("case", ["refuse_0", "refuse_1"])
def test_a_user_error_of_one_rank_ends_all_with_its_status_and_no_stacks(ended, case):
    statuses, logs = ended(case)
    culprit = int(case[-1])
    assert set(statuses.values()) == {2}
    assert "message: made for the test\n" in logs.pop(culprit)
    for rank, log in logs.items():
        line = rf"watchdog: {SOMEBODY.format(culprit)}ended at step 3, waiting for data with an error, which it prints"
        assert re.search(rf"\[rank {rank}\] {line} itself; ending the job\n", log), log
        assert log.count(f"[rank {rank}]") == 1


@pytest.mark.parametrize("case", ["miss_0", "miss_1"])
def test_a_rank_that_never_joins_is_named(ended, case):
    statuses, logs = ended(case)
    missing = int(case[-1])
    assert statuses == {1 - missing: 70}
    assert re.search(rf"watchdog: rank {missing} has not joined within \d+ s; ending", logs[1 - missing])


def test_a_rendezvous_port_that_is_taken_is_named_at_once(ended):
    statuses, logs = ended("port")
    assert statuses == {0: 70}
    expected = r"watchdog: rank 0 cannot open the rendezvous at localhost, port \d+: the port is taken, .*; set"
    assert re.search(expected, logs[0])


def test_a_slow_rank_that_makes_progress_is_waited_for(ended):
    statuses, logs = ended("slow_0")
    assert set(statuses.values()) == {0}
    assert "watchdog" not in str(logs)


def test_a_rank_whose_launcher_has_ended_is_asked_to_save_and_exit(tmp_path):
    launch = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", launch, "torchrun", str(SCRIPT), "orphan"]
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log)
    pid = int(text_of(tmp_path / "log", r"(\d+)\n"))
    launcher.kill()
    launcher.wait()
    text_of(tmp_path / "log", r"watchdog: rank 0's launcher \(pid \d+\) is gone; asking the run to .*\n(left)\n")
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def text_of(path, pattern, seconds=120):
    """Wait until a file contains the pattern and return the pattern's group."""
    deadline = time.monotonic() + seconds
    while (found := re.search(pattern, path.read_text())) is None:
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.1)
    return found[1]


def test_a_single_rank_that_hangs_is_ended_too():
    """Takes about 6 s: a process imports torch, and its timeout is 2 s."""
    done = subprocess.run([sys.executable, SCRIPT, "alone"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "no rank has made progress for 2 s: all are at step 3, waiting for data; ending the job" in done.stderr
