"""Assembly of what comes after training: evaluate a run, set runs side by side, predict one film."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.config import Config, load_config
from cxr_dist.data.augment import Augmentation, warp
from cxr_dist.data.batch import Batch
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.bootstrap import intervals
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.metrics import compute_metrics, to_json
from cxr_dist.evaluate.predict import predict_batch, predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.files import write_whole
from cxr_dist.model.image import normalise
from cxr_dist.report.explain import image_explanation
from cxr_dist.report.page import write_page
from cxr_dist.session import tokenizer_of, trained_model
from cxr_dist.shard.image import decode_grey
from cxr_dist.shard.manifest import Manifest, load_manifest


def evaluate_run(run_dir: Path, split: str, mc_samples: int, shards: Path | None) -> None:
    """Evaluate a run's best checkpoint on a split; started once per rank (all ranks)."""
    config = _config(run_dir, shards)
    manifest = load_manifest(Path(config.data.shards))
    world = World.from_environment()
    device = start(world, config.train.timeout_minutes)
    try:
        model, step = trained_model(config, manifest, run_dir, device)
        predictions = predict_split(
            model,
            config,
            manifest,
            split,
            tokenizer=tokenizer_of(config, run_dir),
            world=world,
            device=device,
            mc_samples=mc_samples,
        )
        if world.is_main:
            _write(run_dir, split, config, manifest, predictions, step)
    finally:
        stop()


def _config(run_dir: Path, shards: Path | None) -> Config:
    config = load_config(run_dir / "config.yaml")
    if shards is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(shards)))
    return config


def _write(
    run_dir: Path, split: str, config: Config, manifest: Manifest, predictions: Predictions, step: int
) -> None:
    folder = run_dir / "evaluation" / split
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "run": config.run,
        "mode": config.model.mode,
        "split": split,
        "text_sections": list(config.data.text_sections) if config.model.uses_text else [],
        "split_by": manifest.split_by,
        "made_data": manifest.made_data,
        "label_source": manifest.reader,
        "checkpoint_step": step,
        "metrics": compute_metrics(predictions),
        "intervals": intervals(predictions),
    }
    predictions.write_csv(folder / "predictions.csv")
    write_whole(folder / "metrics.json", to_json(facts))


def compare_runs(run_dirs: list[Path], split: str, out: Path) -> Path:
    """Write comparison.json and report.html of evaluated runs; returns the page's path."""
    comparison = compare(run_dirs, split)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "comparison.json", comparison.to_json())
    write_page(comparison, out / "report.html")
    return out / "report.html"


def predict_one(run_dir: Path, image: Path, report: str, mc_samples: int, out: Path) -> dict[str, Any]:
    """Probabilities of one film and report, with the passes' spread, and the picture written to `out`."""
    config = _config(run_dir, None)
    manifest = load_manifest(Path(config.data.shards))
    if config.model.mode == "image" and report:
        raise UserError("this run's model reads no report: leave --report out")
    device = start(World(), config.train.timeout_minutes)
    model, _ = trained_model(config, manifest, run_dir, device)
    size = config.data.image_size
    film = decode_grey(image)
    canvas = np.empty((size, size), np.uint8)
    warp(film, Augmentation().matrix(film.shape, size, 0), canvas)
    tokenizer = tokenizer_of(config, run_dir)
    tokens, mask = tokenizer([report]) if tokenizer else (None, None)
    batch = Batch(
        images=torch.from_numpy(canvas)[None, None] if config.model.uses_image else None,
        tokens=tokens,
        attention_mask=mask,
        labels=torch.full((1, manifest.num_labels), -1),
        groups=torch.zeros(1, dtype=torch.int64),
        sample_ids=torch.zeros(1, dtype=torch.int64),
    )
    row = predict_batch(model, batch, config, manifest.task, max(2, mc_samples), device)[0]
    classes = len(manifest.classes)
    probability, mean, variance, entropies = np.split(row[1:], np.cumsum([classes, classes, classes]))
    deviation = np.sqrt(variance)
    if batch.images is not None:
        heat = grad_cam(model, normalise(batch.images.to(device)), tokens, mask, int(probability.argmax()))
        figure = image_explanation(canvas, heat, mean, deviation, manifest.classes)
        figure.savefig(out, dpi=150)
    return {
        "probabilities": dict(zip(manifest.classes, probability.round(6).tolist(), strict=True)),
        "mc_mean": dict(zip(manifest.classes, mean.round(6).tolist(), strict=True)),
        "mc_deviation": dict(zip(manifest.classes, deviation.round(6).tolist(), strict=True)),
        "predictive_entropy_nats": round(float(entropies[0]), 6),
        "mutual_information_nats": round(max(0.0, float(entropies[0] - entropies[1])), 6),
        "picture": str(out) if batch.images is not None else None,
        "note": "research software, not for clinical use",
    }
