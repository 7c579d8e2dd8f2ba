"""Compare how stock webdataset and this package handle damaged and hostile shards.

    python -m benchmarks.faults [--repeats 200]

Every kind of damage is applied to a small synthetic shard `--repeats` times, with fixed seeds. A reader is `silent` if
it raised no error but returned other samples than were written. Writes benchmarks/results/faults.json.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.faults.damages import READERS, measure_damages, small_shards
from benchmarks.faults.trials import measure_trials
from benchmarks.harness import arguments, write_result

Rows = dict[str, dict[str, Any]]


def print_table(damages: Rows, trials: Rows, repeats: int) -> None:
    """Print both tables."""
    print(f"silent outcomes of {repeats}:")
    for name, row in damages.items():
        print(f"  {name:<36}" + "  ".join(f"{reader}: {row[reader].get('silent', 0):>4}" for reader in READERS))
    for name, row in trials.items():
        print(f"  {name}\n      webdataset  {row['webdataset']}\n      cxr_dist    {row['cxr_dist']}")


def main() -> None:
    """Measure, print and write the result."""
    repeats = arguments(__doc__, repeats=200).repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = small_shards(folder)
        damages = measure_damages(whole, folder, repeats)
        trials = measure_trials(whole, folder)
    print_table(damages, trials, repeats)
    trials = {name: {side: answer.split(": ")[0] for side, answer in row.items()} for name, row in trials.items()}
    what = "outcomes of damaged and hostile shards"
    write_result("faults", what, repeats=repeats, damages=damages, trials=trials)


if __name__ == "__main__":
    main()
