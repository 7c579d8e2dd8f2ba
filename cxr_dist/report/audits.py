"""What the page and the terminal say about the modality audits of the runs, and about the shortcut controls."""

from collections.abc import Sequence

from cxr_dist.evaluate.ablation import interval_text
from cxr_dist.evaluate.audit import fall_of
from cxr_dist.evaluate.controls import Controls
from cxr_dist.evaluate.run_result import RunResult


def audited_runs(runs: Sequence[RunResult]) -> list[RunResult]:
    """The runs whose evaluation has an audit (`cxr-dist evaluate --audit`); of a cross-validation, those of folds."""
    return [model for run in runs for model in run.models if "audit" in model.evaluation]


def explained_runs(runs: Sequence[RunResult]) -> list[RunResult]:
    """The runs whose heat maps were scored (`cxr-dist evaluate --boxes`); of a cross-validation, those of folds."""
    return [model for run in runs for model in run.models if "explanations" in model.evaluation]


def conclusions(runs: Sequence[RunResult]) -> list[str]:
    """One statement for each audited run that reads image and report, and one for all folds of a cross-validation."""
    audited = [run for run in runs if run.mode == "fused" and audited_runs([run])]
    return [f"{run.name}: {_of_folds(run) if run.folds else _statement(run)}" for run in audited]


def _statement(run: RunResult) -> str:
    statement = str(run.evaluation["audit"]["statement"])
    return f"{statement[0].lower()}{statement[1:]}"


def _of_folds(run: RunResult) -> str:
    """In how many folds the fall for swaps with other labels has an interval above 0."""
    blocks = [fold.evaluation["audit"] for fold in audited_runs([run])]
    report, image = (sum((fall_of(block, each).low or 0.0) > 0 for block in blocks) for each in ("report", "image"))
    return (
        f"swapping reports with those of other labels is shown to cost macro ROC AUC in {report} of {len(blocks)} "
        f"audited folds, swapping images in {image}."
    )


def controls_reach(controls: Controls) -> str:
    """What the controls reach, in one sentence; empty without controls."""
    each = [f"{interval_text(row.estimate('macro', 'roc_auc'))} on {row.features} alone" for row in controls.rows]
    return f"Without a network, logistic regressions reach a macro ROC AUC of {' and '.join(each)}." if each else ""


def without_donor(runs: Sequence[RunResult]) -> list[str]:
    """How many samples could not be swapped, for each run and swap with such samples; the same text once."""
    texts = []
    for run in audited_runs(runs):
        for modality in ("image", "report"):
            for kind, words in {"same_label": "have the same label", "other_labels": "have another label"}.items():
                left_out = run.evaluation["audit"][modality].get(kind, {}).get("without_donor", {"n": 0})
                if left_out["n"]:
                    texts.append(
                        f"{left_out['n']} samples of {left_out['patients']} patients are left out before and after the "
                        f"swap, because no other patient’s samples {words}."
                    )
    return list(dict.fromkeys(texts))
