"""Checks of the machine and its software: packages, environment variables, cores and GPU."""

import importlib.metadata
import locale
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from cxr_dist.doctor.finding import Finding, Setting, failed, ok, warning
from cxr_dist.model.offline import OFFLINE

_SHOWN = ("torch", "torchvision", "transformers", "accelerate")
_BUSY_SHARE = 0.10  # of a GPU's memory; a larger share is not the driver's own use


def packages(setting: Setting) -> Finding:
    """Check that all packages are installed in the versions that cxr_dist and torchvision require."""
    import platform

    names = [*_SHOWN, "deepspeed"] if setting.config.parallel != "ddp" else [*_SHOWN]
    absent = [name for name in ("cxr_dist", *names) if find_spec(name) is None]
    if absent:
        return failed(f"not installed: {', '.join(absent)}", "pip install -e . in the repository")
    unmet = [*_unmet("cxr_dist"), *_unmet("torchvision")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cxr_dist", *names))
    found = f"Python {platform.python_version()}, {versions}"
    if unmet:
        return failed(f"{found}; but {'; '.join(unmet)}", "pip install -e . in the repository corrects the versions")
    return ok(found)


def _unmet(package: str) -> list[str]:
    """Return the requirements of an installed package, without extras, that installed versions do not meet."""
    unmet = []
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{package} needs {requirement.name}, which is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{package} needs {requirement.name}{requirement.specifier}, but {version} is installed")
    return unmet


def torch_and_torchvision(setting: Setting) -> Finding:
    """Check that both can be imported, and that torchvision's compiled operators were built for this torch."""
    advice = "install both together from one index, as https://pytorch.org/get-started/locally says"
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        return failed(f"torch and torchvision do not work together ({type(error).__name__})", advice)
    cuda = torch.version.cuda
    return ok(f"torchvision's operators load; torch is built for {f'CUDA {cuda}' if cuda else 'the CPU'}")


def environment(setting: Setting) -> Finding:
    """Check variables that break a run, or that the command line sets."""
    if os.environ.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL":
        return failed(
            "TORCH_DISTRIBUTED_DEBUG=DETAIL ends DistributedDataParallel with a segmentation fault on the CPU",
            "unset TORCH_DISTRIBUTED_DEBUG, or set it to INFO",
        )
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8":
        return warning(f"texts are read as {encoding}, not as UTF-8", "export PYTHONUTF8=1")
    online = [name for name, value in OFFLINE.items() if os.environ.get(name) != value]
    if online:
        return failed(f"{online[0]} is not set: the run could use the network", "start it with `cxr-dist`")
    return ok("UTF-8; access to the model hub is disabled")


def cores(setting: Setting) -> Finding:
    """Compare a rank's threads and loader workers with the cores that it may use."""
    import torch

    allowed, workers = len(os.sched_getaffinity(0)), setting.config.data.workers
    asked = int(os.environ.get("SLURM_CPUS_PER_TASK", "0"))
    share = asked or max(1, allowed // setting.ranks_on_node)
    threads = torch.get_num_threads()
    found = f"{share} for each rank of this node; threads: {threads}, loader workers: {workers}"
    if allowed < asked:
        return warning(
            f"SLURM_CPUS_PER_TASK is {asked}, but the rank may use only {allowed} cores",
            "also give --cpus-per-task to srun, or export SRUN_CPUS_PER_TASK",
        )
    if threads > share:
        return warning(f"{found}: ranks would compete for cores", f"export OMP_NUM_THREADS={share}")
    if workers + 1 > share:
        return warning(
            f"{found}: workers and training share cores",
            f"request --cpus-per-task={workers + 1}, or set --data.workers {share - 1}",
        )
    return ok(found)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Properties of the GPU that a rank would use."""

    name: str
    total_bytes: int
    free_bytes: int
    bf16: bool
    works: bool
    """Whether a small kernel ran."""


def gpu(setting: Setting) -> Finding:
    """Check that the rank's GPU is visible, works, is free and supports what the run needs."""
    import torch

    if not torch.cuda.is_available():
        return no_gpu(torch.version.cuda, driver_version(), dict(os.environ))
    return judge_gpu(own_gpu(setting), driver_version(), setting)


def gpu_uuid(setting: Setting) -> str:
    """Return the uuid of the GPU that training would use on this rank; empty if there is none."""
    import torch

    if not torch.cuda.is_available():
        return ""
    index = setting.world.local_rank % torch.cuda.device_count()
    return str(torch.cuda.get_device_properties(index).uuid)


def driver_version() -> str:
    """Return the version of the NVIDIA kernel driver; empty if there is none."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().split() if path.is_file() else []
    numbers = [word for word in words if word[0].isdigit() and word.count(".") >= 1]
    return numbers[0] if numbers else ""


def own_gpu(setting: Setting) -> Gpu:
    """Return the properties of the GPU that training would use on this rank."""
    import torch

    index = setting.world.local_rank % torch.cuda.device_count()
    facts = torch.cuda.get_device_properties(index)
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        product = float(ones.mm(ones)[0, 0])
    except RuntimeError:  # no kernel for this GPU, or it is broken or in exclusive use
        product = 0.0
    free, total = torch.cuda.mem_get_info(index) if product else (0, facts.total_memory)
    bf16 = torch.cuda.get_device_capability(index) >= (8, 0)
    return Gpu(name=facts.name, total_bytes=total, free_bytes=free, bf16=bf16, works=product == 64)


def no_gpu(cuda_build: str | None, driver: str, variables: dict[str, str]) -> Finding:
    """Say why torch sees no GPU: there is none, it is hidden, or this is the wrong build of torch."""
    if driver and cuda_build is None:
        return failed(
            f"driver {driver}, but torch is built for the CPU",
            "install the CUDA builds of torch, torchvision",
        )
    if cuda_build and driver and variables.get("CUDA_VISIBLE_DEVICES", "0") == "":
        return failed(f"driver {driver}, but no GPU was given to this job", "request --gpus-per-node=N")
    if cuda_build and driver:
        return failed(
            f"driver {driver} shows torch (built for CUDA {cuda_build}) no GPU",
            f"request --gpus-per-node=N; a driver older than CUDA {cuda_build} needs another build of torch",
        )
    if variables.get("SLURM_GPUS_ON_NODE", "0") not in ("", "0"):
        return failed(
            "SLURM gave this job GPUs, but there is no driver on this node",
            "avoid the node with --exclude, and report it",
        )
    return warning(
        "none: the run would train on the CPU, with gloo",
        "this is expected on a login node; elsewhere request --gpus-per-node=N",
    )


def judge_gpu(gpu: Gpu, driver: str, setting: Setting) -> Finding:
    """Turn the properties of a GPU into a finding."""
    text = f"{gpu.name}, {gpu.total_bytes / 2**30:.0f} GiB, driver {driver or 'unknown'}"
    if not gpu.works:
        return failed(
            f"{text}: a small computation on it failed",
            "use another node, or a torch built for this GPU; see nvidia-smi",
        )
    if gpu.free_bytes < (1 - _BUSY_SHARE) * gpu.total_bytes:
        used = (gpu.total_bytes - gpu.free_bytes) / 2**30
        return warning(
            f"{text}: {used:.1f} GiB are used by other processes", "end them (nvidia-smi), or use another GPU"
        )
    if setting.config.precision == "bf16" and not gpu.bf16:
        return warning(f"{text}: no bf16 in hardware, so it would be slow", "use --precision fp32")
    return ok(text + (", bf16" if gpu.bf16 else ""))
