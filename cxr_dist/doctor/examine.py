"""`cxr-dist doctor`: a configuration in, a page of findings out, before GPUs wait for what one check would have told.

Every rank checks its GPU, one rank of a node the node, rank 0 the run. They meet at a store, where rank 0 collects
what they found, then sum a buffer over all ranks. Rank 0 prints.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.doctor import machine, ranks
from cxr_dist.doctor.finding import (
    Check,
    Finding,
    Findings,
    Setting,
    failed,
    from_json,
    ok,
    outcomes,
    to_json,
)
from cxr_dist.doctor.show import show
from cxr_dist.errors import UserError

if TYPE_CHECKING:
    from cxr_dist.distributed.probe import RollCall

# For a rank that starts later than others; train.timeout_minutes may shorten it.
_LONGEST_WAIT_SECONDS = 120.0
_STOP = "stop"

_SOFTWARE: dict[str, Check] = {
    "packages": machine.packages,
    "torch and torchvision": machine.torch_and_torchvision,
}
_NEEDS = {
    "a sample": ("shards",),
    "room for staging": ("shards",),
    "room for checkpoints": ("shards", "weights"),
}
"""Checks that would only repeat the failure of another."""


def examine(config: Config) -> bool:
    """Check everything and print it (all ranks); False on a rank that knows of a failure, as rank 0 always does."""
    world = World.from_environment()
    setting = Setting(
        config=config, world=world, ranks_on_node=ranks.ranks_on_node(world.world_size, world.node)
    )
    software = outcomes(_SOFTWARE, setting)
    if any(finding.state == "failed" for finding in software.values()):  # nothing else can be imported
        return world.local_rank == 0 and _show_own(setting, software)
    if world.world_size == 1:
        return _show_own(setting, software | own_findings(setting))
    return _examine_together(setting, software)


def own_findings(setting: Setting) -> Findings:
    """What this rank is the one to check, without asking another: its GPU, its node, the run."""
    from cxr_dist.doctor import storage

    node: dict[str, Check] = {
        "environment": machine.environment,
        "cores": machine.cores,
        "GPU": machine.gpu,
        "shards": storage.shards,
        "a sample": storage.one_sample,
        "weights": storage.bundle,
        "room for staging": storage.room_for_staging,
        "shared memory": storage.shared_memory,
    }
    run: dict[str, Check] = {
        "run folder": storage.run_folder,
        "room for checkpoints": storage.room_for_checkpoints,
        "ranks": ranks.fit,
    }
    checks = node if setting.world.local_rank == 0 else {"GPU": machine.gpu}
    return outcomes(checks | (run if setting.world.is_main else {}), setting, _NEEDS)


def _examine_together(setting: Setting, software: Findings) -> bool:
    """With other ranks (all ranks)."""
    from cxr_dist.distributed.probe import call_the_roll

    seconds = min(60 * setting.config.train.timeout_minutes, _LONGEST_WAIT_SECONDS)
    try:
        roll = call_the_roll(setting.world, seconds)
    except UserError as error:
        if setting.world.is_main:
            return _show_own(setting, software | own_findings(setting) | {"rendezvous": failed(str(error))})
        print(f"cxr-dist doctor: {error}", file=sys.stderr)
        return False
    own = (software if setting.world.local_rank == 0 else {}) | own_findings(setting)
    report = {"host": _host(), "gpu": machine.gpu_uuid(setting), "findings": to_json(own)}
    roll.say("report", json.dumps(report))
    return _lead(setting, roll, seconds) if setting.world.is_main else _follow(setting, roll, seconds)


def _lead(setting: Setting, roll: "RollCall", seconds: float) -> bool:
    """Collect, sum, print (rank 0)."""
    from cxr_dist.doctor.storage import run_folder_place

    reports = {rank: json.loads(text) for rank, text in roll.hear("report", seconds).items()}
    hosts = {rank: report["host"] for rank, report in reports.items()}
    findings = {rank: from_json(report["findings"]) for rank, report in reports.items()}
    together = {"rendezvous": ranks.who_came(hosts, setting.world.world_size, seconds)}
    together |= ranks.differing(findings, hosts)
    gpus = {rank: report["gpu"] for rank, report in reports.items()}
    if (shared := ranks.devices(gpus, hosts)) is not None:
        together["GPUs"] = shared
    findings[0] |= together
    if together["rendezvous"].state == "failed" or shared is not None:
        roll.say("go", _STOP)
        return _show(setting, findings, hosts)
    with _mark(run_folder_place(setting)) as mark:
        roll.say("go", mark)
        findings[0] |= _together(setting, roll, seconds, mark, len(set(hosts.values())))
        for rank, text in roll.hear("sum", 2 * seconds).items():
            findings[rank] |= from_json(text)
    good = _show(setting, findings, hosts)
    _leave_if_hanging(findings[0], good)
    return good


def _follow(setting: Setting, roll: "RollCall", seconds: float) -> bool:
    """Do what rank 0 says, and leave it to print (other ranks)."""
    try:
        # Its own checks come first, which may read much.
        mark = roll.hear_main("go", 10 * seconds)
    except UserError as error:
        print(f"cxr-dist doctor: {error}", file=sys.stderr)
        return False
    if mark != _STOP:
        _leave_if_hanging(_together(setting, roll, seconds, mark, 1), True)
    return True


def _together(setting: Setting, roll: "RollCall", seconds: float, mark: str, num_hosts: int) -> Findings:
    """Look for rank 0's mark in the run folder, and sum over all ranks (all ranks); tells rank 0."""
    from cxr_dist.doctor.storage import run_folder_place

    found: Findings = {}
    if mark and not (run_folder_place(setting) / mark).exists():
        found["run folder seen"] = failed(
            "this host does not see what rank 0 writes there", "--out must be on storage that all nodes share"
        )
    elif mark:
        found["run folder seen"] = ok("by all hosts")
    found |= _sum(setting, roll, seconds, num_hosts)
    roll.say("sum", to_json(found))
    return found


def _sum(setting: Setting, roll: "RollCall", seconds: float, num_hosts: int) -> Findings:
    from cxr_dist.distributed.backend import device_of
    from cxr_dist.distributed.probe import all_reduce_speed
    from cxr_dist.doctor.storage import gradient_bytes

    try:
        speed = all_reduce_speed(roll, device_of(setting.world), seconds)
    except UserError as error:
        return {"all-reduce": failed(str(error), ranks.INTERFACES)}
    size = gradient_bytes(setting)
    return {
        "all-reduce": ranks.speed(speed.latency_seconds, speed.bytes_per_second, size, num_hosts),
        "clocks": ranks.clocks(speed.clock_skew_seconds),
    }


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """An empty file for the others to look for; its name, or nothing where it cannot be written (rank 0)."""
    path = folder / f".cxr-dist-doctor-{secrets.token_hex(8)}"
    try:
        path.touch(mode=0o600)
    except OSError:
        yield ""
        return
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def _host() -> str:
    """As SLURM calls it, where it does."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _show_own(setting: Setting, findings: Findings) -> bool:
    rank = setting.world.rank
    return _show(setting, {rank: findings}, {rank: _host()})


def _show(setting: Setting, findings: dict[int, Findings], hosts: dict[int, str]) -> bool:
    size = setting.world.world_size
    title = f"cxr-dist doctor: run {setting.config.run}, {size} rank{'s' if size > 1 else ''}"
    return show(findings, hosts, title, Console())


def _leave_if_hanging(found: Findings, good: bool) -> None:
    """A collective that hangs would hold up the end of the interpreter, too."""
    if found.get("all-reduce", Finding(state="ok", found="")).state == "failed":
        sys.stdout.flush()
        os._exit(0 if good else 1)
