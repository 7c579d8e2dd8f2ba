"""Label leakage: patients in training and test, report sections that state the finding, a split by image.

The facts are counted from the shards when a run is evaluated; the warnings follow from what the runs recorded.
"""

import contextlib
from collections.abc import Iterator, Sequence

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.evaluate.ablation import Ablation, interval_text
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.format.manifest import Manifest
from cxr_dist.shard.readers import READERS

_WRITTEN_BEFORE = ("indication", "history", "examination", "technique", "comparison")
"""Report sections that are written before the image is read."""


def labels_in_text(label_source: str, sections: Sequence[str], own: str = "") -> str:
    """A warning if the labels were made from report text that these sections include; else empty.

    `own` says how a user's own reader made the labels from the reports; empty if it did not.
    """
    sources = [section for section in sections if section not in _WRITTEN_BEFORE]
    how = own or (READERS[label_source].labels_in_reports if label_source in READERS else "")
    if not how or not sources:
        return ""
    return (
        f"The labels were made from the reports themselves, {how}: a model that reads {', '.join(sources)} reads "
        "the text that they were made from. Indication and history are written before the image is read."
    )


def patients_in_training(
    data: DataConfig, manifest: Manifest, split: str, trained_on: tuple[DataConfig, Manifest] | None = None
) -> int:
    """Number of patients of `split` who are also in the training split, of other shards if `trained_on` is given.

    0 for the training split itself.
    """
    if split == "train" and trained_on is None:
        return 0
    training = _patients(*(trained_on or (data, manifest)), "train")
    return len(_patients(data, manifest, split) & training)


def _patients(data: DataConfig, manifest: Manifest, split: str) -> set[bytes]:
    if not manifest.splits[split].samples:
        return set()
    with contextlib.closing(open_store(data, manifest, split)) as store:
        return set().union(*(store.index(shard)["patient"].tolist() for shard in range(len(store.shards))))


def label_terms_redacted(manifest: Manifest) -> bool:
    """Whether the recipe replaced the label terms in the reports."""
    return bool(manifest.recipe.get("redact"))


def warnings(runs: Sequence[RunResult], ablations: Sequence[Ablation] = ()) -> Iterator[str]:
    """Yields what a reader must know before trusting a comparison of these runs."""
    yield from _missing_modes(runs)
    yield from filter(None, map(_text_explains, ablations))
    if any("impression" in run.evaluation["text_sections"] for run in runs):
        yield "The text input includes the impression, which usually names the finding."
    yield from dict.fromkeys(filter(None, map(_labels_in_text, runs)))
    if any(run.evaluation["split_by"] == "image" for run in runs):
        yield (
            "The split is by image: images of one patient are in both training and test, so the metrics are too "
            "optimistic."
        )
    shared = max(run.evaluation["patients_in_training"] or 0 for run in runs)  # None if it is not known
    if shared:
        yield f"{shared} of {runs[0].metrics['patients']} patients are also in the training split: split by patient."
    if len({run.environment.get("manifest_sha256") for run in runs}) > 1:
        yield "The runs were trained on different shard folders (their manifests differ)."


def _labels_in_text(run: RunResult) -> str:
    facts = run.evaluation
    return labels_in_text(facts["label_source"], facts["text_sections"], facts.get("labels_in_reports", ""))


def _missing_modes(runs: Sequence[RunResult]) -> Iterator[str]:
    modes = {run.mode for run in runs}
    if "fused" in modes and "text" not in modes:
        yield (
            "No report-only run is compared, so this does not show how much the report gives the answer away: "
            "train one with --model.mode text."
        )
    if "fused" in modes and "image" not in modes:
        yield "No image-only run is compared, so this does not show what the report adds to the image."


def _text_explains(ablation: Ablation) -> str:
    """A warning if the paired difference to the report-only run does not show that the image adds anything."""
    difference = ablation.differences["macro_roc_auc"]
    if ablation.removed != "image" or difference.value is None or (difference.low is not None and difference.low > 0):
        return ""
    text, alone = ablation.single.name, ablation.single.estimate("macro", "roc_auc")
    better_than_chance = alone.low is not None and alone.low > 0.5
    return (
        f"{ablation.fused.name} is not shown to be better than the report alone ({text}): the difference in macro ROC "
        f"AUC is {interval_text(difference, signed=True)}."
        + " The report may give the answer away, and the image may add nothing."
        * better_than_chance
    )
