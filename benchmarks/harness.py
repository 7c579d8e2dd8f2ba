"""The code that all benchmarks share: flags, timing, alternating measurements, tables and result files.

It imports torch only where it is used, because some benchmarks measure processes that have not imported it.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Measured = TypeVar("Measured")


def arguments(doc: str | None, **defaults: Any) -> argparse.Namespace:
    """Parse the command line; `micro_batch=8` becomes the flag `--micro-batch` with the type of its default.

    A list takes several values, and a bool also has `--no-NAME`. A type instead of a default makes the flag optional,
    with the default None. A tuple is (default, help).
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {_module()}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in defaults.items():
        default, words = value if isinstance(value, tuple) else (value, None)
        options: dict[str, Any] = {"type": type(default), "default": default}
        if isinstance(default, bool):
            options = {"action": argparse.BooleanOptionalAction, "default": default}
        elif isinstance(default, list):
            options = {"type": type(default[0]), "nargs": "+", "default": default}
        elif isinstance(default, type):
            options = {"type": default}
        parser.add_argument("--" + name.replace("_", "-"), help=words, **options)
    return parser.parse_args()


def _module() -> str:
    """The module name after `python -m`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else "benchmarks"


def this_device() -> "torch.device":
    """The GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(call: Callable[[], object], device: "torch.device | None" = None, times: int = 1) -> float:
    """Seconds for `times` calls in a row; waits for the GPU before and after."""
    _finish(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: "torch.device | None") -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def in_turns(ways: Mapping[str, Callable[[], Measured]], turns: int, *, warm_up: int = 1) -> dict[str, list[Measured]]:
    """The results of each way, turn by turn, after `warm_up` turns whose results are dropped.

    Every second turn reverses the order, so that a machine that becomes slower affects all ways equally.
    """
    results: dict[str, list[Measured]] = {name: [] for name in ways}
    for turn in range(-warm_up, turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            result = ways[name]()
            results[name] += [result] if turn >= 0 else []
    return results


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median for each name."""
    return {name: statistics.median(each) for name, each in values.items()}


def show(values: Mapping[str, Sequence[float]], digits: int, more: Callable[[str], str] = lambda name: "") -> None:
    """Print one line per name: the median, the lowest and highest value, and the text that `more` gives."""
    for name, each in values.items():
        spread = f"({min(each):.{digits}f} to {max(each):.{digits}f})"
        print(f"  {name:<44}{statistics.median(each):9.{digits}f}  {spread:<22}{more(name)}", flush=True)


def show_numbers(numbers: Mapping[str, float]) -> None:
    """Print one line per number."""
    for name, number in numbers.items():
        print(f"  {name:<56}{number:10.3f}")


def peak_bytes() -> int:
    """The peak physical memory of this process in bytes; the value of rusage would include its parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def torchrun(ranks: int, *command: str) -> list[str]:
    """The command that runs `-m MODULE ARGUMENTS` in `ranks` processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*launcher, *command]


def found_by_ranks(ranks: int, module: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run `-m MODULE FILE OPTIONS` in `ranks` processes; return the JSON that rank 0 wrote to FILE. OPTIONS is JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = torchrun(ranks, "-m", module, str(out), json.dumps(vars(options)))
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def describe_machine() -> dict[str, object]:
    """A description of the machine as plain values for a JSON file."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
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


def _version(package: str) -> str | None:
    """The installed version; None if the package is not installed."""
    import importlib.metadata  # here, because it adds memory to processes whose memory is measured

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def result_path(name: str, device_type: str = "cpu") -> Path:
    """benchmarks/results/NAME.json, or NAME-cuda.json for results of a GPU."""
    return RESULTS / f"{name}{'' if device_type == 'cpu' else f'-{device_type}'}.json"


def write_result(
    name: str,
    what: str,
    options: argparse.Namespace | None = None,
    device: "torch.device | None" = None,
    **found: object,
) -> None:
    """Write `found` with the options (without paths, which are local), the device and the machine."""
    result: dict[str, object] = {"what": what}
    if options is not None:
        given = vars(options).items()
        result["options"] = {name: value for name, value in given if not isinstance(value, Path | None)}
    if device is not None:
        result["device"] = device.type
    result |= found | {"machine": describe_machine()}
    path = result_path(name, device.type if device else "cpu")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
