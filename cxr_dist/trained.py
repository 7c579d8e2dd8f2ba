"""A trained model, ready for use: a run folder in; its network, tokenizer and settings out, and cases as batches."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.config import Config
from cxr_dist.config_file import load_config
from cxr_dist.data.augment import Augmentation
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import collate, decode
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.session import tokenizer_of
from cxr_dist.shard.image import ImageFile, encode_jpeg
from cxr_dist.shard.left_out import ImageProblem
from cxr_dist.shard.manifest import Manifest, Task, index_dtype, load_manifest
from cxr_dist.train import checkpoint


@dataclass(frozen=True, kw_only=True)
class Case:
    """One film and report from outside the shards."""

    image: Path | None = None
    """A PNG or JPEG; None for a model that reads no film."""
    report: str = ""
    """The sections that the model was trained to see, joined; may be empty."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The best checkpoint of a run, in eval mode, with all that is needed to use it."""

    config: Config
    task: Task
    classes: tuple[str, ...]
    image: dict[str, int]
    """`short_side` (pixels) and `quality` of the JPEGs that it was trained on."""
    classifier: Classifier
    tokenizer: ReportTokenizer | None
    """None for a model that reads no report."""
    step: int
    """The checkpoint's optimizer step."""
    device: torch.device

    def batch(self, cases: Sequence[Case]) -> Batch:
        """Cases through the very stages that a stored sample passes; sample ids count from 0. Raises UserError."""
        return self.batch_of([self.sample(case, number) for number, case in enumerate(cases)])

    def batch_of(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """What `sample` made of one case or more, as one batch; samples are used up."""
        size = self.config.data.image_size if self.config.model.uses_image else None
        to_pixels = decode(self.image["short_side"], size)
        to_batch = collate(size, Augmentation(), self.tokenizer, self.config.data.text_sections)
        batch: Batch = next(iter(to_batch(to_pixels(iter([list(samples)])))))
        return batch

    def sample(self, case: Case, number: int = 0) -> dict[str, Any]:
        """A case as a stored sample with this sample id, its film read and compressed; raises UserError.

        This is the slow part of `batch`, and threads may call it.
        """
        uses = self.config.model
        if uses.uses_image and case.image is None:
            raise UserError("this run's model reads a film: give --image FILE")
        if case.report and not uses.uses_text:
            raise UserError("this run's model reads no report: leave --report out")
        labels = 1 if self.task == "multiclass" else len(self.classes)
        sample: dict[str, Any] = {"__key__": f"case {number}", "__url__": "--image", "sample_id": number}
        sample["record"] = np.zeros((), index_dtype(labels))
        sections = {self.config.data.text_sections[0]: case.report} if case.report else {}
        sample["json"] = json.dumps({"text": sections})
        if uses.uses_image and case.image is not None:
            sample["jpg"] = self._stored_form(case.image)
        return sample

    def _stored_form(self, film: Path) -> bytes:
        """The film as sharding would have stored it: shrunk, grey, compressed."""
        try:
            grey = ImageFile(path=film).read(self.image["short_side"])
        except ImageProblem as problem:
            raise UserError(f"the film cannot be used: {problem.reason}; expected a PNG or JPEG") from None
        return encode_jpeg(grey, self.image["quality"])


def open_run(
    run_dir: Path, device: torch.device, shards: Path | None = None
) -> tuple[TrainedModel, Manifest]:
    """The best checkpoint of a run, and the manifest of its shards (`shards`: where they have moved)."""
    config = load_config(run_dir / "config.yaml")
    if shards is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(shards)))
    manifest = load_manifest(Path(config.data.shards))
    state = _best_checkpoint(run_dir)
    text = run_dir / "text_encoder" if config.model.uses_text else None
    classifier = build_classifier(config.model, len(manifest.classes), text)
    classifier.load_state_dict(state.model)
    classifier.to(device, torch.float64 if config.precision == "fp64" else torch.float32)
    trained = TrainedModel(
        config=config,
        task=manifest.task,
        classes=manifest.classes,
        image=manifest.image,
        classifier=classifier.eval(),
        tokenizer=tokenizer_of(config, run_dir),
        step=state.state.step,
        device=device,
    )
    return trained, manifest


def _best_checkpoint(run_dir: Path) -> checkpoint.Checkpoint:
    """The one that validation chose; the newest where there was no validation."""
    best = run_dir / "best"
    if best.exists():
        return checkpoint.load(best.resolve(), model_only=True)
    newest, _ = checkpoint.newest_valid(run_dir, model_only=True)
    if newest is None:
        raise UserError(f"{run_dir} has no checkpoint yet: run `cxr-dist train` first")
    return newest
