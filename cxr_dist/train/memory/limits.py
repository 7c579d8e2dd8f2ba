"""Device memory: its size, a limit on it for a trial, and advice when it runs out.

On CUDA the limit is that of the caching allocator. On the CPU it is a limit on the address space of the process, so
that a trial that needs too much raises an error and is not killed by the operating system.
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

# Messages of torch, cuBLAS, cuDNN and oneDNN, whose errors have no class of their own when memory runs out.
_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "_ALLOC_FAILED",
    "could not create a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory. On the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def limited(device: torch.device, share: float, processes: int) -> Iterator[None]:
    """Context manager that limits this process to `share` (0 to 1) of the memory that is free now.

    The host's free memory is divided by the number of `processes` that run at the same time; a device's is not.
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
    """The name of the device and the size of its memory, such as `NVIDIA H100, 79.1 GiB`."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {total_memory(device, 1) / 2**30:.1f} GiB"
    used = _bytes_of("/proc/self/status", "VmSize")
    total = total_memory(device, 1)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return f"CPU, {total / 2**30:.1f} GiB"
    return f"CPU, {used / 2**30:.1f} GiB of the allowed {limit / 2**30:.1f} GiB of address space in use"


def total_memory(device: torch.device, processes: int) -> int:
    """Bytes of the device's memory; on the CPU, divided by the number of `processes` that run at the same time."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return _bytes_of("/proc/meminfo", "MemTotal") // processes


@contextlib.contextmanager
def out_of_memory_explained(config: Config, world: World, when: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError with the rank, the device's memory, the time and advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = f"rank {world.rank} of {world.world_size} on {socket.gethostname()}"
        settings = f"micro-batch {config.data.micro_batch}, {config.precision}, {config.parallel}"
        raise UserError(
            f"out of memory on {where} ({describe_memory(world.device)}) {when()}, with {settings}. "
            "Try, in this order:\n  " + "\n  ".join(advice(config, world.world_size))
        ) from None


def advice(config: Config, world_size: int) -> list[str]:
    """Settings that need less memory than this configuration, with their cost, in the order in which to try them."""
    settings = []
    now = config.data.global_batch // config.data.num_lanes
    sizes = micro_batches_for(config.data.global_batch, world_size, exact=config.exact_sums)
    if smaller := [size for size in sizes if size < now]:
        settings.append(
            f"--data.micro-batch {smaller[0]}, or auto, and another --out: the same global batch in more lanes, with "
            "other BatchNorm statistics and random numbers"
        )
    model = config.model
    recomputes_image = model.checkpoints_image or not model.uses_image
    if not (recomputes_image and (model.checkpoints_text or not model.uses_text)):
        settings.append(
            "--model.gradient-checkpointing all, in the same --out: parts of the encoders are computed twice"
        )
    if config.precision != "bf16":
        settings.append("--precision bf16 and another --out: smaller activations")
    if config.exact_sums:  # which ZeRO does not support
        settings.append("--exact-sums false and another --out: fewer copies of the gradients, but other rounding")
        return settings
    stages = ["zero1", "zero2", "zero3"]
    if heavier := [stage for stage in stages if stage > config.parallel]:  # "ddp" < "zero1" < ...
        settings.append(f"--parallel {' or '.join(heavier)}, in the same --out, if there are several ranks")
    if not config.deepspeed:
        stage = max("zero2", config.parallel)
        settings.append(
            f"--parallel {stage} --deepspeed launch/deepspeed/{stage}_offload.json, in the same --out: the "
            "optimizer state is in host memory"
        )
    return settings or ["a device with more memory: all other options are in use"]


def _free_on_host(used: int, processes: int) -> int:
    """Bytes that this process may still allocate, given the machine's free memory and the limit of the process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    free = _bytes_of("/proc/meminfo", "MemAvailable") // processes
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - used))


def _bytes_of(file: str, name: str) -> int:
    """The value of a line `NAME:   123 kB` of a file in /proc, in bytes."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
