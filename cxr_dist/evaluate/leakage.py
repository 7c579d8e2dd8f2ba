"""Ways in which a test can know its answers: patients on both sides, sections that name it, a split by image.

The facts are counted from the shards when a run is evaluated; the warnings are made from what runs recorded.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.format.manifest import Manifest
from cxr_dist.shard.readers import READERS

_WRITTEN_BEFORE = ("indication", "history", "examination", "technique", "comparison")
"""Report sections that are written before the film is read."""


def labels_in_text(label_source: str, sections: Sequence[str], own: str = "") -> str:
    """What to know where these sections hold what the labels were made from; empty where they do not.

    `own` is how a reader of the user's own says that they were made from the reports.
    """
    telling = [section for section in sections if section not in _WRITTEN_BEFORE]
    how = own or (READERS[label_source].labels_in_reports if label_source in READERS else "")
    if not how or not telling:
        return ""
    return (
        f"The labels were made from the reports themselves, {how}: a model that reads "
        f"{', '.join(telling)} reads what they were made from. indication and history are written before the film is "
        "read."
    )


def patients_in_training(data: DataConfig, manifest: Manifest, split: str) -> int:
    """Number of patients of `split` who are in the training split too; 0 for the training split itself."""
    if split == "train":
        return 0
    return len(_patients(data, manifest, split) & _patients(data, manifest, "train"))


def _patients(data: DataConfig, manifest: Manifest, split: str) -> set[bytes]:
    if not manifest.splits[split].samples:
        return set()
    with contextlib.closing(open_store(data, manifest, split)) as store:
        return {
            patient
            for shard in range(len(store.shards))
            for patient in store.index(shard)["patient"].tolist()
        }


def label_terms_redacted(manifest: Manifest) -> bool:
    """Whether the recipe had the labels' words replaced in the reports."""
    return bool(manifest.recipe.get("redact"))


def warnings(runs: Sequence[RunResult]) -> Iterator[str]:
    """What a reader must know before believing a table of these runs."""
    yield from _missing_modes(runs)
    yield from _text_explains(runs)
    if any("impression" in run.evaluation["text_sections"] for run in runs):
        yield "The IMPRESSION is among the sections that were read: it usually names the finding."
    seen = [_labels_in_text(run.evaluation) for run in runs]
    yield from dict.fromkeys(filter(None, seen))
    if any(run.evaluation["split_by"] == "image" for run in runs):
        yield (
            "The split is by image: films of one patient are in training and in the test, so the numbers are "
            "too good."
        )
    shared = max(run.evaluation["patients_in_training"] for run in runs)
    if shared:
        yield (
            f"{shared} of {runs[0].metrics['patients']} patients are in the training split too: split by "
            "patient."
        )
    if len({run.environment.get("manifest_sha256") for run in runs}) > 1:
        yield "The runs were trained on different shard folders (their manifests differ)."


def _labels_in_text(evaluation: Mapping[str, Any]) -> str:
    own = evaluation.get("labels_in_reports", "")
    return labels_in_text(evaluation["label_source"], evaluation["text_sections"], own)


def _missing_modes(runs: Sequence[RunResult]) -> Iterator[str]:
    modes = {run.mode for run in runs}
    if "fused" in modes and "text" not in modes:
        yield (
            "No report-only run is compared, so this does not say how much the report gives the answer away: "
            "train one with --model.mode text."
        )
    if "fused" in modes and "image" not in modes:
        yield "No image-only run is compared, so this does not say what the report adds to the film."


def _text_explains(runs: Sequence[RunResult]) -> Iterator[str]:
    """Whether the report alone explains what a fused run gained."""
    texts = [run for run in runs if run.mode == "text"]
    for run in (run for run in runs if run.mode == "fused"):
        best = run.estimate("macro", "roc_auc")
        for text in texts:
            value = text.estimate("macro", "roc_auc").value
            if value is not None and best.low is not None and value >= best.low:
                yield (
                    f"The report alone ({text.name}, macro ROC AUC {value:.3f}) reaches the 95% interval of "
                    f"{run.name}: the report gives the answer away, and the film may add nothing."
                )
