"""Checks of the machine and its software: packages, environment variables, cores, GPU. Each looks at one thing."""

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
_BUSY_SHARE = 0.10  # of a GPU's memory: more is not the driver's own use


def packages(setting: Setting) -> Finding:
    """Versions, and whether they are what cxr_dist and torchvision ask for in their own metadata."""
    import platform

    names = [*_SHOWN, "deepspeed"] if setting.config.parallel != "ddp" else [*_SHOWN]
    absent = [name for name in ("cxr_dist", *names) if find_spec(name) is None]
    if absent:
        return failed(f"not installed: {', '.join(absent)}", "pip install -e . in the repository")
    unmet = [*_unmet("cxr_dist"), *_unmet("torchvision")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cxr_dist", *names))
    found = f"Python {platform.python_version()}, {versions}"
    if unmet:
        return failed(f"{found}; but {'; '.join(unmet)}", "pip install -e . in the repository mends versions")
    return ok(found)


def _unmet(package: str) -> list[str]:
    """Requirements of an installed package, without its extras, that the installed versions do not meet."""
    wrong = []
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{package} needs {requirement.name}, which is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(
                f"{package} needs {requirement.name}{requirement.specifier}, and {found} is installed"
            )
    return wrong


def torch_and_torchvision(setting: Setting) -> Finding:
    """Whether both import, and torchvision's compiled operators load, which only a build for this torch can."""
    advice = "install both together from one index, as https://pytorch.org/get-started/locally says"
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        return failed(f"torch and torchvision do not work together ({type(error).__name__})", advice)
    return ok(f"torchvision's operators load; torch is built for {_build(torch.version.cuda)}")


def _build(cuda: str | None) -> str:
    return f"CUDA {cuda}" if cuda else "the CPU"


def environment(setting: Setting) -> Finding:
    """Variables that break a run, or that it sets itself."""
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
        return failed(f"{online[0]} is not set: the run could ask the network", "start it with `cxr-dist`")
    return ok("UTF-8; the model hub is off limits")


def cores(setting: Setting) -> Finding:
    """Threads and loader workers of a rank beside the cores that it may use."""
    import torch

    allowed, workers = len(os.sched_getaffinity(0)), setting.config.data.workers
    asked = int(os.environ.get("SLURM_CPUS_PER_TASK", "0"))
    share = asked or max(1, allowed // setting.ranks_on_node)
    threads = torch.get_num_threads()
    found = f"{share} for each rank of this node; threads: {threads}, loader workers: {workers}"
    if allowed < asked:
        return warning(
            f"SLURM_CPUS_PER_TASK is {asked}, but the rank may use only {allowed} cores",
            "give --cpus-per-task to srun, too, or export SRUN_CPUS_PER_TASK",
        )
    if threads > share:
        return warning(f"{found}: ranks would take each other's cores", f"export OMP_NUM_THREADS={share}")
    if workers + 1 > share:
        return warning(
            f"{found}: workers and training share cores",
            f"ask for --cpus-per-task={workers + 1}, or set --data.workers {share - 1}",
        )
    return ok(found)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What the driver and torch say of the GPU that a rank would take."""

    name: str
    total_bytes: int
    free_bytes: int
    bf16: bool
    works: bool
    """Whether a small kernel ran."""


def gpu(setting: Setting) -> Finding:
    """The rank's GPU: there, working, free, and with what the run needs."""
    import torch

    if not torch.cuda.is_available():
        return no_gpu(torch.version.cuda, driver_version(), dict(os.environ))
    return judge_gpu(own_gpu(setting), driver_version(), setting)


def gpu_uuid(setting: Setting) -> str:
    """Of the GPU that training would choose for this rank; empty where there is none."""
    import torch

    if not torch.cuda.is_available():
        return ""
    index = setting.world.local_rank % torch.cuda.device_count()
    return str(torch.cuda.get_device_properties(index).uuid)


def driver_version() -> str:
    """The NVIDIA kernel driver's; empty without one."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().split() if path.is_file() else []
    numbers = [word for word in words if word[0].isdigit() and word.count(".") >= 1]
    return numbers[0] if numbers else ""


def own_gpu(setting: Setting) -> Gpu:
    """The GPU that training would choose for this rank."""
    import torch

    index = setting.world.local_rank % torch.cuda.device_count()
    facts = torch.cuda.get_device_properties(index)
    try:
        works = float(
            torch.ones(64, 64, device=f"cuda:{index}").mm(torch.ones(64, 1, device=f"cuda:{index}"))[0]
        )
    except RuntimeError:  # no kernel for this GPU, or it is broken or taken
        works = 0.0
    free, total = torch.cuda.mem_get_info(index) if works else (0, facts.total_memory)
    bf16 = torch.cuda.get_device_capability(index) >= (8, 0)
    return Gpu(name=facts.name, total_bytes=total, free_bytes=free, bf16=bf16, works=works == 64)


def no_gpu(cuda_build: str | None, driver: str, variables: dict[str, str]) -> Finding:
    """torch sees none: is there none, is it hidden, or is it the wrong torch?"""
    if driver and cuda_build is None:
        return failed(
            f"driver {driver}, but torch is built for the CPU",
            "install the CUDA builds of torch, torchvision",
        )
    if cuda_build and driver and variables.get("CUDA_VISIBLE_DEVICES", "0") == "":
        return failed(f"driver {driver}, but no GPU was given to this job", "ask for --gpus-per-node=N")
    if cuda_build and driver:
        return failed(
            f"driver {driver} shows torch (built for CUDA {cuda_build}) no GPU",
            f"ask for --gpus-per-node=N; a driver older than CUDA {cuda_build} needs another build of torch",
        )
    if variables.get("SLURM_GPUS_ON_NODE", "0") not in ("", "0"):
        return failed(
            "SLURM gave this job GPUs, but there is no driver here",
            "take the node out: --exclude, and report it",
        )
    return warning(
        "none: the run would train on the CPU, with gloo",
        "right on a login node; else ask for --gpus-per-node=N",
    )


def judge_gpu(found: Gpu, driver: str, setting: Setting) -> Finding:
    """From facts to a finding."""
    gib = found.total_bytes / 2**30
    text = f"{found.name}, {gib:.0f} GiB, driver {driver or 'unknown'}"
    if not found.works:
        return failed(
            f"{text}: a small computation on it failed",
            "another node, or a torch built for this GPU; see nvidia-smi",
        )
    if found.free_bytes < (1 - _BUSY_SHARE) * found.total_bytes:
        used = (found.total_bytes - found.free_bytes) / 2**30
        return warning(
            f"{text}: {used:.1f} GiB are taken by other processes",
            "end them (nvidia-smi), or take another GPU",
        )
    if setting.config.precision == "bf16" and not found.bf16:
        return warning(f"{text}: no bf16 in hardware, so it would be slow", "use --precision fp32")
    return ok(text + (", bf16" if found.bf16 else ""))
