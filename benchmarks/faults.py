"""What damaged and hostile shards do, in stock webdataset and here: a table of silent and noticed.

    python -m benchmarks.faults [--repeats 200]

Each damage is done to a small made shard so many times, seeded; a reader is silent where it raised nothing and
gave other samples than were written. Prints the table and writes benchmarks/results/faults.json.
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fault_damages import DAMAGES, READERS, make_shards, outcome, read_ours
from benchmarks.fault_trials import TRIALS
from benchmarks.hardware import describe_machine

Row = dict[str, Any]


def measure_damages(whole: Path, folder: Path, repeats: int) -> dict[str, Row]:
    """Damage -> reader -> how often each outcome."""
    expected, rows = read_ours(whole), {}
    for name, damage in DAMAGES.items():
        chance, counts = Random(0), {reader: Counter[str]() for reader in READERS}
        for _ in range(repeats):
            shards = Path(shutil.copytree(whole, folder / "damaged"))
            damage(shards, chance)
            for reader, read in READERS.items():
                counts[reader][outcome(read, shards, expected)] += 1
            shutil.rmtree(shards)
        rows[name] = {reader: dict(count) for reader, count in counts.items()}
    return rows


def measure_trials(whole: Path, folder: Path) -> dict[str, Row]:
    """Trial -> what each side did."""
    rows = {}
    for number, (name, trial) in enumerate(TRIALS.items()):
        place = folder / f"trial{number}"
        place.mkdir()
        stock, ours = trial(Path(shutil.copytree(whole, place / "shards")), place)
        rows[name] = {"webdataset": stock, "cxr_dist": ours}
    return rows


def print_table(damages: dict[str, Row], trials: dict[str, Row], repeats: int) -> None:
    """The two tables as text."""
    print(f"silent, of {repeats}:")
    for name, row in damages.items():
        print(
            f"  {name:<36}" + "  ".join(f"{reader}: {row[reader].get('silent', 0):>4}" for reader in READERS)
        )
    for name, row in trials.items():
        print(f"  {name}\n      webdataset  {row['webdataset']}\n      cxr_dist    {row['cxr_dist']}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = make_shards(folder)
        damages = measure_damages(whole, folder, options.repeats)
        trials = measure_trials(whole, folder)
    print_table(damages, trials, options.repeats)
    trials = {
        name: {side: answer.split(": ")[0] for side, answer in row.items()} for name, row in trials.items()
    }
    result = {
        "what": "outcomes of damaged and hostile shards",
        "repeats": options.repeats,
        "damages": damages,
        "trials": trials,
        "machine": describe_machine(),
    }
    path = Path(__file__).parent / "results" / "faults.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
