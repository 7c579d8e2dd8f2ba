"""Memory of the device: how much there is, a limit on it for a trial, and advice where it ran out.

On CUDA the limit is the caching allocator's. The host has no device limit, so a trial there runs under a limit on
the process's address space: it then fails as it would on a device, instead of being killed by the kernel.
"""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World, micro_batches_for
from cxr_dist.errors import UserError

# What torch, cuBLAS, cuDNN and oneDNN (whose convolutions say no more) write where there is no class of errors for it.
_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "_ALLOC_FAILED",
    "could not create a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch's memory or Python's ran out: on the host torch says so in a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def limited(device: torch.device, share: float, processes: int) -> Iterator[None]:
    """Inside, this process can take `share` (0 to 1) of the memory that is free now, and no more.

    The host's free memory is divided by the number of `processes` that do the same at once; a device is not.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allowed = share * (free + torch.cuda.memory_reserved(device))
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = _bytes_of("/proc/self/status", "VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + int(share * _free_on_host(used, processes)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def describe_memory(device: torch.device) -> str:
    """The device's name and how much memory it has, e.g. `NVIDIA H100, 79.1 GiB`."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {total_memory(device, 1) / 2**30:.1f} GiB"
    used = _bytes_of("/proc/self/status", "VmSize")
    total = total_memory(device, 1)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return f"CPU, {total / 2**30:.1f} GiB"
    return (
        f"CPU, {used / 2**30:.1f} GiB of address space used of the {limit / 2**30:.1f} that this process may"
    )


def total_memory(device: torch.device, processes: int) -> int:
    """Bytes that the device has; of the host's, a part for each of the `processes` that run at once."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return _bytes_of("/proc/meminfo", "MemTotal") // processes


@contextlib.contextmanager
def out_of_memory_explained(
    config: Config, world: World, device: torch.device, when: Callable[[], str]
) -> Iterator[None]:
    """Turn out-of-memory into a UserError: on which rank, how much there is, when, and what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = f"rank {world.rank} of {world.world_size} on {socket.gethostname()}"
        settings = f"micro-batch {config.data.micro_batch}, {config.precision}, {config.parallel}"
        raise UserError(
            f"out of memory on {where} ({describe_memory(device)}) {when()}, with {settings}. "
            "Try, in this order:\n  " + "\n  ".join(advice(config, world.world_size))
        ) from None


def advice(config: Config, world_size: int) -> list[str]:
    """What needs less memory than this configuration, with its price, in the order in which to try it."""
    found = []
    now = config.data.global_batch // config.data.num_lanes
    if smaller := [size for size in micro_batches_for(config.data.global_batch, world_size) if size < now]:
        found.append(
            f"--data.micro-batch {smaller[0]}, or auto, and another --out: the same global batch in more lanes, "
            "whose BatchNorm and random numbers differ"
        )
    model = config.model
    recomputed = (model.checkpoints_image or not model.uses_image) and (
        model.checkpoints_text or not model.uses_text
    )
    if not recomputed:
        found.append(
            "--model.gradient-checkpointing all, in the same --out: parts of the encoders computed twice"
        )
    if config.precision != "bf16":
        found.append("--precision bf16 and another --out: smaller activations")
    stages = ["zero1", "zero2", "zero3"]
    if heavier := [stage for stage in stages if stage > config.parallel]:  # "ddp" < "zero1" < ...
        found.append(f"--parallel {' or '.join(heavier)}, in the same --out, where there are several ranks")
    if not config.deepspeed:
        stage = max("zero2", config.parallel)
        found.append(
            f"--parallel {stage} --deepspeed launch/deepspeed/{stage}_offload.json, in the same --out: the "
            "optimizer's state in the host's memory"
        )
    return found or ["a device with more memory: all else is in use"]


def _free_on_host(used: int, processes: int) -> int:
    """Bytes that this process may still take: of what the machine has free, and of its own limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    free = _bytes_of("/proc/meminfo", "MemAvailable") // processes
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - used))


def _bytes_of(file: str, name: str) -> int:
    """A line `NAME:   123 kB` of one of Linux's files."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
