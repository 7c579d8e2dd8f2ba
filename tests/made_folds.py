"""Synthetic runs of a cross-validation, for the tests of pooled predictions and of the page."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from made_runs import make_run, member

from cxr_dist.config.file import load_config, to_yaml
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import load_manifest


def make_fold_runs(
    folder: Path,
    predictions: Predictions,
    *,
    folds: int = 3,
    name: str = "fold",
    calibrated: bool = True,
    **options: Any,
) -> list[Path]:
    """Write the runs FOLDER/NAME0, … of a cross-validation whose out-of-fold predictions are `predictions`.

    The patients are dealt to the folds in turn; the shards in FOLDER/shards have no tars.
    """
    fold_of = {patient: i % folds for i, patient in enumerate(sorted(set(predictions.patients)))}
    rows = [np.array([r for r, p in enumerate(predictions.patients) if fold_of[p] == fold]) for fold in range(folds)]
    parts = [predictions.select(each) for each in rows]
    runs = []
    for fold, part in enumerate(parts):
        validation = parts[(fold + 1) % folds] if calibrated else None
        members = [member(name, options.get("mode", "fused"), seed=options.get("seed", 42)) | {"fold": fold}]
        given = {"recipe": "r", "validation": validation, "members": members} | options
        runs.append(make_run(folder / f"{name}{fold}", part, **given))
    digest = _divide_into_folds(folder / "shards", parts)
    for fold, run in enumerate(runs):
        config = load_config(run / "config.yaml")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold))
        (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for path in (run / "environment.json", run / "evaluation" / "test" / "metrics.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest_sha256": digest}), encoding="utf-8")
    return runs


def _divide_into_folds(shards: Path, parts: list[Predictions]) -> str:
    manifest = load_manifest(shards)
    splits = {
        f"fold{fold}": dataclasses.replace(manifest.splits["test"], samples=len(part), patients=len(set(part.patients)))
        for fold, part in enumerate(parts)
    }
    recipe = {"reader": "demo", "split": {"by": "patient", "folds": len(parts), "seed": 1}}
    rows = sum(len(part) for part in parts) + sum(manifest.left_out.values())
    text = dataclasses.replace(manifest, recipe=recipe, splits=splits, source_rows=rows).to_json()
    (shards / "manifest.json").write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()
