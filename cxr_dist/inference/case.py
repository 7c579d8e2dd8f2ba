"""Assembly of `cxr-dist predict` for one case: from a trained model, an image and a report to JSON and a picture.

Both files hold the words of the report; what is printed and logged does not.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.data.batch import Batch
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.answer import Answers
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.passes import inputs_of
from cxr_dist.files import whole_file
from cxr_dist.inference.given_case import Case
from cxr_dist.inference.opened import open_model
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.report.prediction_figure import CaseView, explanation

PRIVATE = 0o600
"""Mode of the files that hold images, words or names."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model, and the number and scope of its Monte-Carlo dropout passes."""

    trained: TrainedModel
    mc: McDropout

    @classmethod
    def open(cls, folder: Path, mc: McDropout) -> "Predictor":
        """The best checkpoint of a run, or an exported model, on this machine's device."""
        return cls(trained=open_model(folder, World().device), mc=mc)

    def answer(self, batch: Batch) -> Answers:
        """The model's predictions for every case of a batch."""
        return self.trained.answers_alone(batch, self.mc)

    def explain(self, case: Case, batch: Batch, result: Answers) -> tuple[dict[str, Any], CaseView]:
        """The JSON and the picture of one case; `batch` holds this case only, and `result` is its answer."""
        trained = self.trained
        chosen = int(result.headline[0].argmax())
        inputs = inputs_of(trained.classifier, batch.to(trained.device))
        heat = grad_cam(trained.classifier, inputs, chosen) if inputs.images is not None else None
        facts, warnings = trained.report_facts(case)
        scores = trained.word_scores(case, inputs, chosen)
        view = CaseView(
            image=None if batch.images is None else np.concatenate(batch.images[:, 0].numpy(), axis=1),
            heat=heat,
            probabilities=result.headline[0],
            kind=result.kind,
            interval=None if result.interval is None else result.interval[:, 0],
            classes=trained.classes,
            explained=trained.classes[chosen],
            predicted=result.predicted(0),
            rule=result.rule,
            thresholds=result.thresholds,
            prediction_set=result.set_in_words(0),
            report=scores,
            warnings=warnings,
        )
        in_report = None if facts is None else facts | ({} if scores is None else scores.to_dict())
        return self._facts(result, view) | {"report": in_report, "warnings": warnings}, view

    def _facts(self, result: Answers, view: CaseView) -> dict[str, Any]:
        calibrator = self.trained.calibrator
        return {
            "note": "research software, not for clinical use",
            "run": self.trained.config.run,
            "mode": self.trained.config.model.mode,
            "checkpoint_step": self.trained.step,
            "calibration": None if calibrator is None else calibrator.method,
            "temperature": None if calibrator is None or calibrator.temperature == 1 else calibrator.temperature,
            **result.to_dict(0),
            "mc_scope": self.mc.scope if self.mc.passes else None,
            "explained_class": view.explained,
            "heat_map": None if view.heat is None else view.heat.round(4).tolist(),
        }


def predict_one(folder: Path, case: Case, mc: McDropout, out: Path) -> dict[str, Any]:
    """Write the picture to `out` (.png) and the JSON beside it; returns the JSON without words and heat map."""
    predictor = Predictor.open(folder, mc)
    batch = predictor.trained.batch([case])
    facts, view = predictor.explain(case, batch, predictor.answer(batch))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_case(facts, view, out)
    files = {"picture": str(out), "json": str(out.with_suffix(".json"))}
    shown = {name: value for name, value in facts.items() if name != "heat_map"}
    if facts["report"] is not None:
        shown["report"] = {name: value for name, value in facts["report"].items() if name != "words"}
    return shown | files


def write_case(facts: dict[str, Any], view: CaseView, picture: Path) -> None:
    """Write PICTURE.png and PICTURE.json, which only their owner can read."""
    with io.BytesIO() as file:
        explanation(view).savefig(file, format="png", dpi=150)
        drawn = file.getvalue()
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    for path, content in ((picture, drawn), (picture.with_suffix(".json"), text.encode("utf-8"))):
        with whole_file(path, mode=PRIVATE) as file_on_disk:
            file_on_disk.write(content)
