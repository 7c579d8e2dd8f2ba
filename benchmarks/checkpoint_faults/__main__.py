"""Test what a resumed run loads after kills while saving, after damage to a checkpoint, and after a full disk.

    python -m benchmarks.checkpoint_faults [--kills 200] [--damages 500]

Each trial saves with the background saver of a run, or damages a saved checkpoint, and compares the loaded state with
the saved one. The full disk is a tmpfs, which only root can mount. Writes benchmarks/results/checkpoint_faults.json.
"""

import contextlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch

from benchmarks.checkpoint_faults.trials import (
    DAMAGES,
    damage_trials,
    fill_trials,
    inode_trials,
    kill_trial,
)  # fmt: skip
from benchmarks.harness import arguments, write_result

KILLED_SIZE = 400_000  # float32 of the model; 4.8 MB with its moments
LONGEST_SECONDS = 0.15  # several saves of that size
Outcomes = dict[str, Counter[str]]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def measure(folder: Path, kills: int, damages: int) -> Outcomes:
    """The number of each outcome, for every kind of trial."""
    chance = Random(0)
    killed = [
        kill_trial(folder / "killed", KILLED_SIZE, chance, LONGEST_SECONDS) for _ in range(kills)
    ]  # one run, which is resumed after each kill
    outcomes = {"kill -9 at a random moment": Counter(killed)}
    for number, name in enumerate(DAMAGES):
        (folder / str(number)).mkdir()
        outcomes[name] = damage_trials(folder / str(number), name, damages)
    with small_disk(folder / "disk") as disk:
        outcomes["a full disk, page by page"] = fill_trials(disk)
        outcomes["no inodes, one by one"] = inode_trials(disk)
    return outcomes


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, kills=200, damages=(500, "number of each kind of damage"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(Path(folder), options.kills, options.damages)
    for name, counts in outcomes.items():
        print(f"{name:<28}" + "   ".join(f"{outcome}: {count}" for outcome, count in counts.items()))
    what = "what is found after faults of checkpoints"
    write_result("checkpoint_faults", what, options, outcomes=outcomes)


if __name__ == "__main__":
    main()
