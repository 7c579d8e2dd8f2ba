"""The model card of an exported model: README.md with the front matter of the Hugging Face Hub.

It contains counts, settings and metrics that the run recorded, but no patient data and no paths.
"""

import json
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxr_dist import __version__
from cxr_dist.config.run import Config
from cxr_dist.errors import printable
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER, MODE_NAMES
from cxr_dist.evaluate.leakage import label_terms_redacted, labels_in_text, warnings
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.format.escape import markdown
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.weights import encoder_name
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.run.image_weights import StartedFrom

# Our names of metrics -> those of the Hub.
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
    """The content of a model card."""

    config: Config
    manifest: Manifest
    manifest_sha256: str
    step: int
    calibrator: Calibrator | None
    result: RunResult | None
    """The evaluation of this checkpoint on the test split; None if there is none."""
    unfinished: str
    """`unfinished` of the run: empty if training had finished."""
    with_graph: bool
    """Whether the export contains model.onnx."""
    image_weights: StartedFrom | None = None
    """The file from which the image encoder started; None without one."""

    @property
    def encoders(self) -> list[str]:
        """The names of the image encoder and the text encoder, if used."""
        model = self.config.model
        encoders = [model.image_encoder] * model.uses_image + [model.text_encoder] * model.uses_text
        return list(map(encoder_name, encoders))


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md. Every value is escaped for Markdown, unless the template marks it as safe."""
    environment = Environment(
        loader=PackageLoader("cxr_dist", "report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_escaped,
    )
    environment.filters |= {"estimate": _estimate, "python": _python}
    return environment.get_template("model_card.md.j2").render(
        facts=facts,
        config=facts.config,
        manifest=facts.manifest,
        result=facts.result,
        front_matter=Markup(_front_matter(facts).to_yaml()),
        inputs=MODE_NAMES[facts.config.model.mode],
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
    warning = labels_in_text(facts.manifest.label_source, sections, facts.manifest.labels_in_reports)
    return [warning] if warning else []


def _front_matter(facts: CardFacts) -> ModelCardData:
    model, tags = facts.config.model, ["chest-x-ray", "radiology", "research-only", "not-for-clinical-use"]
    started_from = encoder_name(model.text_encoder) if model.uses_text and model.pretrained else ""
    return ModelCardData(
        language="en",
        license="unknown",
        library_name="cxr_dist",
        pipeline_tag="image-classification" if model.uses_image else "text-classification",
        tags=tags + ["synthetic-data"] * facts.manifest.made_data,
        base_model=started_from if "/" in started_from else None,
        model_name=f"cxr_dist {facts.config.run} ({MODE_NAMES[model.mode]})",
        eval_results=_hub_results(facts) or None,
    )


def _hub_results(facts: CardFacts) -> list[EvalResult]:
    """Return the defined metrics for the Hub's model-index, with their intervals as arguments."""
    if facts.result is None:
        return []
    paths = HEADLINE | LOWER_IS_BETTER
    estimates = {name: facts.result.estimate(*paths[name]) for name in paths if name in _HUB_METRICS}
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
        for name, estimate in estimates.items()
        if estimate.value is not None
    ]


def _interval_of(estimate: Estimate) -> dict[str, Any] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return {"interval_95": [round(estimate.low, 4), round(estimate.high, 4)]}


def _estimate(estimate: Estimate) -> str:
    """Format a metric with its interval."""
    if estimate.value is None:
        return "not defined"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f}–{estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def _escaped(value: Any) -> Any:
    return markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _python(text: str) -> Markup:
    """The text as a string of a program in a code block, in which Markdown interprets nothing but a new line."""
    return Markup(printable(json.dumps(text, ensure_ascii=False)))
