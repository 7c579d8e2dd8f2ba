"""The methods section of the page: data, models, training and evaluation, in sentences.

Every number comes from the records of the runs. A sentence that applies to several runs is printed once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cxr_dist.config.lookup import recorded_name
from cxr_dist.config.run import Config
from cxr_dist.evaluate.calibration import BINS
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.evaluate.wilson import METHOD
from cxr_dist.model.weights import encoder_name
from cxr_dist.report.audits import audited_runs, explained_runs

_INPUTS = {"image": "the image alone", "text": "the report alone", "fused": "the image and the report"} | {
    "contrastive": "the image alone when it is used, and reports in training,"
}
_SCOPES = {
    "head": "the fusion and the head",
    "text": "the text encoder, the fusion and the head",
    "all": "both encoders, the fusion and the head",
}
_LOSSES = {"cross_entropy": "cross-entropy", "focal": "focal loss (Lin et al. 2017)"}
_CLASS_WEIGHTS = {
    "none": "no class weights",
    "balanced": "balanced class weights",
    "original": "class weights that balance the samples, however often they are drawn",
}
_FOLDS = (
    " In a cross-validation, each run was tested on one fold of patients, validated on the next one and trained on the "
    "others; its probabilities were calibrated on its own validation fold, and the predictions of all test folds were "
    "pooled."
)
_AUDIT = (
    " In the modality audit, the image or the report of each sample was replaced by that of a randomly drawn sample of "
    "another patient, and the metrics before and after were compared by the paired bootstrap over patients."
)
_BOXES = (
    " Heat maps were scored against boxes around findings by the pointing game (Zhang et al. 2018) and by the share of "
    "their sum inside the boxes (Wang et al. 2020), beside a centred Gaussian and a random map."
)
_CONTROLS = (
    " The controls are logistic regressions without a network, which were trained on the training split and judged on "
    "the same samples as the runs."
)
_SETS = (
    " Prediction sets were chosen on the validation split by split conformal prediction within each class (Sadinle et "
    "al. 2019)."
)
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW"}


def methods(comparison: Comparison) -> dict[str, str]:
    """Heading -> paragraph."""
    runs = comparison.runs
    return {
        "Data": _data(comparison),
        "Models": _shared(runs, _model),
        "Training": _shared(runs, _training),
        "Evaluation": _evaluation(comparison),
    }


def _shared(runs: Sequence[RunResult], describe: Callable[[RunResult], str]) -> str:
    """Print each distinct description once, after the names of the runs that it describes."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(describe(run), []).append(run.name)
    if len(owners) == 1 and len(runs) > 1:
        return f"All runs: {next(iter(owners))}"
    return " ".join(f"{', '.join(names)}: {text}" for text, names in owners.items())


def _data(comparison: Comparison) -> str:
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    synthetic = "The images and reports are synthetic. " if comparison.made_data else ""
    if manifest is None:
        rule = comparison.runs[0].evaluation["split_by"]
        return f"{synthetic}The shards are missing or have changed; the data were split by {rule}."
    sizes = ", ".join(
        f"{split.samples} {manifest.unit} of {split.patients} patients ({name})"
        for name, split in manifest.splits.items()
    )
    kept = manifest.source_rows - sum(manifest.left_out.values())
    studies = f"A sample is a study with up to {manifest.views} images. " if manifest.views > 1 else ""
    return (
        f"{synthetic}Of {manifest.source_rows} source rows, {kept} images were kept and split by "
        f"{manifest.split_rule}: {sizes}. {studies}Images were stored as greyscale JPEG with a short side of "
        f"{manifest.image['short_side']} pixels. The task is {manifest.task} classification of "
        f"{', '.join(manifest.classes)}."
    )


def _model(run: RunResult) -> str:
    if len(run.members) == 1:
        return _one_model(run)
    members = "; ".join(map(member_line, run.members))
    return (
        f"An ensemble averages the probabilities of {len(run.members)} runs (Lakshminarayanan et al. 2017): "
        f"{members}. Its first member is configured as follows. {_one_model(run)}"
    )


def member_line(member: dict[str, Any]) -> str:
    """Describe a member of an ensemble in a few words."""
    return f"{member['run']} reads {_INPUTS[member['mode']]}, seed {member['seed']}, step {member['checkpoint_step']}"


def _one_model(run: RunResult) -> str:
    """Describe the model of a run, or of an ensemble's first member."""
    model, data = run.config.model, run.config.data
    start = "pretrained weights" if model.pretrained else "random weights"
    sentences = [f"The model reads {_INPUTS[model.mode]} and starts from {start}."]
    if model.uses_image:
        size, encoder = data.image_size, encoder_name(model.image_encoder)
        sentences.append(f"Images of {size} × {size} pixels are encoded by the image encoder {encoder}.")
    if run.image_weights:
        sentences.append(f"The image encoder starts from the weights in {run.image_weights.in_words()}.")
    if model.uses_text:
        sections, encoder = ", ".join(data.text_sections), encoder_name(model.text_encoder)
        sentences.append(
            f"The report sections {sections} (at most {data.max_tokens} tokens) are encoded by the text encoder "
            f"{encoder}."
        )
    if model.mode == "fused":
        sentences.append(f"Both are combined by cross-attention ({model.fusion}, {model.fusion_heads} heads).")
    if model.is_contrastive:
        sentences.append("Both are projected to one space, in which an image is compared with prompts (zero-shot).")
        return " ".join(sentences)
    dropout = " and ".join(f"{rate:g}" for rate in model.head_dropout)
    return " ".join([*sentences, f"The classification head uses dropout rates of {dropout}."])


def _training(run: RunResult) -> str:
    config = run.config
    data, optim, train = config.data, config.optim, config.train
    warmup = f" after {optim.warmup_steps} warm-up steps" if optim.warmup_steps else ""
    limit = f" or {train.max_steps} steps" if train.max_steps else ""
    loss = f"{_LOSSES.get(config.loss.name, recorded_name(config.loss.name))} with "
    loss += _CLASS_WEIGHTS[config.loss.class_weights]
    if config.model.is_contrastive:
        loss = "symmetric InfoNCE over all image-report pairs of a batch, without labels"
    sentences = [
        f"The loss is {loss}.",
        f"The optimizer is {_OPTIMIZERS[optim.name]} with a learning rate of {optim.lr:g} "
        f"({optim.schedule} schedule{warmup}) and a weight decay of {optim.weight_decay:g}.",
        f"Training used batches of {data.global_batch}, {data.sampling} sampling, at most {train.epochs} epochs"
        f"{limit}, seed {config.seed} and {config.precision} precision.",
        *_optional(config),
    ]
    return ("The settings are those of the first member. " if len(run.members) > 1 else "") + " ".join(sentences)


def _optional(config: Config) -> list[str]:
    train, sentences, model = config.train, [], config.model
    if model.adapt == "head":
        sentences.append("The encoders were not trained.")
    elif model.adapt == "lora":
        sentences.append(
            f"Of the encoders, low-rank adapters were trained (Hu et al. 2021; rank {model.lora_rank}, "
            f"α {model.lora_alpha:g})."
        )
    if config.data.stages:
        names = ", ".join(stage.rpartition(":")[2] for stage in config.data.stages)
        sentences.append(f"Training samples passed through custom stages ({names}).")
    if train.freeze_epochs and model.adapt != "head" and (config.model.uses_image or config.model.uses_text):
        sentences.append(f"The encoders were frozen for {train.freeze_epochs} epochs.")
    if train.mixup_alpha:
        sentences.append(f"Mixup (α {train.mixup_alpha:g}) was applied from epoch {train.mixup_from_epoch}.")
    if config.optim.ema_decay:
        sentences.append(f"The weights are an exponential moving average (decay {config.optim.ema_decay:g}).")
    if config.model.sync_batchnorm and config.model.uses_image:
        sentences.append("Batch normalization used the batches of all ranks.")
    if config.ddp.comm_hook != "none":
        sentences.append(f"Gradients were rounded to {config.ddp.comm_hook} before they were summed over ranks.")
    if train.early_stopping_patience:
        patience = train.early_stopping_patience
        sentences.append(f"Training was to stop after {patience} validations without an improvement of the AUC.")
    return sentences


def _evaluation(comparison: Comparison) -> str:
    first = comparison.runs[0].evaluation
    points = first["operating_points"]
    text = (
        f"The checkpoint with the highest mean validation ROC AUC was evaluated on the {comparison.split} split. "
        f"{_intervals(first['intervals'])} They do not contain the variation between training seeds. Runs were "
        "compared on the same samples by the paired bootstrap over patients, and for each "
        "class by DeLong's test with patients as clusters (Obuchowski 1997). p-values are two-sided; those of the "
        "macro ROC AUC are adjusted for the number of comparisons in the same table (Holm 1979), and the others are "
        f"not adjusted. Calibration errors use {BINS} bins of equal mass."
    )
    if points is not None:
        text += (
            f" Thresholds ({points['rule']}) and the calibration were chosen on {points['chosen_on']['n']} "
            f"validation images of {points['chosen_on']['patients']} patients and then applied without change."
        )
    said = {
        _FOLDS: any(run.folds for run in comparison.runs),
        _CONTROLS: comparison.controls.rows,
        _SETS: any(run.evaluation.get("conformal") for run in comparison.runs),
        _AUDIT: audited_runs(comparison.runs),
        _BOXES: explained_runs(comparison.runs),
    }
    text += "".join(sentence for sentence, holds in said.items() if holds)
    uncertain = [run for run in comparison.runs if "uncertainty" in run.metrics]
    return f"{text} Uncertainty was estimated as follows. {_shared(uncertain, _uncertainty)}" if uncertain else text


def _intervals(recorded: dict[str, Any]) -> str:
    """The method that the evaluation recorded; earlier versions took percentiles for every metric."""
    resamples = f"{recorded['n_bootstrap']} bootstrap resamples of whole patients"
    start = f"{recorded['level']:.0%} confidence intervals"
    if recorded["method"] != METHOD:
        return f"{start} are percentiles of {resamples}."
    return (
        f"{start} treat the images of a patient as one cluster: Wilson's interval with an effective sample size for "
        "shares, for areas under curves and for means over classes, and Student's t of the logarithm for losses. "
        f"Variances of areas and means are those of {resamples}."
    )


def _uncertainty(run: RunResult) -> str:
    passes = f"{run.metrics['uncertainty']['passes']} passes" + " of all members together" * (len(run.members) > 1)
    return f"{passes} with Monte-Carlo dropout{dropout_place(run)}."


def dropout_place(run: RunResult) -> str:
    """Where dropout was active in the stochastic passes, as the end of a sentence; empty without passes."""
    scope = run.evaluation["mc_scope"]
    return "" if scope is None else f" in {_SCOPES[scope]}"
