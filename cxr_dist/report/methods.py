"""A comparison in, the methods section out: how data, models, training and evaluation were set, in sentences.

Every number comes from the runs' own records. Runs that share a sentence share it on the page.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cxr_dist.config.lookup import recorded_name
from cxr_dist.config.run import Config
from cxr_dist.evaluate.calibration import BINS
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.model.weights import encoder_name

_SEEN = {"image": "the film alone", "text": "the report alone", "fused": "the film and the report"}
_SCOPES = {
    "head": "fusion and head",
    "text": "text encoder, fusion and head",
    "all": "both encoders, fusion and head",
}
_LOSSES = {"cross_entropy": "cross-entropy", "focal": "focal loss (Lin et al. 2017)"}


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
    """Each distinct description once, after the names of the runs that it is of."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(describe(run), []).append(run.name)
    if len(owners) == 1 and len(runs) > 1:
        return f"All runs: {next(iter(owners))}"
    return " ".join(f"{', '.join(names)}: {text}" for text, names in owners.items())


def _data(comparison: Comparison) -> str:
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    first = comparison.runs[0].evaluation
    made = "The films and reports are made: a program drew and wrote them. " if first["made_data"] else ""
    if manifest is None:
        return f"{made}The shards are gone or have changed; the split was made by {first['split_by']}."
    sizes = ", ".join(
        f"{split.samples} {manifest.unit} of {split.patients} patients ({name})"
        for name, split in manifest.splits.items()
    )
    kept = manifest.source_rows - sum(manifest.left_out.values())
    studies = f"A sample is a study, with up to {manifest.views} of its films. " if manifest.views > 1 else ""
    return (
        f"{made}Of {manifest.source_rows} source rows, {kept} images were kept and split by "
        f"{manifest.split_rule}: {sizes}. {studies}Films were stored as grey JPEG with a short side of "
        f"{manifest.image['short_side']} pixels. The task is {manifest.task} with the classes "
        f"{', '.join(manifest.classes)}."
    )


def _model(run: RunResult) -> str:
    if len(run.members) == 1:
        return _one_model(run)
    members = "; ".join(member_line(member) for member in run.members)
    return (
        f"an ensemble, the mean of the probabilities of {len(run.members)} runs (Lakshminarayanan et al. 2017): "
        f"{members}. Its first member is {_one_model(run)}"
    )


def member_line(member: dict[str, Any]) -> str:
    """A member of an ensemble in a few words."""
    return f"{member['run']} sees {_SEEN[member['mode']]}, seed {member['seed']}, step {member['checkpoint_step']}"


def _one_model(run: RunResult) -> str:
    """The model of a run, or of an ensemble's first member, whose settings the ensemble's folder has."""
    model, data = run.config.model, run.config.data
    start = "pretrained weights" if model.pretrained else "random weights"
    parts = [f"a model that sees {_SEEN[model.mode]}, started from {start};"]
    if model.uses_image:
        parts.append(
            f"films of {data.image_size} × {data.image_size} pixels through {encoder_name(model.image_encoder)};"
        )
    if model.uses_text:
        sections = ", ".join(data.text_sections)
        parts.append(
            f"the sections {sections} (up to {data.max_tokens} tokens) through the text encoder "
            f"{encoder_name(model.text_encoder)};"
        )
    if model.mode == "fused":
        parts.append(f"joined by cross-attention ({model.fusion}, {model.fusion_heads} heads);")
    dropout = " and ".join(f"{rate:g}" for rate in model.head_dropout)
    return " ".join(parts) + f" a head with dropout {dropout}."


def _training(run: RunResult) -> str:
    config = run.config
    data, optim, train = config.data, config.optim, config.train
    schedule = optim.schedule + (f" after {optim.warmup_steps} warm-up steps" if optim.warmup_steps else "")
    limit = f" or {train.max_steps} steps" if train.max_steps else ""
    weights = "balanced class weights" if config.loss.class_weights == "balanced" else "no class weights"
    extras = [
        f"{_LOSSES.get(config.loss.name, recorded_name(config.loss.name))} with {weights}",
        f"{optim.name.replace('adam', 'Adam').replace('Adamw', 'AdamW')}, learning rate {optim.lr:g} ({schedule}), "
        f"weight decay {optim.weight_decay:g}",
        f"batches of {data.global_batch}, {data.sampling} sampling",
        f"up to {train.epochs} epochs{limit}",
        *_optional(config),
    ]
    whose = "its first member: " if len(run.members) > 1 else ""
    return whose + "; ".join(extras) + f"; seed {config.seed}, {config.precision}."


def _optional(config: Config) -> list[str]:
    train, found = config.train, []
    if config.data.stages:
        names = ", ".join(stage.rpartition(":")[2] for stage in config.data.stages)
        found.append(f"training samples passed through {names}, written by the runs' owner")
    if train.freeze_epochs and (config.model.uses_image or config.model.uses_text):
        found.append(f"encoders frozen for {train.freeze_epochs} epochs")
    if train.mixup_alpha:
        found.append(f"mixup (α {train.mixup_alpha:g}) from epoch {train.mixup_from_epoch}")
    if config.optim.ema_decay:
        found.append(f"an exponential moving average of the weights (decay {config.optim.ema_decay:g})")
    if config.model.sync_batchnorm and config.model.uses_image:
        found.append("BatchNorm over the batches of all ranks")
    if config.ddp.comm_hook != "none":
        found.append(f"gradients rounded to {config.ddp.comm_hook} to be summed over ranks")
    if train.early_stopping_patience:
        found.append(f"early stopping after {train.early_stopping_patience} validations without a better AUC")
    return found


def _evaluation(comparison: Comparison) -> str:
    first = comparison.runs[0].evaluation
    bounds: dict[str, Any] = first["intervals"]
    text = (
        f"The checkpoint with the best mean validation ROC AUC was evaluated on the {comparison.split} split. "
        f"Intervals are the middle {bounds['level']:.0%} of {bounds['n_bootstrap']} resamples of whole patients. "
        "Runs were compared on the same samples by the paired bootstrap over patients, and per class by DeLong's "
        "test with patients as clusters (Obuchowski 1997); p-values are two-sided and not adjusted for the number "
        f"of comparisons. Calibration errors use {BINS} bins of equal mass."
    )
    points = first["operating_points"]
    if points is not None:
        text += (
            f" Thresholds ({points['rule']}) and the temperature were chosen on {points['chosen_on']['n']} "
            f"validation images of {points['chosen_on']['patients']} patients and only then applied."
        )
    uncertain = [run for run in comparison.runs if "uncertainty" in run.metrics]
    return f"{text} Uncertainty: {_shared(uncertain, _uncertainty)}" if uncertain else text


def _uncertainty(run: RunResult) -> str:
    passes = run.metrics["uncertainty"]["passes"]
    total = f"{passes} passes of all members together" if len(run.members) > 1 else f"{passes} passes"
    return f"{total} with Monte-Carlo dropout{dropout_place(run)}."


def dropout_place(run: RunResult) -> str:
    """Where dropout acted in the stochastic passes, as the end of a sentence; empty without passes."""
    scope = run.evaluation["mc_scope"]
    return "" if scope is None else f" in {_SCOPES[scope]}"
