"""A user-defined tracker: it writes RUN_DIR/values.csv, one row per number of a logged step or validation.

    cxr-dist train demo --data.shards SHARDS --trackers examples/own_tracker/tracker.py:CsvTracker

Rank 0 creates it before the first step. A resumed run creates it again and logs the steps after its checkpoint again.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure


class CsvTracker:
    """Appends numbers to values.csv and saves figures in RUN_DIR/figures."""

    def __init__(self, run_dir: Path, config: Mapping[str, object]) -> None:
        """`config` holds the settings of config.yaml."""
        self._run_dir = run_dir
        self._file = (run_dir / "values.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name: train/…, validation/… and draws/…, and `epoch`."""
        self._rows.writerows([step, name, value] for name, value in values.items())
        self._file.flush()

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure of a validation, such as validation/roc."""
        path = self._run_dir / "figures" / f"{name}-{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)

    def close(self) -> None:
        """Called when the run has ended."""
        self._file.close()
