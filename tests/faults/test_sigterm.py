"""SIGTERM in any command but `train`: one line, status 143, nothing half-written, and a later call works."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import forked_ranks
import pytest
from bad_files import FILM

from cxr_dist.cli.ending import status_after

LINE = "cxr-dist: terminated (SIGTERM): "


def start(*arguments):
    """Start a command, and wait until it has imported torch, which is long after its first line."""
    command = [sys.executable, "-m", "cxr_dist", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and "libtorch" not in maps(process.pid):
        time.sleep(0.01)
    return process


def maps(pid):
    try:
        with open(f"/proc/{pid}/maps") as file:
            return file.read()
    except OSError:
        return ""


def check_whole(folder):
    """Nothing half-written is there, and every JSON file and table in the folder can be read."""
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("*.csv"):
        with path.open(newline="") as file:
            assert len({len(row) for row in csv.reader(file)}) == 1, path


@pytest.mark.parametrize(
    ("command", "seconds"), [("evaluate", 4.0), ("compare", 3.0), ("export", 6.0), ("predict", 4.0)]
)
def test_a_command_ends_in_one_line_and_a_later_call_works(run_copy, tmp_path, cxr_dist, tried, command, seconds):
    """Takes about 12 s each: two real processes import torch and are ended at random moments."""
    chance, out = random.Random(command), tmp_path / "out"
    arguments = {
        "evaluate": (run_copy, "--mc-samples", 30),
        "compare": (run_copy, "--out", out, "--overwrite"),
        "export": (run_copy, "--out", out),
        "predict": (run_copy, "--image", FILM, "--no-report", "--out", tmp_path / "out.png"),
    }[command]
    ended = 0
    for _ in range(2):
        process = start(command, *arguments)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:  # it was faster
            break
        assert process.returncode == 143
        assert err.strip().splitlines()[-1].startswith(LINE)
        assert "Traceback" not in err
        check_whole(tmp_path)
        ended += 1
    assert ended >= 1
    if not out.exists():
        status, _, err = cxr_dist(command, *arguments)
        assert status == 0, err
    check_whole(tmp_path)
    tried(f"SIGTERM in {command}", "noticed")


def test_two_ranks_that_evaluate_end_without_a_traceback(run_copy):
    """Takes about 5 s, to import torch: the launcher ends both ranks when the first has been told to stop."""
    said = forked_ranks.run(2, __file__, run_copy, expected=1, seconds=60)
    assert said.count(LINE) == 1
    assert "Traceback" not in said
    assert not (run_copy / "evaluation" / "val").joinpath("metrics.json.partial").exists()
    check_whole(run_copy)


def test_a_signal_in_a_destructor_is_not_lost():
    """Python ignores an exception that is raised in a destructor."""
    code = """if True:
        import os, signal, time
        from cxr_dist.cli.ending import status_after
        class Deaf:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
        raise SystemExit(status_after(lambda: (Deaf() and None, time.sleep(60))))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (143, LINE + "nothing written\n")


def test_a_process_that_ignores_sigterm_goes_on_ignoring_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert status_after(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":  # a rank: both are told to stop while they predict
    from cxr_dist.cli import main
    from cxr_dist.evaluate import predict

    def told(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import cxr_dist.inference.evaluation as evaluation

    assert predict.predict_split is evaluation.predict_split
    evaluation.predict_split = told
    sys.argv = ["cxr-dist", "evaluate", *sys.argv[1:]]
    main.main()
