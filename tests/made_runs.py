"""Synthetic predictions and run folders for the tests of evaluation and report, from a seed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import to_yaml
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.optim import LossConfig
from cxr_dist.config.run import Config
from cxr_dist.data.swap import Modality
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.audit import Swapped
from cxr_dist.evaluate.calibrator_choice import choose_calibrator
from cxr_dist.evaluate.donors import KINDS, NO_DONOR, Kind, donors
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.population import population
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.uncertainty import summarise
from cxr_dist.format.manifest import Manifest, ShardEntry, SplitEntry
from cxr_dist.run.folder import mark_finished

CLASSES = ("normal", "cardiomegaly", "effusion", "opacity", "nodule")
RUNS = {"baseline": ("image", 1.0), "text-only": ("text", 1.3), "enhanced": ("fused", 2.0)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Elementwise, in float64."""
    return 1 / (1 + np.exp(-logits))


def make_predictions(
    *,
    task: str = "multiclass",
    n: int = 150,
    classes: tuple[str, ...] = CLASSES,
    skill: float = 1.5,
    passes: int = 30,
    seed: int = 0,
    data: int = 7,
) -> Predictions:
    """Predictions with logits of `skill` times the truth plus noise. `data` is the seed of the labels."""
    truth_random, random = np.random.default_rng(data), np.random.default_rng(seed)
    shares = np.linspace(2, 1, len(classes)) / np.linspace(2, 1, len(classes)).sum()
    if task == "multiclass":
        labels = truth_random.choice(len(classes), size=(n, 1), p=shares).astype(np.int16)
        target = np.eye(len(classes))[labels[:, 0]]
    else:
        labels = truth_random.choice([1, 0, -1], size=(n, len(classes)), p=[0.3, 0.6, 0.1]).astype(np.int16)
        target = (labels == 1) * 1.0
    difficulty = truth_random.normal(
        0, 1, size=(n, len(classes))
    )  # the same for all runs: some images are hard for every model
    logits = skill * target + 0.6 * difficulty + random.normal(0, 0.7, size=difficulty.shape)
    probability = softmax if task == "multiclass" else sigmoid
    drops = random.normal(0, 0.5, size=(passes, n, len(classes)))
    return Predictions(
        task=task,
        classes=classes,
        keys=[f"made{data}-{i:05d}" for i in range(n)],
        patients=[hashlib.sha256(f"{data}/{i * 2 // 3}".encode()).hexdigest()[:16] for i in range(n)],
        labels=labels,
        probabilities=probability(logits),
        mc=summarise(probability(logits + drops), task) if passes else None,
        attributes={"view": [("PA", "AP", "lateral", "")[i % 7 % 4] for i in range(n)]},
    )


def swapped_of(own: Predictions, used: dict[Modality, float]) -> dict[tuple[Modality, Kind], Swapped]:
    """What a model predicts after each swap if its answer depends on each modality by these weights, 0 to 1."""
    found: dict[tuple[Modality, Kind], Swapped] = {}
    for modality, weight in used.items():
        for kind in KINDS:
            rows = donors(own.labels, own.patients, kind)
            given = own.probabilities[np.where(rows == NO_DONOR, np.arange(len(own)), rows)]
            mixed = weight * given + (1 - weight) * own.probabilities
            after = dataclasses.replace(own, probabilities=mixed, mc=None)
            found[modality, kind] = Swapped(predictions=after, donors=rows)
    return found


def make_manifest(shards: Path, predictions: Predictions) -> str:
    """Write SHARDS/manifest.json of a synthetic data set; returns its sha256."""
    counts = {name: {"positive": 70, "negative": 280, "unknown": 0} for name in predictions.classes}
    entry = ShardEntry(
        file="train-00000.tar",
        index="train-00000.index.npy",
        samples=350,
        bytes=1_000_000,
        sha256="0" * 64,
        index_sha256="0" * 64,
        group_counts=(70,) * len(predictions.classes),
    )
    sizes = {
        "train": (700, 466),
        "val": (150, 100),
        "test": (len(predictions), len(set(predictions.patients))),
    }
    manifest = Manifest(
        recipe={"reader": "demo"},
        reader="demo",
        task=predictions.task,
        classes=predictions.classes,
        text_sections=("indication", "findings", "impression"),
        split_by="patient",
        image={"short_side": 128, "quality": 92},
        made_data=True,
        source_rows=852 + len(predictions),
        left_out={"image cannot be read": 2},
        splits={
            name: SplitEntry(samples=samples, patients=patients, label_counts=counts, shards=(entry,))
            for name, (samples, patients) in sizes.items()
        },
    )
    shards.mkdir(parents=True, exist_ok=True)
    text = manifest.to_json()
    (shards / "manifest.json").write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def make_run(
    folder: Path,
    predictions: Predictions,
    *,
    mode: str = "fused",
    made_data: bool = True,
    sections: tuple[str, ...] = ("indication", "findings"),
    split_by: str = "patient",
    validation: Predictions | None = None,
    recipe: str = "",
    loss: str = "cross_entropy",
    seed: int = 42,
    finished: bool = True,
    **changes: Any,
) -> Path:
    """Write the folder of a finished run as training and evaluation do, without weights."""
    shards = folder.parent / "shards"
    digest = make_manifest(shards, predictions)
    config = Config(
        run=recipe or folder.name,
        seed=seed,
        loss=LossConfig(name=loss),
        data=DataConfig(shards=str(shards), text_sections=sections, global_batch=32, micro_batch=16),
        model=ModelConfig(mode=mode, image_encoder="densenet-narrow", text_encoder="tiny", pretrained=False),
    )
    choice = None if validation is None else choose_calibrator(validation)
    predictions = predictions.calibrated(None if choice is None else choice.calibrator)
    evaluation = {
        "run": folder.name,
        "mode": mode,
        "split": "test",
        "text_sections": list(sections) if mode != "image" else [],
        "split_by": split_by,
        "made_data": made_data,
        "label_source": "drawn by the phantom",
        "label_terms_redacted": False,
        "patients_in_training": 0,
        "manifest_sha256": digest,
        "checkpoint_step": 180,
        "members": [member(folder.name, mode, sections)],
        "mc_scope": "head" if predictions.mc is not None else None,
        **assess(predictions, validation, choice, n_bootstrap=100),
    }
    out = folder / "evaluation" / "test"
    out.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(_environment(digest, folder.name)), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(map(_line, _history())), encoding="utf-8")
    (out / "metrics.json").write_text(strict_json(evaluation | changes), encoding="utf-8")
    predictions.write_csv(out / "predictions.csv")
    if finished:
        mark_finished(folder, 240)
    return folder


def add_external(run: Path, name: str, predictions: Predictions, validation: Predictions, **changes: Any) -> None:
    """Evaluate a made run on other shards, as `cxr-dist evaluate RUN --shards OTHER --name NAME` does."""
    own = json.loads((run / "evaluation/test/metrics.json").read_text())
    external = {
        "name": name,
        "shards_manifest_sha256": "e" * 64,
        "classes_not_evaluated": {
            one.name: "the shards have no such class" for one in predictions.each_class() if not len(one.truth)
        },
        "class_map": None,
        "recalibrated": False,
        "notes": [],
    }
    source = "validation of the evaluated shards" if changes.get("recalibrated") else "own validation"
    choice = choose_calibrator(validation, source=source)
    predictions = predictions.calibrated(choice.calibrator)
    evaluation = own | assess(predictions, validation, choice, n_bootstrap=100)
    evaluation |= {"population": population(predictions), "external": external | changes}
    out = run / "evaluation" / name
    out.mkdir()
    (out / "metrics.json").write_text(strict_json(evaluation), encoding="utf-8")
    predictions.write_csv(out / "predictions.csv")


def member(run: str, mode: str = "fused", sections: tuple[str, ...] = ("findings",), seed: int = 42) -> Any:
    """The entry in metrics.json of a run or a member of an ensemble."""
    seen = list(sections) if mode != "image" else []
    return {"run": run, "mode": mode, "seed": seed, "text_sections": seen, "checkpoint_step": 180}


def make_ensemble(folder: Path, predictions: Predictions, seeds: tuple[int, ...], **options: Any) -> Path:
    """Write the folder of an ensemble as `cxr-dist evaluate --ensemble --out` does."""
    members = [member("enhanced", seed=seed) for seed in seeds]
    make_run(folder, predictions, members=members, **options)
    (folder / "metrics.jsonl").unlink()
    (folder / "ensemble.json").write_text("{}")
    return folder


def make_runs(folder: Path, **options: Any) -> list[Path]:
    """Write three runs on the same split: baseline (image), text-only and enhanced (fused)."""
    runs = []
    for i, (name, (mode, skill)) in enumerate(RUNS.items()):
        made = {"skill": skill, "seed": i} | options
        validation = make_predictions(**made | {"data": 8})
        runs.append(make_run(folder / name, make_predictions(**made), mode=mode, validation=validation))
    return runs


def _environment(manifest_sha256: str, name: str) -> dict[str, Any]:
    return {
        "versions": {"cxr_dist": "0.1.0", "python": "3.11.2", "torch": "2.15.0", "transformers": "5.23.0"},
        "commit": "0c5a709",
        "manifest_sha256": manifest_sha256,
        "device": "cpu",
        "host_cpus": 2,
        "world_size": 2,
        "command": f"cxr-dist train demo --data.shards demo/shards --out demo/runs/{name}",
    }


def _history() -> list[dict[str, Any]]:
    random, lines = np.random.default_rng(3), []
    for step in range(10, 241, 10):
        loss = 1.1 * np.exp(-step / 90) + 0.35 + random.normal(0, 0.03)
        lines.append(
            {
                "step": step,
                "epoch": step // 20,
                "loss": loss,
                "samples_per_second": 210.0,
                "learning_rate": 2e-3,
                "gradient_norm": 0.8,
                "data_wait_share": 0.02,
            }
        )
        if step % 20 == 0:
            auc = 0.92 - 0.4 * np.exp(-step / 50) + random.normal(0, 0.008)
            validation = {"mean_auc": auc, "accuracy": auc - 0.15, "macro_f1": auc - 0.2, "loss": loss + 0.1}
            lines.append({"step": step, "epoch": step // 20, "validation": validation})
    return lines


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"
