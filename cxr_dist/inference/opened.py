"""Open a trained model from a run folder or from an exported folder; neither training nor any rank is needed."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from cxr_dist.config.file import load_config
from cxr_dist.data.place import open_manifest, own_place
from cxr_dist.data.text import tokenizer_of
from cxr_dist.errors import UserError, require
from cxr_dist.format.manifest import Manifest
from cxr_dist.inference import exported
from cxr_dist.inference.description import Description
from cxr_dist.inference.export_sums import check_no_other_files
from cxr_dist.inference.loaded import LoadedModel
from cxr_dist.inference.recorded import recorded_by_evaluation
from cxr_dist.model.adapt import merged, with_adapters
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.contrastive import Contrastive, build_network
from cxr_dist.run import checkpoint
from cxr_dist.run.meaning import check_meaning
from cxr_dist.run.parts import changed_parts, read_parts, record_of
from cxr_dist.run.trained_on import read_trained_on


def checked_device(name: str) -> torch.device:
    """Return torch's device of a name such as cpu or cuda:1; raises UserError if there is none on this machine."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        count = torch.cuda.device_count()
        found = f"torch sees {count} GPUs on this machine" if count else "torch sees no GPU on this machine"
        raise UserError(
            f"there is no device {name!r}: {found}; use 'cpu', or a GPU that torch sees, such as 'cuda' or 'cuda:0'"
        ) from None
    return device


def open_model(folder: Path, device: torch.device) -> LoadedModel:
    """The model of a run folder or of an exported folder; else raises UserError."""
    if (folder / "config.yaml").is_file():
        return open_trained(folder, device)
    return open_export(folder, device)


def open_run(run_dir: Path, device: torch.device, shards: str | None = None) -> tuple[LoadedModel, Manifest]:
    """The best checkpoint of a run, and the manifest of its shards; `shards` is their new place, if they have moved."""
    trained = open_trained(run_dir, device, shards)
    return trained, open_manifest(trained.config.data)


def open_trained(run_dir: Path, device: torch.device, shards: str | None = None) -> LoadedModel:
    """The best checkpoint of a run; if an earlier version trained it, its shards are read, at `shards` if moved."""
    config, best = load_config(run_dir / "config.yaml"), checkpoint.best(run_dir)
    config = dataclasses.replace(config, data=own_place(config.data, shards, best.state.manifest_sha256))
    check_meaning(best.state.meaning, run_dir, config)
    trained_on = read_trained_on(run_dir, config, best.state.manifest_sha256)
    recorded = recorded_by_evaluation(run_dir, best.state.step, best.state.manifest_sha256, trained_on.classes)
    names = config.model.named_parts
    description = Description(
        config=config,
        task=trained_on.task,
        classes=trained_on.classes,
        image=trained_on.image,
        step=best.state.step,
        manifest_sha256=best.state.manifest_sha256,
        stored_sections=trained_on.text_sections,
        reader=trained_on.reader,
        redact=trained_on.redact,
        parts={field: parts for field, parts in read_parts(run_dir).items() if field in names},
        calibrator=recorded.calibrator,
        thresholds=recorded.thresholds,
        sets=recorded.sets,
    )
    return dataclasses.replace(_assembled(description, best.model, run_dir, device), trained_on=trained_on)


def open_export(folder: Path, device: torch.device) -> LoadedModel:
    """The model of a folder that `cxr-dist export` wrote, after a check of its sha256; else raises UserError."""
    description, tensors = exported.read(folder)
    for (name,) in description.config.model.named_parts.values():
        code = Path(name.rpartition(":")[0]).resolve()
        require(
            not code.is_relative_to(folder.resolve()) or code.suffix != ".py",
            f"{code.name} is in the exported folder, from which no code is run: if you trust it, move it elsewhere",
        )
    check_no_other_files(folder)
    return _assembled(description, tensors, folder, device)


def _assembled(description: Description, tensors: dict[str, Tensor], folder: Path, device: torch.device) -> LoadedModel:
    """The network with its weights; `folder` holds text_encoder/. Raises UserError if the weights do not fit."""
    config = description.config
    text = folder / exported.TEXT_ENCODER if config.model.uses_text else None
    _check_parts(description, folder)
    untrained = dataclasses.replace(config.model, pretrained=False)  # the weights are loaded below
    in_folder = dataclasses.replace(config, model=untrained, out=str(folder))  # which has the image encoder's settings
    network = with_adapters(build_network(in_folder, len(description.classes), text), untrained)
    network.to(device, torch.float64 if config.precision == "fp64" else torch.float32)
    try:
        network.load_state_dict(tensors)
    except RuntimeError:  # torch's message lists every tensor
        raise UserError(
            f"the weights in {folder} do not fit the network that this release of cxr_dist builds from their "
            "settings: use the release that wrote them, or train again"
        ) from None
    network, pretrained = merged(network), None
    if isinstance(network, Classifier):
        classifier = network
    else:
        # Imported here, because an exported model is never one of these.
        from cxr_dist.inference.pretrained import as_image_model, zero_shot

        assert isinstance(network, Contrastive)
        classifier, pretrained = zero_shot(network, description, folder, device)
        description = as_image_model(description)
    return LoadedModel(
        **{field.name: getattr(description, field.name) for field in dataclasses.fields(description)},
        classifier=classifier.eval(),
        tokenizer=tokenizer_of(description.config, folder),
        device=device,
        pretrained=pretrained,
    )


def _check_parts(description: Description, folder: Path) -> None:
    """Raise UserError if a user-defined encoder is missing, or differs from the one that was trained."""
    try:
        now = record_of(description.config.model.named_parts)
    except UserError as error:
        raise UserError(f"the model in {folder} has a user-defined encoder: {error}") from None
    for field, name in changed_parts(description.parts, now):
        raise UserError(
            f"{field}: {name} is defined by another file than the one that the model in {folder} was trained with "
            "(its sha256 differs): put that file back"
        )
