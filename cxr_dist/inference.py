"""Assembly of what comes after training: evaluate a run, set runs side by side, predict one film."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.config import Config, load_config
from cxr_dist.data.augment import Augmentation
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import collate, decode
from cxr_dist.data.store import ShardStore
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.leakage import label_terms_redacted, patients_in_training
from cxr_dist.evaluate.metrics import to_json
from cxr_dist.evaluate.predict import predict_batch, predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import finished_predictions
from cxr_dist.evaluate.subgroups import read_attributes
from cxr_dist.evaluate.thresholds import check_sensitivity
from cxr_dist.files import write_whole
from cxr_dist.model.image import normalise
from cxr_dist.report.explain import image_explanation
from cxr_dist.report.page import write_page
from cxr_dist.session import tokenizer_of, trained_model
from cxr_dist.shard.image import ImageFile, encode_jpeg
from cxr_dist.shard.left_out import ImageProblem
from cxr_dist.shard.manifest import Manifest, index_dtype, load_manifest
from cxr_dist.train.run_folder import manifest_sha256


def evaluate_run(
    run_dir: Path, split: str, mc_samples: int, shards: Path | None, at_sensitivity: float | None = None
) -> None:
    """Evaluate a run's best checkpoint on a split; started once per rank (all ranks).

    Temperature and thresholds are chosen on validation, which is evaluated first unless it was already, with
    this checkpoint on these shards.
    """
    check_sensitivity(at_sensitivity)
    config = _config(run_dir, shards)
    manifest = load_manifest(Path(config.data.shards))
    world = World.from_environment()
    device = start(world, config.train.timeout_minutes)
    try:
        model, step = trained_model(config, manifest, run_dir, device)
        tokenizer = tokenizer_of(config, run_dir)

        def evaluate(name: str, validation: Predictions | None) -> Predictions:
            found = predict_split(
                model,
                config,
                manifest,
                name,
                tokenizer=tokenizer,
                world=world,
                device=device,
                mc_samples=mc_samples,
            )
            if world.is_main:
                _write(run_dir, name, config, manifest, found, step, validation, at_sensitivity)
            return found

        validation = None
        if split != "val" and manifest.splits["val"].samples:
            digest = manifest_sha256(Path(config.data.shards))
            validation = finished_predictions(run_dir, "val", step, digest) if world.is_main else None
            # Rank 0 decides for all: another rank may not see the same files.
            if not from_main(torch.tensor(int(validation is not None), device=device)):
                validation = evaluate("val", None)
        evaluate(split, validation)
    finally:
        stop()


def _config(run_dir: Path, shards: Path | None) -> Config:
    config = load_config(run_dir / "config.yaml")
    if shards is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(shards)))
    return config


def _write(
    run_dir: Path,
    split: str,
    config: Config,
    manifest: Manifest,
    predictions: Predictions,
    step: int,
    validation: Predictions | None,
    at_sensitivity: float | None,
) -> None:
    shards, folder = Path(config.data.shards), run_dir / "evaluation" / split
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(ShardStore(shards, manifest, split)) as store:
        predictions = dataclasses.replace(predictions, attributes=read_attributes(store))
    facts = {
        "run": config.run,
        "mode": config.model.mode,
        "split": split,
        "text_sections": list(config.data.text_sections) if config.model.uses_text else [],
        "split_by": manifest.split_by,
        "made_data": manifest.made_data,
        "label_source": manifest.reader,
        "label_terms_redacted": label_terms_redacted(manifest),
        "patients_in_training": patients_in_training(shards, manifest, split),
        "manifest_sha256": manifest_sha256(shards),
        "checkpoint_step": step,
    }
    predictions.write_csv(folder / "predictions.csv")
    write_whole(folder / "metrics.json", to_json(facts | assess(predictions, validation, at_sensitivity)))


def compare_runs(run_dirs: list[Path], split: str, out: Path) -> Path:
    """Write comparison.json and report.html of evaluated runs; returns the page's path."""
    comparison = compare(run_dirs, split)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "comparison.json", to_json(comparison.to_dict()))
    write_page(comparison, out / "report.html")
    return out / "report.html"


def predict_one(run_dir: Path, image: Path | None, report: str, mc_samples: int, out: Path) -> dict[str, Any]:
    """Probabilities of one film and report, with the passes' spread, and the picture written to `out`."""
    config = _config(run_dir, None)
    manifest = load_manifest(Path(config.data.shards))
    device = start(World(), config.train.timeout_minutes)
    model, _ = trained_model(config, manifest, run_dir, device)
    batch = one_batch(config, manifest, run_dir, image, report)
    row = predict_batch(model, batch, config, manifest.task, mc_samples, device)[0]
    probability, mean, variance, entropies = np.split(row[1:], len(manifest.classes) * np.arange(1, 4))
    deviation = np.sqrt(variance)
    if batch.images is not None:
        chosen = int(probability.argmax())
        inputs = batch.to(device)
        assert inputs.images is not None
        heat = grad_cam(model, normalise(inputs.images), inputs.tokens, inputs.attention_mask, chosen)
        bounds = np.clip(np.stack([mean - 1.96 * deviation, mean + 1.96 * deviation], axis=1), 0, 1)
        film, names = batch.images[0, 0].numpy(), manifest.classes
        image_explanation(film, heat, mean, bounds, names, explained=names[chosen]).savefig(out, dpi=150)
    return {
        "probabilities": dict(zip(manifest.classes, probability.round(6).tolist(), strict=True)),
        "mc_mean": dict(zip(manifest.classes, mean.round(6).tolist(), strict=True)),
        "mc_deviation": dict(zip(manifest.classes, deviation.round(6).tolist(), strict=True)),
        "predictive_entropy_nats": round(float(entropies[0]), 6),
        "mutual_information_nats": round(max(0.0, float(entropies[0] - entropies[1])), 6),
        "picture": str(out) if batch.images is not None else None,
        "note": "research software, not for clinical use",
    }


def one_batch(config: Config, manifest: Manifest, run_dir: Path, image: Path | None, report: str) -> Batch:
    """A film and a report through the very stages that a stored sample passes; raises UserError."""
    size = config.data.image_size if config.model.uses_image else None
    sample: dict[str, Any] = {"__key__": "film", "__url__": "--image", "sample_id": 0}
    sample["json"] = json.dumps({"text": {config.data.text_sections[0]: report}} if report else {"text": {}})
    sample["record"] = np.zeros((), index_dtype(manifest.num_labels))
    if size is not None:
        if image is None:
            raise UserError("this run's model reads a film: give --image FILE")
        try:
            film = ImageFile(path=image).read(manifest.image["short_side"])
        except ImageProblem as problem:
            raise UserError(f"--image cannot be used: {problem.reason}; expected a PNG or JPEG") from None
        sample["jpg"] = encode_jpeg(film, manifest.image["quality"])
    if report and not config.model.uses_text:
        raise UserError("this run's model reads no report: leave --report out")
    stages = (
        decode(manifest, size),
        collate(size, Augmentation(), tokenizer_of(config, run_dir), config.data.text_sections),
    )
    batch: Batch = next(stages[1](stages[0](iter([[sample]]))))
    return batch
