"""A trained model, ready for use: a run or exported folder in; network and settings out, and cases as batches."""

import dataclasses
import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxr_dist.config.file import load_config
from cxr_dist.data.augment import Augmentation
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import collate
from cxr_dist.data.place import at, shards_folder
from cxr_dist.data.read import decode
from cxr_dist.data.text import ReportTokenizer, tokenizer_of
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.answer import answers
from cxr_dist.evaluate.passes import predict_passes
from cxr_dist.format.image import ImageFile, encode_jpeg
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.format.manifest import Manifest, index_dtype, load_manifest
from cxr_dist.format.stored_sample import image_name
from cxr_dist.inference import exported
from cxr_dist.inference.exported import Description
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.monte_carlo import McDropout, McScope
from cxr_dist.run import checkpoint
from cxr_dist.run.parts import changed_parts, read_parts, record_of


@dataclass(frozen=True, kw_only=True)
class Case:
    """One film and report from outside the shards."""

    image: Path | None = None
    """A PNG or JPEG; None for a model that reads no film."""
    more_images: tuple[Path, ...] = ()
    """The study's other films, for a model that was trained on studies. No order of films is another answer."""
    report: str = ""
    """The sections that the model was trained to see, joined; may be empty."""

    @classmethod
    def of(cls, images: Sequence[Path], report: str) -> "Case":
        """A study's films, in any order, and its report."""
        return cls(image=images[0] if images else None, more_images=tuple(images[1:]), report=report)


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Description):
    """The best checkpoint of a run, in eval mode, with all that is needed to use it."""

    classifier: Classifier
    tokenizer: ReportTokenizer | None
    """None for a model that reads no report."""
    device: torch.device

    def predict(
        self,
        image: str | Path | Sequence[str | Path] | None = None,
        report: str = "",
        *,
        mc_samples: int = 0,
        mc_scope: McScope = "head",
    ) -> dict[str, Any]:
        """What the model says of one film and report, as JSON has it.

        Args:
            image: A film, PNG or JPEG; a model that reads no film needs none. A model that was trained on studies
                takes several films of one, in any order.
            report: The report's text, as much of it as the model was trained to see.
            mc_samples: Passes with Monte-Carlo dropout, for the intervals; 0: none.
            mc_scope: Where dropout acts in them, as in `cxr-dist evaluate`.

        Returns:
            For each quantity, class name -> value: `probability` of the deterministic pass; `calibrated`, the
            same at the temperature that validation chose, if it chose one; with passes their `mc_mean`,
            `mc_deviation`, and the bounds `mc_low` and `mc_high` of the middle 95%, and entropies in nats.

        Raises UserError for a film that cannot be used, or a film or report that the model does not read.
        """
        films = [] if image is None else [image] if isinstance(image, str | Path) else image
        batch = self.batch([Case.of(list(map(Path, films)), report)])
        mc = McDropout(passes=mc_samples, scope=mc_scope)
        found = predict_passes(
            self.classifier, batch.to(self.device), self.config, self.task, mc, self.device
        )
        return answers(*found, self.task, self.classes, self.temperature).to_dict(0)

    def batch(self, cases: Sequence[Case]) -> Batch:
        """Cases through the very stages that a stored sample passes; sample ids count from 0. Raises UserError."""
        return self.batch_of([self.sample(case, number) for number, case in enumerate(cases)])

    def batch_of(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """What `sample` made of one case or more, as one batch; samples are used up."""
        size = self.config.data.image_size if self.config.model.uses_image else None
        for sample in samples:
            decode(sample, self.image["short_side"], size)
        to_batch = collate(size, Augmentation(), self.tokenizer, self.config.data.text_sections, self.views)
        batch: Batch = next(iter(to_batch(iter([list(samples)]))))
        return batch

    def sample(self, case: Case, number: int = 0) -> dict[str, Any]:
        """A case as a stored sample with this sample id, its film read and compressed; raises UserError.

        This is the slow part of `batch`, and threads may call it.
        """
        uses = self.config.model
        if uses.uses_image and case.image is None:
            raise UserError("this run's model reads a film (--image FILE), and none was given")
        if case.report and not uses.uses_text:
            raise UserError("this run's model reads no report: leave --report out")
        if case.more_images and len(case.more_images) >= self.views:
            most = "one film" if self.views == 1 else f"at most {self.views} films of a study"
            raise UserError(
                f"this run's model was trained on {most}, and {1 + len(case.more_images)} were given: leave some out"
            )
        labels = 1 if self.task == "multiclass" else len(self.classes)
        sample: dict[str, Any] = {"__key__": f"case {number}", "__url__": "--image", "sample_id": number}
        sample["record"] = np.zeros((), index_dtype(labels))
        sections = {self.config.data.text_sections[0]: case.report} if case.report else {}
        sample["json"] = json.dumps({"text": sections})
        if uses.uses_image and case.image is not None:
            for view, film in enumerate((case.image, *case.more_images)):
                sample[image_name(view)] = self._stored_form(film)
        return sample

    def _stored_form(self, film: Path) -> bytes:
        """The film as sharding would have stored it: shrunk, grey, compressed."""
        try:
            grey = ImageFile(path=film).read(self.image["short_side"])
        except ImageProblem as problem:
            raise UserError(f"the film cannot be used: {problem.reason}; expected a PNG or JPEG") from None
        return encode_jpeg(grey, self.image["quality"])


def open_model(folder: Path, device: torch.device) -> TrainedModel:
    """The model of a run folder (whose shards are at hand) or an exported folder; raises UserError for another."""
    if (folder / "config.yaml").is_file():
        return open_run(folder, device)[0]
    return open_export(folder, device)


def open_run(run_dir: Path, device: torch.device, shards: str | None = None) -> tuple[TrainedModel, Manifest]:
    """The best checkpoint of a run, and the manifest of its shards (`shards`: where they have moved)."""
    config = load_config(run_dir / "config.yaml")
    config = dataclasses.replace(config, data=at(config.data, shards))
    manifest = load_manifest(shards_folder(config.data))
    found = _best_checkpoint(run_dir)
    description = Description(
        config=config,
        task=manifest.task,
        classes=manifest.classes,
        image=manifest.image,
        step=found.state.step,
        manifest_sha256=found.state.manifest_sha256,
        parts={
            field: parts for field, parts in read_parts(run_dir).items() if field in config.model.named_parts
        },
        temperature=chosen_temperature(run_dir, found.state.step),
    )
    return _assembled(description, found.model, run_dir, device), manifest


def open_export(folder: Path, device: torch.device) -> TrainedModel:
    """The model of a folder that `cxr-dist export` wrote, checked by sha256; raises UserError for any other."""
    description, tensors = exported.read(folder)
    for (name,) in description.config.model.named_parts.values():
        code = Path(name.rpartition(":")[0]).resolve()
        require(
            not code.is_relative_to(folder.resolve()) or code.suffix != ".py",
            f"{code.name} lies in the exported folder, from which no code is run: if you trust it, move it elsewhere",
        )
    return _assembled(description, tensors, folder, device)


def _assembled(
    description: Description, tensors: dict[str, Tensor], folder: Path, device: torch.device
) -> TrainedModel:
    """`folder` holds text_encoder/, where the model reads reports. Raises UserError for weights of another network."""
    config = description.config
    text = folder / exported.TEXT_ENCODER if config.model.uses_text else None
    _check_parts(description, folder)
    made = dataclasses.replace(config.model, pretrained=False)  # its weights follow
    classifier = build_classifier(made, len(description.classes), text)
    classifier.to(device, torch.float64 if config.precision == "fp64" else torch.float32)
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError:  # whose message names every tensor
        raise UserError(
            f"the weights in {folder} do not fit the network that this release of cxr_dist builds from their "
            "settings: use the release that wrote them, or train again"
        ) from None
    return TrainedModel(
        **{field.name: getattr(description, field.name) for field in dataclasses.fields(description)},
        classifier=classifier.eval(),
        tokenizer=tokenizer_of(config, folder),
        device=device,
    )


def _check_parts(description: Description, folder: Path) -> None:
    """Raise UserError where an encoder of the user's own is missing, or not the one that was trained."""
    try:
        now = record_of(description.config.model.named_parts)
    except UserError as error:
        raise UserError(f"the model in {folder} has an encoder that is not the package's: {error}") from None
    for field, name in changed_parts(description.parts, now):
        raise UserError(
            f"{field}: {name} is defined by another file than the model in {folder} was trained with (its sha256 "
            "differs): put that file back"
        )


def chosen_temperature(run_dir: Path, step: int) -> float | None:
    """The temperature of an evaluation of this checkpoint; None where there is none, or it found none."""
    for path in sorted(glob.glob("evaluation/*/metrics.json", root_dir=run_dir)):
        evaluation = json.loads((run_dir / path).read_text(encoding="utf-8"))
        temperature = (evaluation.get("calibration") or {}).get("temperature")
        if temperature is not None and evaluation.get("checkpoint_step") == step:
            return float(temperature)
    return None


def _best_checkpoint(run_dir: Path) -> checkpoint.Checkpoint:
    """The one that validation chose; the newest where there was no validation."""
    best = run_dir / "best"
    if best.exists():
        try:
            return checkpoint.load(best.resolve(), model_only=True)
        except UserError as error:
            raise UserError(
                f"the best checkpoint of {run_dir} cannot be used: {error}. Bring it back from a copy; or delete "
                f"{best.name} there, to use the newest checkpoint that is whole"
            ) from None
    newest, _ = checkpoint.newest_valid(run_dir, model_only=True)
    if newest is None:
        raise UserError(f"{run_dir} has no checkpoint yet: run `cxr-dist train` first")
    return newest
