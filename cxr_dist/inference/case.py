"""Assembly of `cxr-dist predict` for one case: a trained model, a film and a report in; JSON and a picture out.

Both hold the report's words; what is printed and logged does not.
"""

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.data.batch import Batch
from cxr_dist.distributed.backend import start
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.answer import Answers, answers
from cxr_dist.evaluate.explain import grad_cam
from cxr_dist.evaluate.passes import inputs_of, predict_passes
from cxr_dist.evaluate.word_scores import gradient_times_input, per_word, token_attention
from cxr_dist.files import whole_file
from cxr_dist.inference.trained import Case, TrainedModel, open_model
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.report.prediction_figure import CaseView, ReportView, explanation

PRIVATE = 0o600
"""Mode of the files that hold films, words or names."""
_IN_FILES_ONLY = ("report", "heat_map")
_NOTE = "research software, not for clinical use"


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model, and what is asked of it."""

    trained: TrainedModel
    mc: McDropout

    @classmethod
    def open(cls, run_dir: Path, mc: McDropout) -> "Predictor":
        """The best checkpoint of a run, or an exported model, on this machine's device."""
        return cls(trained=open_model(run_dir, start(World(), timeout_minutes=10)), mc=mc)

    def answer(self, batch: Batch) -> Answers:
        """What the model says of each case of a batch."""
        trained = self.trained
        # The same dropout masks for every case: what is said of it does not depend on its row or its neighbours.
        batch = dataclasses.replace(batch, sample_ids=torch.zeros_like(batch.sample_ids))
        found = predict_passes(
            trained.classifier, batch, trained.config, trained.task, self.mc, trained.device
        )
        return answers(*found, trained.task, trained.classes, trained.temperature)

    def explain(self, case: Case, batch: Batch, found: Answers) -> tuple[dict[str, Any], CaseView]:
        """One case's JSON and picture; `batch` holds it alone, and `found` is what was answered."""
        trained = self.trained
        chosen = int(found.probabilities[0].argmax())
        inputs = inputs_of(trained.classifier, batch.to(trained.device))
        heat = grad_cam(trained.classifier, inputs, chosen) if inputs.images is not None else None
        report = self._words(case.report, inputs, chosen) if inputs.tokens is not None else None
        view = CaseView(
            film=None if batch.images is None else np.concatenate(batch.images[:, 0].numpy(), axis=1),
            heat=heat,
            probabilities=found.shown[0],
            interval=None if found.interval is None else found.interval[:, 0],
            classes=trained.classes,
            explained=trained.classes[chosen],
            report=report,
        )
        return self._facts(found, view), view

    def _words(self, report: str, inputs: Inputs, chosen: int) -> ReportView | None:
        """The report with what its words say; None for a text encoder that has no scores of words."""
        assert self.trained.tokenizer is not None
        words, cut = self.trained.tokenizer.words(report)
        attention = token_attention(self.trained.classifier, inputs)
        gradient = gradient_times_input(self.trained.classifier, inputs, chosen)
        if gradient is None:
            return None
        return ReportView(
            words=[word.text for word in words],
            attention=None if attention is None else per_word(attention, words),
            gradient_times_input=per_word(gradient, words),
            cut=cut,
        )

    def _facts(self, found: Answers, view: CaseView) -> dict[str, Any]:
        config = self.trained.config
        facts: dict[str, Any] = {"note": _NOTE, "run": config.run, "mode": config.model.mode}
        facts |= {"checkpoint_step": self.trained.step, "temperature": self.trained.temperature}
        facts |= found.to_dict(0) | {"mc_scope": self.mc.scope if self.mc.passes else None}
        facts |= {"explained_class": view.explained}
        facts["heat_map"] = None if view.heat is None else view.heat.round(4).tolist()
        facts["report"] = None if view.report is None else _report_facts(view.report)
        return facts


def predict_one(run_dir: Path, case: Case, mc: McDropout, out: Path) -> dict[str, Any]:
    """Write the picture to `out` (.png) and the JSON beside it; returns what may be printed of it: no words."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out ends in {out.suffix or 'nothing'}: the picture's name ends in .png")
    predictor = Predictor.open(run_dir, mc)
    batch = predictor.trained.batch([case])
    facts, view = predictor.explain(case, batch, predictor.answer(batch))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_case(facts, view, out)
    files = {"picture": str(out), "json": str(out.with_suffix(".json"))}
    return {name: value for name, value in facts.items() if name not in _IN_FILES_ONLY} | files


def write_case(facts: dict[str, Any], view: CaseView, picture: Path) -> None:
    """Write PICTURE.png and PICTURE.json, readable by their owner alone."""
    with io.BytesIO() as file:
        explanation(view).savefig(file, format="png", dpi=150)
        drawn = file.getvalue()
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    for path, content in ((picture, drawn), (picture.with_suffix(".json"), text.encode("utf-8"))):
        with whole_file(path, mode=PRIVATE) as file_on_disk:
            file_on_disk.write(content)


def _report_facts(report: ReportView) -> dict[str, Any]:
    """The words with their scores; both attentions sum to 1."""
    scores = zip(
        report.words,
        [None] * len(report.words) if report.attention is None else report.attention.round(6).tolist(),
        report.gradient_times_input.round(6).tolist(),
        strict=True,
    )
    special = None if report.attention is None else round(1 - float(report.attention.sum()), 6)
    return {
        "words": [{"word": w, "attention": a, "gradient_times_input": g} for w, a, g in scores],
        "attention_on_special_tokens": special,
        "words_cut_off": report.cut,
    }
