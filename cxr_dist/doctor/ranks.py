"""Checks that involve all ranks: their number, whether they joined, equal findings, and the speed of sums."""

import os
from collections.abc import Iterable, Mapping

from cxr_dist.doctor.finding import Finding, Findings, Setting, failed, ok, warning

_ALIKE = ("packages", "shards", "weights")
"""Checks whose finding must be the same on all nodes."""
INTERFACES = "set NCCL_SOCKET_IFNAME (GPUs) or GLOO_SOCKET_IFNAME to the network interface between the nodes"
_SKEW_SECONDS = 2.0  # a larger difference makes the times of files and logs of two nodes misleading
_SLOW_STEP_SECONDS = 1.0  # to sum all gradients of a step


def fit(setting: Setting) -> Finding:
    """Check that this number of ranks can share the run's lanes, and that the engine supports it."""
    from cxr_dist.distributed.backend import check_parallel
    from cxr_dist.distributed.zero_settings import zero_settings
    from cxr_dist.train.memory.micro_batch import check_world_size

    config, world = setting.config, setting.world
    check_world_size(config, world)
    if world.world_size == 1 and config.parallel != "ddp":
        zero_settings(config)
        return warning(
            f"--parallel {config.parallel} needs several ranks, but this is a single one",
            "start the doctor in the same way as the run: sbatch slurm/doctor.sh, torchrun or accelerate launch",
        )
    check_parallel(config, world)
    found = f"world size {world.world_size}, {setting.ranks_on_node} on this node; lanes per rank: "
    if config.data.micro_batch == "auto":
        return ok(found + "known once the first start has determined the micro-batch")
    return ok(found + str(config.data.num_lanes // world.world_size))


def ranks_on_node(world_size: int, node: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of ranks on this node according to torchrun or SLURM (`4(x2),3`: 4, 4 and 3), else all."""
    if "LOCAL_WORLD_SIZE" in environment:
        return int(environment["LOCAL_WORLD_SIZE"])
    counts: list[int] = []
    for part in filter(None, environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node] if node < len(counts) and world_size > 1 else world_size


def who_came(hosts: Mapping[int, str], world_size: int, seconds: float) -> Finding:
    """Check that all ranks joined, given the hosts of those that did."""
    missing = [rank for rank in range(world_size) if rank not in hosts]
    machines = len(set(hosts.values()))
    if not missing:
        return ok(f"all {world_size} ranks met, on {machines} host{'s' if machines > 1 else ''}")
    came = "; ".join(f"{name_ranks(ranks)} on {host}" for host, ranks in by_value(hosts).items())
    return failed(
        f"{name_ranks(missing)} of {world_size} did not join within {seconds:g} s; joined: {came}",
        "see their output, and check that they started and can reach MASTER_ADDR:MASTER_PORT",
    )


def devices(gpus: Mapping[int, str], hosts: Mapping[int, str]) -> Finding | None:
    """Return a failure if ranks share a GPU or only some have one, else None; `gpus` has uuids, empty without a GPU."""
    by_gpu = by_value(gpus)
    without = by_gpu.pop("", [])
    if without and by_gpu:
        return failed(
            f"{name_ranks(without)} (first on {hosts[without[0]]}) have no GPU, and the others have one",
            "request the same GPUs on every node, and exclude the node that shows none",
        )
    for sharing in by_gpu.values():
        if len(sharing) > 1:
            return failed(
                f"{name_ranks(sharing)} would share one GPU of {hosts[sharing[0]]}",
                "start one rank per GPU: set --ntasks-per-node to --gpus-per-node, or set --nproc-per-node",
            )
    return None


def differing(findings: Mapping[int, Findings], hosts: Mapping[int, str]) -> Findings:
    """Return a failure for each check whose `ok` findings must be the same on all ranks but differ."""
    wrong: Findings = {}
    for check in _ALIKE:
        good = {rank: f[check].found for rank, f in findings.items() if check in f and f[check].state == "ok"}
        if len(variants := by_value(good)) > 1:
            sides = "; ".join(f"{hosts[ranks[0]]}: {text}" for text, ranks in variants.items())
            wrong[f"{check} alike"] = failed(
                f"nodes differ: {sides}", "give all nodes the same environment, shards and bundle"
            )
    return wrong


def speed(latency: float, bytes_per_second: float, gradient_bytes: int | None, num_hosts: int) -> Finding:
    """Return the finding for an all-reduce with a correct result."""
    rate = f"{bytes_per_second / 1e9:.2f} GB/s"
    found = f"sum over all ranks is correct; {1e6 * latency:.0f} µs for 4 bytes, {rate} for 25 MiB"
    if gradient_bytes is None:
        return ok(found)
    seconds = 2 * gradient_bytes / bytes_per_second
    found += f"; this run's gradients: at most {1e3 * seconds:.0f} ms a step"
    if seconds > _SLOW_STEP_SECONDS and num_hosts > 1:
        return warning(found, f"{INTERFACES}; larger batches (--data.global-batch) sum less often")
    return ok(found)


def clocks(skew_seconds: float) -> Finding:
    """Compare the clocks of all ranks' hosts."""
    if skew_seconds > _SKEW_SECONDS:
        return warning(f"of the ranks differ by {skew_seconds:.1f} s", "synchronise the nodes' clocks with NTP")
    return ok(f"of all ranks agree to {max(0.01, skew_seconds):.2f} s")


def by_value(items: Mapping[int, str]) -> dict[str, list[int]]:
    """Return value -> the ranks that have it."""
    groups: dict[str, list[int]] = {}
    for rank in sorted(items):
        groups.setdefault(items[rank], []).append(rank)
    return groups


def name_ranks(ranks: Iterable[int]) -> str:
    """Format ranks as `rank 3` or `ranks 0-3, 6`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ("rank " if len(runs) == 1 and len(runs[0]) == 1 else "ranks ") + ", ".join(parts)
