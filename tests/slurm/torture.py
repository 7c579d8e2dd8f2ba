"""Disturb many jobs at random on real clusters of this machine, and record the outcome of each.

    make torture TRIALS=100

Trial n depends only on (seed, n), so that a stopped torture test can be continued. It writes
benchmarks/results/torture.json after each trial; a failed job leaves its log in torture-logs/.
"""

import argparse
import dataclasses
import itertools
import json
import signal
import statistics
import sys
import tempfile
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]  # as pytest does

from cluster import NODES, Cluster, missing, running_cluster  # noqa: E402
from disturb import JOB_EVENTS, MOMENTS, NODE_EVENTS, PROCESSES, SIGNALS, Disturbance, Missed  # noqa: E402
from made_shards import write_tiny_shards  # noqa: E402
from small_run import submit_enhanced  # noqa: E402
from trial import log_of, run_trial  # noqa: E402

from benchmarks.harness import describe_machine  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "torture.json"
LOGS = REPOSITORY / "torture-logs"
LAUNCHERS = ("enhanced.sh", "submit.py")
Record = dict[str, Any]


def matrix() -> list[tuple[str, str]]:
    """Return every pair of an event and a target."""
    signals = itertools.product(SIGNALS, PROCESSES)
    jobs = [(event, "job") for event in JOB_EVENTS if event not in NODE_EVENTS]
    return [pair for pair in (*signals, *jobs, *itertools.product(NODE_EVENTS, NODES)) if pair not in NOT_RUN]


# While a launcher is suspended, SLURM does not see that its ranks have ended: only the time limit ends the job.
NOT_RUN = {("SIGSTOP", "srun"), ("SIGSTOP", "batch shell")}


def moments_of(event: str, target: str) -> tuple[str, ...]:
    """Return the moments at which a target can receive an event: two cases are possible only after training has begun.

    Loader workers do not exist before. After a kill of the batch shell only rank 0 can requeue the job, at the end of a
    step within KillWait, so that before the first step nothing can.
    """
    late = target == "loader worker" or (event, target) == ("SIGKILL", "batch shell")
    return MOMENTS[1:] if late else MOMENTS


def drawn(seed: int, number: int) -> tuple[str, Disturbance]:
    """Return the launcher and the disturbance of trial `number`; all pairs are drawn once before any is repeated."""
    chance, pairs = Random(f"{seed}/{number}"), matrix()
    Random(seed).shuffle(pairs)
    event, target = pairs[number % len(pairs)]
    moment = chance.choice(moments_of(event, target))
    after = {"start-up": 60, "step": 25, "save": 25, "validation": 15}[moment]
    disturbance = Disturbance(event=event, target=target, moment=moment, after=chance.randint(1, after))
    return chance.choice(LAUNCHERS), disturbance


def one_trial(number: int, seed: int, clusters: "SimpleQueue[Cluster]", place: Path) -> Record:
    """Run a trial on a free cluster; repeat it up to twice if its moment was missed."""
    (LOGS / f"trial-{number}.log").unlink(missing_ok=True)  # from an earlier call that was stopped
    launcher, disturbance = drawn(seed, number)
    cluster = clusters.get()
    try:
        for _ in range(3):
            outcome = _attempt(cluster, number, launcher, disturbance, place)
            if "missed" not in outcome:
                break
    finally:
        clusters.put(cluster)
    return {"number": number, "launcher": launcher, **dataclasses.asdict(disturbance), **outcome}


def _attempt(cluster: Cluster, number: int, launcher: str, disturbance: Disturbance, place: Path) -> Record:
    """Return the outcome of one attempt; write the log of a failed one to torture-logs/."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        try:
            outcome = run_trial(cluster, launcher, disturbance, place / "shards", folder, place / "reference")
        except Exception as error:
            _write_log(number, traceback.format_exc() + log_of(launcher, folder))
            cluster.run("scancel", "--user=root")
            missed = {"missed": True} if isinstance(error, Missed) else {}
            return {"equal": False, "error": f"{type(error).__name__}: {error}"[:500], **missed}
        if not outcome.equal:
            _write_log(number, f"{outcome}\n{log_of(launcher, folder)}")
        return {"equal": outcome.equal, **dataclasses.asdict(outcome)}


def _write_log(number: int, text: str) -> None:
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"trial-{number}.log").write_text(text)


def torture(seed: int, trials: int, at_once: int) -> list[Record]:
    """Run the trials that the results lack, `at_once` at a time, each on its own cluster."""
    records = _earlier(seed)
    todo = [n for n in range(trials) if n not in {record["number"] for record in records}]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxr-torture-")))
        pool = stack.enter_context(ThreadPoolExecutor(at_once))
        clusters: SimpleQueue[Cluster] = SimpleQueue()
        running = [stack.enter_context(running_cluster()) for _ in range(at_once)]
        _train_reference(running[0], place)
        for cluster in running:
            clusters.put(cluster)
        futures = {pool.submit(one_trial, number, seed, clusters, place) for number in todo}
        stack.callback(_drop, futures)
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            records += [future.result() for future in done]
            _write(records, seed)
            for future in done:
                print(_line(future.result()), flush=True)
    return records


def _drop(futures: set[Future[Record]]) -> None:
    for future in futures:
        future.cancel()


def _train_reference(cluster: Cluster, place: Path) -> None:
    write_tiny_shards(place)
    ended = cluster.wait(submit_enhanced(cluster, place / "shards", place / "reference"), seconds=600)
    assert ended["JobState"] == "COMPLETED", (place / "reference.log").read_text()


def _earlier(seed: int) -> list[Record]:
    """Return the records that an earlier call with this seed has written."""
    if not RESULT.exists():
        return []
    known = json.loads(RESULT.read_text())
    return list(known["trials"]) if known["seed"] == seed else []


def _write(records: list[Record], seed: int) -> None:
    ordered = sorted(records, key=lambda record: record["number"])
    result = {
        "what": "jobs of 2 nodes × 2 tasks disturbed at random, beside the job left alone",
        "seed": seed,
        "n": len(records),
        "equal": sum(record["equal"] for record in records),
        "machine": describe_machine(),
        "table": table(records),
        "trials": ordered,
    }
    aside = RESULT.with_suffix(".partial")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(RESULT)


def table(records: list[Record]) -> list[Record]:
    """Summarise, for each event and target, the trials, the equal ones, the requeues and the time to recover."""
    rows = []
    for event, target in matrix():
        of = [record for record in records if (record["event"], record["target"]) == (event, target)]
        times = [seconds for record in of if (seconds := record.get("seconds_to_recover")) is not None]
        rows.append(
            {
                "event": event,
                "target": target,
                "n": len(of),
                "equal": sum(record["equal"] for record in of),
                "requeues": sorted({record["requeues"] for record in of if "requeues" in record}),
                "seconds_to_recover_median": round(statistics.median(times), 1) if times else None,
                "seconds_to_recover_max": round(max(times), 1) if times else None,
            }
        )
    return [row for row in rows if row["n"]]


def _line(record: Record) -> str:
    verdict = "equal" if record["equal"] else "NOT EQUAL"
    what = f"{record['event']} to {record['target']} at {record['moment']}, {record['launcher']}"
    return f"{record['number']:>4}  {verdict:<10}{what}"


def print_table(rows: list[Record]) -> None:
    """Print the table."""
    print(f"{'event':<24}{'target':<15}{'n':>4}{'equal':>7}{'requeues':>10}{'median s':>10}{'max s':>8}")
    for row in rows:
        requeues = ", ".join(map(str, row["requeues"]))
        median, most = row["seconds_to_recover_median"], row["seconds_to_recover_max"]
        print(
            f"{row['event']:<24}{row['target']:<15}{row['n']:>4}{row['equal']:>7}{requeues:>10}{median!s:>10}{most!s:>8}"
        )


def main() -> None:
    """Run the trials and print the table; exit with status 1 if a trial was not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="clusters, with four ranks each")
    options = parser.parse_args()
    if lacks := missing():
        sys.exit(lacks)
    for number in (signal.SIGINT, signal.SIGTERM):  # clean up even if started in the background
        signal.signal(number, signal.default_int_handler)
    try:
        records = torture(options.seed, options.trials, options.at_once)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    print_table(table(records))
    sys.exit(0 if all(record["equal"] for record in records) else 1)


if __name__ == "__main__":
    main()
