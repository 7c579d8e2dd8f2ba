"""What a benchmark ran on (processor, GPU, versions and date), and where its result goes."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> dict[str, object]:
    """Plain values for a JSON file."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("torch", "torchvision", "webdataset", "opencv-python-headless", "transformers", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def result_path(name: str, device: torch.device) -> Path:
    """benchmarks/results/NAME.json, or NAME-cuda.json for what a GPU computed: neither overwrites the other."""
    kind = "" if device.type == "cpu" else f"-{device.type}"
    return RESULTS / f"{name}{kind}.json"


def _version(package: str) -> str | None:
    """None where it is not installed under this name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
