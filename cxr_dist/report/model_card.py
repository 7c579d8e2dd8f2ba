"""The model card of an exported model: what a run recorded in, README.md with the Hub's front matter out.

It holds counts, settings and metrics; nothing of a patient, and no path of the machine.
"""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr_dist import __version__
from cxr_dist.config.run import Config
from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER, MODE_NAMES
from cxr_dist.evaluate.leakage import label_terms_redacted, labels_in_text, warnings
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.weights import encoder_name
from cxr_dist.report.figures import METRIC_NAMES

# Metric types as the Hub knows them.
_HUB_METRICS = {"macro_roc_auc": "roc_auc", "balanced_accuracy": "balanced_accuracy", "accuracy": "accuracy"}
_HUB_METRICS |= {"macro_f1": "f1", "brier": "brier_score"}
_CLASS_METRICS = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "recall": "Sensitivity",
    "specificity": "Specificity",
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card is made of."""

    config: Config
    manifest: Manifest
    manifest_sha256: str
    step: int
    temperature: float | None
    result: RunResult | None
    """The evaluation on the test split, of this checkpoint; None where there is none."""
    with_graph: bool
    """Whether model.onnx lies beside the card."""

    @property
    def encoders(self) -> list[str]:
        """The encoders by name: of the film, of the report."""
        model = self.config.model
        return [encoder_name(model.image_encoder)] * model.uses_image + [
            encoder_name(model.text_encoder)
        ] * model.uses_text


def model_card(facts: CardFacts) -> str:
    """README.md of an exported model."""
    environment = Environment(
        loader=PackageLoader("cxr_dist", "report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "estimate": _estimate}
    result = facts.result
    return environment.get_template("model_card.md.j2").render(
        facts=facts,
        config=facts.config,
        manifest=facts.manifest,
        result=result,
        front_matter=_front_matter(facts).to_yaml(),
        sees=MODE_NAMES[facts.config.model.mode],
        headline=HEADLINE | LOWER_IS_BETTER,
        metric_names=METRIC_NAMES,
        class_metrics=_CLASS_METRICS,
        redacted=label_terms_redacted(facts.manifest),
        warnings=_warnings(facts),
        version=__version__,
    )


def _warnings(facts: CardFacts) -> list[str]:
    if facts.result is not None:
        return list(warnings([facts.result]))
    sections = facts.config.data.text_sections if facts.config.model.uses_text else ()
    manifest = facts.manifest
    return list(filter(None, [labels_in_text(manifest.label_source, sections, manifest.labels_in_reports)]))


def _front_matter(facts: CardFacts) -> ModelCardData:
    model, made = facts.config.model, facts.manifest.made_data
    tags = ["chest-x-ray", "radiology", "research-only", "not-for-clinical-use"] + ["made-data"] * made
    started_from = encoder_name(model.text_encoder) if model.uses_text and model.pretrained else ""
    return ModelCardData(
        language="en",
        license="unknown",
        library_name="cxr_dist",
        pipeline_tag="image-classification" if model.uses_image else "text-classification",
        tags=tags,
        base_model=started_from if "/" in started_from else None,
        model_name=f"cxr_dist {facts.config.run} ({MODE_NAMES[model.mode]})",
        eval_results=_hub_results(facts) or None,
    )


def _hub_results(facts: CardFacts) -> list[EvalResult]:
    """The metrics that are defined, as the Hub's model-index has them, with their intervals as arguments."""
    if facts.result is None:
        return []
    found = {
        name: facts.result.estimate(*path)
        for name, path in (HEADLINE | LOWER_IS_BETTER).items()
        if name in _HUB_METRICS
    }
    return [
        EvalResult(
            task_type="image-classification" if facts.config.model.uses_image else "text-classification",
            dataset_type=facts.manifest.reader,
            dataset_name=f"{facts.manifest.reader} (split by {facts.manifest.split_by})",
            dataset_split="test",
            metric_type=_HUB_METRICS[name],
            metric_name=METRIC_NAMES[name],
            metric_value=round(estimate.value, 4),
            metric_args=_interval_of(estimate),
        )
        for name, estimate in found.items()
        if estimate.value is not None
    ]


def _interval_of(estimate: Estimate) -> dict[str, Any] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return {"interval_95": [round(estimate.low, 4), round(estimate.high, 4)]}


def _estimate(estimate: Estimate) -> str:
    """A metric with its interval, as the card's tables have it."""
    if estimate.value is None:
        return "not defined"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f}–{estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def _cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
