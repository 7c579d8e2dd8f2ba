"""Assembly of `cxr-dist predict`: a run folder, a film and a report in; probabilities, spread and a picture out."""

from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.distributed.backend import start
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.predict import predict_batch
from cxr_dist.model.image import normalise
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.report.explain import image_explanation
from cxr_dist.trained import Case, open_run


def predict_one(run_dir: Path, image: Path | None, report: str, mc: McDropout, out: Path) -> dict[str, Any]:
    """Probabilities of one film and report, with the passes' spread, and the picture written to `out`."""
    device = start(World(), timeout_minutes=10)
    trained, _ = open_run(run_dir, device)
    batch = trained.batch([Case(image=image, report=report)])
    row = predict_batch(trained.classifier, batch, trained.config, trained.task, mc, device)[0]
    probability, mean, variance, entropies = np.split(row[1:], len(trained.classes) * np.arange(1, 4))
    deviation = np.sqrt(variance)
    if batch.images is not None:
        chosen = int(probability.argmax())
        inputs = batch.to(device)
        assert inputs.images is not None
        heat = grad_cam(
            trained.classifier, normalise(inputs.images), inputs.tokens, inputs.attention_mask, chosen
        )
        bounds = np.clip(np.stack([mean - 1.96 * deviation, mean + 1.96 * deviation], axis=1), 0, 1)
        film, names = batch.images[0, 0].numpy(), trained.classes
        image_explanation(film, heat, mean, bounds, names, explained=names[chosen]).savefig(out, dpi=150)
    return {
        "probabilities": dict(zip(trained.classes, probability.round(6).tolist(), strict=True)),
        "mc_mean": dict(zip(trained.classes, mean.round(6).tolist(), strict=True)),
        "mc_deviation": dict(zip(trained.classes, deviation.round(6).tolist(), strict=True)),
        "predictive_entropy_nats": round(float(entropies[0]), 6),
        "mutual_information_nats": round(max(0.0, float(entropies[0] - entropies[1])), 6),
        "picture": str(out) if batch.images is not None else None,
        "note": "research software, not for clinical use",
    }
