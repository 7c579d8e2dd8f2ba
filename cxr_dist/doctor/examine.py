"""`cxr-dist doctor`: check a configuration, and the machines that shall run it, before a job occupies GPUs.

Every rank checks its GPU, one rank of each node checks the node, and rank 0 checks the run. Rank 0 collects
the findings through a store, all ranks sum a buffer, and rank 0 prints.
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
    Findings,
    Setting,
    failed,
    findings_from_json,
    findings_to_json,
    ok,
    outcomes,
)
from cxr_dist.doctor.show import show
from cxr_dist.errors import UserError, printable

if TYPE_CHECKING:
    from cxr_dist.distributed.probe import RollCall

# Longest wait for a rank that starts later than others; train.timeout_minutes may shorten it.
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
"""Checks that are skipped after a failure of another, which they would only repeat."""


def examine(config: Config) -> bool:
    """Run all checks and print the findings (all ranks); False if a check failed, of which rank 0 always knows."""
    world = World.from_environment()
    on_node = ranks.ranks_on_node(world.world_size, world.node)
    setting = Setting(config=config, world=world, ranks_on_node=on_node)
    software = outcomes(_SOFTWARE, setting)
    if any(finding.state == "failed" for finding in software.values()):  # the other checks cannot be imported
        return world.local_rank == 0 and _show_own(setting, software)
    if world.world_size == 1:
        return _show_own(setting, software | own_findings(setting))
    return _examine_together(setting, software)


def own_findings(setting: Setting) -> Findings:
    """Run this rank's own checks: of its GPU, of the node on its first rank, and of the run on rank 0."""
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
    """Run the checks with other ranks (all ranks)."""
    from cxr_dist.distributed.probe import call_the_roll

    seconds = min(60 * setting.config.train.timeout_minutes, _LONGEST_WAIT_SECONDS)
    try:
        roll = call_the_roll(setting.world, seconds)
    except UserError as error:
        if setting.world.is_main:
            return _show_own(setting, software | own_findings(setting) | {"rendezvous": failed(str(error))})
        print(f"cxr-dist doctor: {printable(str(error))}", file=sys.stderr)
        return False
    own = (software if setting.world.local_rank == 0 else {}) | own_findings(setting)
    report = {"host": _host(), "gpu": machine.gpu_uuid(setting), "findings": findings_to_json(own)}
    roll.say("report", json.dumps(report))
    return _lead(setting, roll, seconds) if setting.world.is_main else _follow(setting, roll, seconds)


def _lead(setting: Setting, roll: "RollCall", seconds: float) -> bool:
    """Collect the findings, sum a buffer and print (rank 0)."""
    from cxr_dist.doctor.storage import nearest_existing

    reports = {rank: json.loads(text) for rank, text in roll.hear("report", seconds).items()}
    hosts = {rank: report["host"] for rank, report in reports.items()}
    findings = {rank: findings_from_json(report["findings"]) for rank, report in reports.items()}
    together = {"rendezvous": ranks.who_came(hosts, setting.world.world_size, seconds)}
    together |= ranks.differing(findings, hosts)
    gpus = {rank: report["gpu"] for rank, report in reports.items()}
    if (shared := ranks.devices(gpus, hosts)) is not None:
        together["GPUs"] = shared
    findings[0] |= together
    if together["rendezvous"].state == "failed" or shared is not None:
        roll.say("go", _STOP)
        return _show(setting, findings, hosts)
    with _mark(nearest_existing(setting.config.run_dir)) as mark:
        roll.say("go", mark)
        findings[0] |= _together(setting, roll, seconds, mark, len(set(hosts.values())))
        for rank, text in roll.hear("sum", 2 * seconds).items():
            findings[rank] |= findings_from_json(text)
    good = _show(setting, findings, hosts)
    _leave_if_hanging(findings[0], good)
    return good


def _follow(setting: Setting, roll: "RollCall", seconds: float) -> bool:
    """Follow rank 0, which prints (other ranks)."""
    try:
        mark = roll.hear_main("go", 10 * seconds)  # rank 0 runs its own checks first, which may read a lot
    except UserError as error:
        print(f"cxr-dist doctor: {printable(str(error))}", file=sys.stderr)
        return False
    if mark != _STOP:
        _leave_if_hanging(_together(setting, roll, seconds, mark, 1), True)
    return True


def _together(setting: Setting, roll: "RollCall", seconds: float, mark: str, num_hosts: int) -> Findings:
    """Look for rank 0's mark in the run folder, sum over all ranks and send the findings to rank 0 (all ranks)."""
    from cxr_dist.doctor.storage import nearest_existing

    findings: Findings = {}
    if mark and not (nearest_existing(setting.config.run_dir) / mark).exists():
        findings["run folder seen"] = failed(
            "this host does not see what rank 0 writes there", "--out must be on storage that all nodes share"
        )
    elif mark:
        findings["run folder seen"] = ok("by all hosts")
    findings |= _sum(setting, roll, seconds, num_hosts)
    roll.say("sum", findings_to_json(findings))
    return findings


def _sum(setting: Setting, roll: "RollCall", seconds: float, num_hosts: int) -> Findings:
    from cxr_dist.distributed.probe import all_reduce_speed
    from cxr_dist.doctor.storage import gradient_bytes

    try:
        speed = all_reduce_speed(roll, seconds)
    except UserError as error:
        return {"all-reduce": failed(str(error), ranks.INTERFACES)}
    size = gradient_bytes(setting)
    return {
        "all-reduce": ranks.speed(speed.latency_seconds, speed.bytes_per_second, size, num_hosts),
        "clocks": ranks.clocks(speed.clock_skew_seconds),
    }


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """Write an empty file for the other ranks to look for; yield its name, empty if it cannot be written (rank 0)."""
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
    """Return this host's name, as SLURM calls it if there is a SLURM job."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _show_own(setting: Setting, findings: Findings) -> bool:
    rank = setting.world.rank
    return _show(setting, {rank: findings}, {rank: _host()})


def _show(setting: Setting, findings: dict[int, Findings], hosts: dict[int, str]) -> bool:
    size = setting.world.world_size
    title = f"cxr-dist doctor: run {setting.config.run}, {size} rank{'s' if size > 1 else ''}"
    return show(findings, hosts, title, Console())


def _leave_if_hanging(findings: Findings, good: bool) -> None:
    """Exit at once after a failed all-reduce, because a hanging collective would also block the interpreter's end."""
    if "all-reduce" in findings and findings["all-reduce"].state == "failed":
        sys.stdout.flush()
        os._exit(0 if good else 1)
