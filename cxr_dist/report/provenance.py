"""Settings, hardware, data and possible leakage of each run, as labelled values for the page."""

from collections.abc import Sequence
from typing import Any

from cxr_dist.config.lookup import recorded_name
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.model.weights import encoder_name
from cxr_dist.report.methods import member_line
from cxr_dist.shard.readers import READERS

_ADAPTED = {"head": "nothing", "lora": "low-rank adapters"}


def leakage_statements(comparison: Comparison) -> dict[str, list[str]]:
    """Ways in which label information could reach a model: statement -> its value for each run."""
    runs = comparison.runs
    return {
        "Report sections read": [", ".join(run.evaluation["text_sections"]) or "none" for run in runs],
        "Label terms in those sections": [_terms(run) for run in runs],
        "Source of the labels": [_label_source(run) for run in runs],
        "Split by": [_split(run) for run in runs],
        "Samples without report text": [_without_text(run) for run in runs],
        f"Patients of the {comparison.split} split who are also in the training split": [
            _in_training(run) for run in runs
        ],
    }


def _in_training(run: RunResult) -> str:
    count = run.evaluation["patients_in_training"]
    return "not known" if count is None else f"{count} of {run.metrics['patients']}"


def _terms(run: RunResult) -> str:
    if not run.evaluation["text_sections"]:
        return "reads no report"
    return "redacted" if run.evaluation["label_terms_redacted"] else "not redacted"


def _split(run: RunResult) -> str:
    return str(run.evaluation["split_by"]) if run.manifest is None else run.manifest.split_rule


def _without_text(run: RunResult) -> str:
    if not run.evaluation["text_sections"]:
        return "reads no report"
    if run.manifest is None:
        return "unknown: the shards are missing or have changed"
    samples = sum(split.samples for split in run.manifest.splits.values())
    return f"{run.manifest.without_text} of {samples} in all splits"


def _label_source(run: RunResult) -> str:
    source = str(run.evaluation["label_source"])
    return READERS[source].labels_from if source in READERS else source


def data_facts(comparison: Comparison) -> dict[str, str]:
    """Describe the data set by the first run's records and the first manifest that is still available."""
    first = comparison.runs[0]
    facts = {"Source of the labels": _label_source(first), "Split by": _split(first)}
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    if manifest is None:
        return facts | {"Shards": "missing or changed since training; sizes and classes are unknown"}
    excluded = ", ".join(f"{count} {reason}" for reason, count in manifest.left_out.items()) or "none"
    facts |= {
        name.capitalize(): f"{split.samples} {manifest.unit} of {split.patients} patients"
        for name, split in manifest.splits.items()
    }
    return facts | {
        "Classes": ", ".join(manifest.classes),
        "Task": manifest.task,
        "Report sections in the shards": ", ".join(manifest.text_sections) or "none",
        "Images": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in manifest.image.items()),
        "Source rows": f"{manifest.source_rows}, excluded: {excluded}",
        "Reader": manifest.reader,
    }


def facts_of_runs(runs: Sequence[RunResult]) -> dict[str, dict[str, str]]:
    """Heading -> facts: first those that all runs share, then those that differ, run by run."""
    each = [run_facts(run) for run in runs]
    common = {name for name in each[0] if len(runs) > 1 and len({facts.get(name) for facts in each}) == 1}
    shared = {name: value for name, value in each[0].items() if name in common}
    own = {
        run.name: {name: value for name, value in facts.items() if name not in common}
        for run, facts in zip(runs, each, strict=True)
    }
    return ({"All runs": shared} if shared else {}) | own


def run_facts(run: RunResult) -> dict[str, str]:
    """Settings and hardware that a run recorded; for an ensemble, its members and the settings of the first."""
    config, environment = run.config, run.environment
    model, data, optim, train = config.model, config.data, config.optim, config.train
    encoders = [model.image_encoder] * model.uses_image + [model.text_encoder] * model.uses_text
    encoders = [encoder_name(encoder) for encoder in encoders]
    limit = f", at most {train.max_steps} steps" if train.max_steps else ""
    return (
        _members(run)
        | _folds(run)
        | {
            "Named run": str(run.evaluation["run"]),
            "Encoders": " + ".join(encoders) + (", pretrained" if model.pretrained else ", randomly initialized"),
            **({"Image weights": run.image_weights.in_words()} if run.image_weights else {}),
            **({"Trained of the encoders": _ADAPTED[model.adapt]} if model.adapt != "full" else {}),
            "Report sections read": ", ".join(run.evaluation["text_sections"]) or "none",
            "Fusion": model.fusion if model.mode == "fused" else "none",
            "Loss": f"{recorded_name(config.loss.name)}, class weights {config.loss.class_weights}, "
            f"sampling {data.sampling}",
            "Optimizer": f"{optim.name}, learning rate {optim.lr:g}, {optim.schedule}",
            "Batch size": f"{data.global_batch} ({data.num_lanes} micro-batches of {data.micro_batch})",
            "Image size": f"{data.image_size} pixels",
            "Training length": f"{train.epochs} epochs{limit}; evaluated at step {run.evaluation['checkpoint_step']}",
            "Seed": ", ".join(dict.fromkeys(str(member["seed"]) for member in run.members)),
            "Precision": config.precision,
            "Parallel training": config.parallel,
            "Hardware": f"{_of(environment, 'device')}, {_of(environment, 'host_cpus')} CPUs, "
            f"{_of(environment, 'world_size')} ranks",
            "Versions": ", ".join(f"{name} {v}" for name, v in environment.get("versions", {}).items()),
            "Commit": _of(environment, "commit"),
            "Manifest sha256": _of(environment, "manifest_sha256"),
            "Command": _of(environment, "command"),
        }
    )


def _members(run: RunResult) -> dict[str, str]:
    """What the result was made of, if it is not that of one run on one split."""
    if run.folds:
        return {"Runs": f"{len(run.folds)}, one for each test fold: {', '.join(each.name for each in run.folds)}"}
    if run.fold is not None:
        return {"Test fold": str(run.fold)}
    if len(run.members) == 1:
        return {}
    members = "; ".join(map(member_line, run.members))
    return {
        "Ensemble of": f"{len(run.members)} runs: {members}",
        "Settings below": "those of the first member",
    }


def _folds(run: RunResult) -> dict[str, str]:
    if run.folds:
        return {"Runs": f"{len(run.folds)}, one for each test fold: {', '.join(each.name for each in run.folds)}"}
    return {} if run.fold is None else {"Test fold": str(run.fold)}


def _of(environment: dict[str, Any], name: str) -> str:
    value = environment.get(name)
    return "not recorded" if value is None else str(value)
