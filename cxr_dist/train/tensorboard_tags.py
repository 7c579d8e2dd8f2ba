"""What TensorBoard shows of a run: which values, under which names and in which charts, and the run's settings.

TensorBoard sorts charts by name, so `auc/…` and `loss/…` come first. Its tab "Custom Scalars" has training and
validation loss in one chart.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_dist.config.lookup import recorded_name

_FIRST = {
    "validation/macro/roc_auc": "auc/validation",
    "train/loss": "loss/train",
    "validation/log_loss": "loss/validation",
}
BEST_AUC, BEST_LOSS = "validation/best/roc_auc", "validation/best/log_loss"
"""The highest mean ROC AUC of the validations of a run, and the log loss of that validation."""
_MAIN = (
    "macro/roc_auc",
    "macro/average_precision",
    "macro/f1",
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "brier",
    "ece",
)
LAYOUT = {
    "First": {
        "Loss": ["Multiline", ["^loss/train$", "^loss/validation$"]],
        "Validation ROC AUC, mean over the classes": ["Multiline", ["^auc/validation$"]],
        "Validation ROC AUC of each class": ["Multiline", ["^validation/per_class/.*/roc_auc$"]],
    },
    "Training": {
        "Learning rate": ["Multiline", ["^train/learning_rate$"]],
        "Gradient norm": ["Multiline", ["^train/gradient_norm$"]],
        "Samples per second": ["Multiline", ["^train/samples_per_second$"]],
    },
}
_PATHS = {"out", "deepspeed", "trackers", "data.shards", "data.stage_dir", "model.weights", "model.init_from"}


def shown(values: Mapping[str, float], *, everything: bool) -> Iterator[tuple[str, float]]:
    """Yield (tag, value) of the values to show; a value that comes first has its own name too.

    Unless `everything` is asked for, validations have the main metrics and the ROC AUC of each class.
    """
    for name, value in values.items():
        if name in _FIRST:
            yield _FIRST[name], value
        if name != "epoch" and (everything or _is_main(name)):
            yield name, value


def _is_main(name: str) -> bool:
    room, _, metric = name.partition("/")
    return room == "train" or (
        room == "validation"
        and (
            metric in _MAIN
            or metric.startswith("retrieval/")
            or (metric.startswith("per_class/") and metric.endswith("/roc_auc"))
        )
    )


def settings_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return section.field -> value of a configuration as in config.yaml, without folders and files of this machine.

    Of a part that is named FILE.py:NAME, the folder of FILE.py is left out. Lists become texts.
    """
    settings: dict[str, bool | int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= settings_of(value, f"{prefix}{name}.")
        elif prefix + name not in _PATHS and value is not None:
            plain = isinstance(value, (bool, int, float))
            texts = value if isinstance(value, list) else [value]
            settings[prefix + name] = value if plain else ", ".join(recorded_name(str(text)) for text in texts)
    return settings


def best_validation(run_dir: Path) -> tuple[int, dict[str, float]] | None:
    """Return the step of the best validation in metrics.jsonl and its values by tag; None if there was none."""
    path = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    checks = [line for line in lines if line.get("validation", {}).get("mean_auc") is not None]
    if not checks:
        return None
    best = max(checks, key=lambda line: line["validation"]["mean_auc"])
    found = {BEST_AUC: best["validation"]["mean_auc"], BEST_LOSS: best["validation"]["loss"]}
    return best["step"], {tag: value for tag, value in found.items() if value is not None}
