"""A tracker of your own: RUN_DIR/values.csv, a row for each number of each logged step and validation.

    cxr-dist train demo --data.shards SHARDS --trackers examples/own_tracker/tracker.py:CsvTracker

It is made on rank 0, before the first step. A resumed run makes it again, and repeats the steps after its checkpoint.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure


class CsvTracker:
    """Appends to values.csv; draws figures into RUN_DIR/figures."""

    def __init__(self, run_dir: Path, config: Mapping[str, object]) -> None:
        """`config` is what config.yaml holds."""
        self._run_dir = run_dir
        self._file = (run_dir / "values.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Names are train/…, validation/… and draws/…, and `epoch`."""
        self._rows.writerows([step, name, value] for name, value in values.items())
        self._file.flush()

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """A figure of a validation, such as validation/roc."""
        path = self._run_dir / "figures" / f"{name}-{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)

    def close(self) -> None:
        """The run has ended."""
        self._file.close()
