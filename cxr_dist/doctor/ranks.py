"""Checks that need all ranks: do they fit the run, did they come, is what they found alike, how fast are sums?"""

import os
from collections.abc import Iterable, Mapping

from cxr_dist.doctor.finding import Finding, Findings, Setting, failed, ok, warning

_ALIKE = ("packages", "shards", "weights")
"""Checks whose finding must be the same everywhere."""
INTERFACES = "name the interface that joins the nodes with NCCL_SOCKET_IFNAME (GPUs) or GLOO_SOCKET_IFNAME"
_SKEW_SECONDS = 2.0  # more makes the times of files and logs of two nodes misleading
_SLOW_SHARE_SECONDS = 1.0  # for all gradients of a step


def fit(setting: Setting) -> Finding:
    """Whether this number of ranks can share the run's lanes, and the engine runs with it."""
    from cxr_dist.distributed.backend import check_parallel
    from cxr_dist.distributed.zero_settings import zero_settings
    from cxr_dist.train.memory.micro_batch import check_world_size

    config, world = setting.config, setting.world
    check_world_size(config, world)
    if world.world_size == 1 and config.parallel != "ddp":
        zero_settings(config)
        return warning(
            f"--parallel {config.parallel} needs several ranks, and this is one",
            "start the doctor as the run will be: sbatch slurm/doctor.sh, torchrun or accelerate launch",
        )
    check_parallel(config, world)
    found = f"world size {world.world_size}, of which here {setting.ranks_on_node}; lanes of each: "
    if config.data.micro_batch == "auto":
        return ok(found + "known once the micro-batch was found, at the first start")
    return ok(found + str(config.data.num_lanes // world.world_size))


def ranks_on_node(world_size: int, node: int, environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks this node has, as torchrun or SLURM (`4(x2),3`: 4, 4 and 3) say; all of them where none does."""
    if "LOCAL_WORLD_SIZE" in environment:
        return int(environment["LOCAL_WORLD_SIZE"])
    counts: list[int] = []
    for part in filter(None, environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node] if node < len(counts) and world_size > 1 else world_size


def who_came(hosts: Mapping[int, str], world_size: int, seconds: float) -> Finding:
    """`hosts`: of the ranks that came."""
    missing = [rank for rank in range(world_size) if rank not in hosts]
    machines = len(set(hosts.values()))
    if not missing:
        return ok(f"all {world_size} ranks met, on {machines} host{'s' if machines > 1 else ''}")
    came = "; ".join(f"{name_ranks(ranks)} on {host}" for host, ranks in by_value(hosts).items())
    return failed(
        f"{name_ranks(missing)} of {world_size} did not come within {seconds:g} s; came: {came}",
        "see what they printed: did they start, and do they reach MASTER_ADDR:MASTER_PORT?",
    )


def devices(gpus: Mapping[int, str], hosts: Mapping[int, str]) -> Finding | None:
    """The failure of ranks that share a GPU, or of some that have none; None where there is neither.

    `gpus`: uuid by rank, empty without one.
    """
    by_gpu = by_value(gpus)
    without = by_gpu.pop("", [])
    if without and by_gpu:
        return failed(
            f"{name_ranks(without)} (first on {hosts[without[0]]}) have no GPU, and the others have one",
            "ask for the same GPUs on every node, and take out the node that shows none",
        )
    for sharing in by_gpu.values():
        if len(sharing) > 1:
            return failed(
                f"{name_ranks(sharing)} would share one GPU of {hosts[sharing[0]]}",
                "start one rank per GPU: --ntasks-per-node as --gpus-per-node, or --nproc-per-node",
            )
    return None


def differing(findings: Mapping[int, Findings], hosts: Mapping[int, str]) -> Findings:
    """For each check whose good findings differ between ranks, and should not, a failure that names both sides."""
    wrong: Findings = {}
    for check in _ALIKE:
        texts = {
            rank: f[check].found for rank, f in findings.items() if check in f and f[check].state == "ok"
        }
        if len(variants := by_value(texts)) > 1:
            sides = "; ".join(f"{hosts[ranks[0]]}: {text}" for text, ranks in variants.items())
            wrong[f"{check} alike"] = failed(
                f"nodes differ: {sides}", "give all nodes the same environment, shards and bundle"
            )
    return wrong


def speed(latency: float, bytes_per_second: float, gradient_bytes: int | None, num_hosts: int) -> Finding:
    """Of an all-reduce that was right."""
    rate = f"{bytes_per_second / 1e9:.2f} GB/s"
    found = f"sum over all ranks is right; {1e6 * latency:.0f} µs for 4 bytes, {rate} for 25 MiB"
    if gradient_bytes is None:
        return ok(found)
    seconds = 2 * gradient_bytes / bytes_per_second
    found += f"; this run's gradients: at most {1e3 * seconds:.0f} ms a step"
    if seconds > _SLOW_SHARE_SECONDS and num_hosts > 1:
        return warning(
            found, f"{INTERFACES}, the fast one; larger batches (--data.global-batch) sum less often"
        )
    return ok(found)


def clocks(skew_seconds: float) -> Finding:
    """Of all ranks' hosts."""
    if skew_seconds > _SKEW_SECONDS:
        return warning(f"of the ranks differ by {skew_seconds:.1f} s", "let NTP set the nodes' clocks")
    return ok(f"of all ranks agree to {max(0.01, skew_seconds):.2f} s")


def by_value(items: Mapping[int, str]) -> dict[str, list[int]]:
    """Value -> the ranks that have it."""
    found: dict[str, list[int]] = {}
    for rank in sorted(items):
        found.setdefault(items[rank], []).append(rank)
    return found


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-3, 6`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ("rank " if len(runs) == 1 and len(runs[0]) == 1 else "ranks ") + ", ".join(parts)
