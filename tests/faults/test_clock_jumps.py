"""A clock that jumps by hours while a run trains, stages shards, resumes and is evaluated: nothing is lost or hangs.

The clock of a real process is set by a `sitecustomize` on its PYTHONPATH, which Python imports before anything else. It
shifts `time.time` and `time.time_ns`, and leaves the monotonic clock alone, as NTP and a resumed virtual machine do.
Not shifted are the modification times that the kernel gives, and `datetime.now`, which only dates lines for people.
"""

import json
import os
import subprocess
import sys

from bad_files import FLAGS
from run_losses import losses

from cxr_dist.distributed.watch.progress import read_starts

CLOCK = """
import time

time.hours_seen = set()
real, real_ns = time.time, time.time_ns

def seconds():
    hours = (9, -30, 0, -72)[int(time.monotonic() / 0.3) % 4]
    time.hours_seen.add(hours)
    return 3600 * hours

time.time = lambda: real() + seconds()
time.time_ns = lambda: real_ns() + seconds() * 10**9
"""
PROGRAM = """
import json, shutil, sys, time
from pathlib import Path
from cxr_dist.cli.main import main

commands, run = json.loads(sys.argv[1]), Path(sys.argv[2])
for arguments in commands:
    sys.argv = ["cxr-dist", *arguments]
    main()
    print(arguments[0], "ended", flush=True)
    if arguments is commands[0]:  # as if it had been killed in its second step
        (run / "finished.json").unlink()
        shutil.rmtree(run / "checkpoints" / "step-00000002")
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < 2))
print("hours", sorted(time.hours_seen))
"""


def test_a_run_is_trained_resumed_and_evaluated(small_run, tiny_shards, tmp_path, tried):
    """Takes about 20 s: a real process imports torch, trains twice and evaluates."""
    out, site = tmp_path / "new", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLOCK)
    staged = ("--data.stage-dir", tmp_path / "cache", "--data.stage-gib", 0.001, "--train.timeout-minutes", 1)
    more = ("--train.save-every", 1, "--train.log-every", 1, *staged)
    train = ("train", "demo", "--data.shards", tiny_shards, *FLAGS, *more, "--out", out)
    commands = json.dumps([list(map(str, each)) for each in (train, train, ("evaluate", out, "--mc-samples", 0))])
    paths = os.pathsep.join([str(site), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, commands, out],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert done.stdout.count(" ended\n") == 3, said
    assert "Traceback" not in said
    assert "hours [-72, -30, 0, 9]" in said
    assert losses(out)[2] == losses(small_run)[2]
    assert (out / "evaluation" / "test" / "metrics.json").exists()
    starts = read_starts(out)
    assert [line["step"] for line in starts] == [1, 2]
    for line in starts:
        assert all(0 <= value < 300 for value in line["seconds"].values())
    tried("a clock that jumps while a run is trained, resumed and evaluated", "read as it should be")
