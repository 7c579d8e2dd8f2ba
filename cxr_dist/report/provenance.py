"""What was run on what: a run's settings, machine and data as short labelled facts for the page."""

from collections.abc import Sequence
from typing import Any

from cxr_dist.config.lookup import recorded_name
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.weights import encoder_name
from cxr_dist.report.methods import member_line
from cxr_dist.shard.readers import READERS


def leakage_statements(comparison: Comparison) -> dict[str, list[str]]:
    """What a model could know of its answers beyond the film: statement -> its value for each run."""
    runs = comparison.runs
    return {
        "Report sections seen": [", ".join(run.evaluation["text_sections"]) or "none" for run in runs],
        "Label terms in those sections": [_terms(run) for run in runs],
        "Labels come from": [_label_source(run) for run in runs],
        "Split grouped by": [_split(run) for run in runs],
        "Samples without report text": [_without_text(run) for run in runs],
        f"Patients of {comparison.split} who are in training too": [
            f"{run.evaluation['patients_in_training']} of {run.metrics['patients']}" for run in runs
        ],
    }


def _terms(run: RunResult) -> str:
    if not run.evaluation["text_sections"]:
        return "no report is read"
    return "redacted" if run.evaluation["label_terms_redacted"] else "left in"


def _split(run: RunResult) -> str:
    return str(run.evaluation["split_by"]) if run.manifest is None else run.manifest.split_rule


def _without_text(run: RunResult) -> str:
    if not run.evaluation["text_sections"]:
        return "no report is read"
    if run.manifest is None:
        return "not known: the shards are gone or have changed"
    return f"{run.manifest.without_text} of {sum(split.samples for split in run.manifest.splits.values())}, all splits"


def _label_source(run: RunResult) -> str:
    source = str(run.evaluation["label_source"])
    return READERS[source].labels_from if source in READERS else source


def data_facts(comparison: Comparison) -> dict[str, str]:
    """The data set, from the first manifest that is still there and the run's own record."""
    first = comparison.runs[0]
    facts = {"Labels come from": _label_source(first), "Split by": _split(first)}
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    if manifest is None:
        return facts | {"Shards": "gone or changed since training: their sizes and classes cannot be shown"}
    return facts | _manifest_facts(manifest)


def _manifest_facts(manifest: Manifest) -> dict[str, str]:
    left_out = ", ".join(f"{count} {reason}" for reason, count in manifest.left_out.items()) or "none"
    facts = {
        name.capitalize(): f"{split.samples} {manifest.unit} of {split.patients} patients"
        for name, split in manifest.splits.items()
    }
    return facts | {
        "Classes": ", ".join(manifest.classes),
        "Task": manifest.task,
        "Report sections in the shards": ", ".join(manifest.text_sections) or "none",
        "Images": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in manifest.image.items()),
        "Source rows": f"{manifest.source_rows}, left out: {left_out}",
        "Reader": manifest.reader,
    }


def facts_of_runs(runs: Sequence[RunResult]) -> dict[str, dict[str, str]]:
    """Heading -> facts: what all runs have in common first, then what each has of its own."""
    each = [run_facts(run) for run in runs]
    common = {name for name in each[0] if len(runs) > 1 and len({facts.get(name) for facts in each}) == 1}
    shared = {name: value for name, value in each[0].items() if name in common}
    own = {
        run.name: {name: value for name, value in facts.items() if name not in common}
        for run, facts in zip(runs, each, strict=True)
    }
    return ({"All runs": shared} if shared else {}) | own


def run_facts(run: RunResult) -> dict[str, str]:
    """Settings and machine of one run, as it recorded them; for an ensemble, its members and the first's."""
    config, environment = run.config, run.environment
    model, data, optim, train = config.model, config.data, config.optim, config.train
    encoders = [model.image_encoder] * model.uses_image + [model.text_encoder] * model.uses_text
    encoders = [encoder_name(encoder) for encoder in encoders]
    sections = ", ".join(run.evaluation["text_sections"]) or "none"
    limit = f", at most {train.max_steps} steps" if train.max_steps else ""
    return _members(run) | {
        "Named run": str(run.evaluation["run"]),
        "Encoders": " + ".join(encoders) + (", pretrained" if model.pretrained else ", from random weights"),
        "Report sections read": sections,
        "Fusion": model.fusion if model.mode == "fused" else "none",
        "Loss": f"{recorded_name(config.loss.name)}, class weights {config.loss.class_weights}, "
        f"sampling {data.sampling}",
        "Optimizer": f"{optim.name}, learning rate {optim.lr:g}, {optim.schedule}",
        "Batch": f"{data.global_batch} ({data.num_lanes} lanes of {data.micro_batch}), images {data.image_size} px",
        "Length": f"{train.epochs} epochs{limit}; evaluated at step {run.evaluation['checkpoint_step']}",
        "Seed": ", ".join(dict.fromkeys(str(member["seed"]) for member in run.members)),
        "Precision": f"{config.precision}, {config.parallel}",
        "Hardware": f"{_of(environment, 'device')}, {_of(environment, 'host_cpus')} CPUs, "
        f"{_of(environment, 'world_size')} ranks",
        "Versions": ", ".join(f"{name} {v}" for name, v in environment.get("versions", {}).items()),
        "Commit": _of(environment, "commit"),
        "Manifest sha256": _of(environment, "manifest_sha256"),
        "Command": _of(environment, "command"),
    }


def _members(run: RunResult) -> dict[str, str]:
    if len(run.members) == 1:
        return {}
    members = "; ".join(map(member_line, run.members))
    return {"Mean of": f"{len(run.members)} runs: {members}", "Settings below": "those of the first of them"}


def _of(environment: dict[str, Any], name: str) -> str:
    value = environment.get(name)
    return "not recorded" if value is None else str(value)
