"""Assembly of `cxr-dist export`: from a run folder to a folder that can be used without the run and its shards."""

from collections.abc import Callable
from pathlib import Path

import torch

from cxr_dist.config.lookup import library_of
from cxr_dist.errors import UserError
from cxr_dist.evaluate.ensemble import member_of
from cxr_dist.evaluate.run_result import RunResult, read_run, unfinished
from cxr_dist.files import holds_something, whole_folder
from cxr_dist.inference import exported
from cxr_dist.inference.export_sums import CARD, write_sums
from cxr_dist.inference.onnx import check_onnx, write_onnx
from cxr_dist.inference.opened import open_trained
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.model.image_encoder import IMAGE_FOLDER
from cxr_dist.report.model_card import CardFacts, model_card
from cxr_dist.run.image_weights import read_image_weights
from cxr_dist.run.trained_on import training_manifest


def export(
    run_dir: Path,
    out: Path,
    *,
    with_onnx: bool,
    shards: str | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the best checkpoint of a run as an exported model, in the format of inference/exported.py.

    `say` is told what is being done, which can take minutes.

    Raises UserError, and leaves `out` unchanged, if `out` is not empty, the run has no checkpoint, the shards are
    not those that it was trained on, its evaluation belongs to another checkpoint, the model cannot be written as an
    ONNX graph, or the graph differs from the network.
    """
    if holds_something(out):
        raise UserError(f"{out} exists already: remove it, or choose another --out")
    if with_onnx:
        check_onnx()
    trained = open_trained(run_dir, torch.device("cpu"), shards)
    if with_onnx and trained.views > 1 and trained.config.model.uses_image:
        raise UserError(
            "this model was trained on studies of several images, which the ONNX graph cannot take: export with "
            "--onnx false"
        )
    if trained.pretrained is not None:
        raise UserError(
            f"{run_dir} is a run of contrastive pretraining, which has no classification head to export: train a "
            f"classifier with --model.init-from {run_dir}, and export that"
        )
    manifest = training_manifest(run_dir, trained.config, trained.manifest_sha256)
    if manifest is None or (shards is not None and trained.config.data.shards != shards):
        raise UserError(
            "the shards are not those that the run was trained on (their manifest differs), so the model card would "
            "describe other data: give the right ones with --shards"
        )
    result = _evaluation_of(run_dir, trained)
    with whole_folder(out) as folder:
        say(f"writing the weights of step {trained.step}")
        exported.write_weights(folder, trained, trained.classifier.state_dict())
        if trained.config.model.uses_text:
            exported.write_encoder(folder, run_dir / exported.TEXT_ENCODER)
        if trained.config.model.uses_image and (run_dir / IMAGE_FOLDER).is_dir():
            exported.write_encoder(folder, run_dir / IMAGE_FOLDER)
        if with_onnx:
            say(f"writing {exported.GRAPH}, and comparing it with the network")
            _write_graph(trained, folder / exported.GRAPH)
        facts = CardFacts(
            config=trained.config,
            manifest=manifest,
            manifest_sha256=trained.manifest_sha256,
            step=trained.step,
            calibrator=trained.calibrator,
            result=result,
            unfinished=unfinished(run_dir, trained.config, manifest),
            with_graph=with_onnx,
            image_weights=read_image_weights(run_dir),
        )
        (folder / CARD).write_text(model_card(facts), encoding="utf-8")
        write_sums(folder)


def _write_graph(trained: TrainedModel, path: Path) -> None:
    data = trained.config.data
    try:
        write_onnx(trained.classifier, trained.task, path, image_size=data.image_size, max_tokens=data.max_tokens)
    except Exception as error:
        model = trained.config.model
        library = library_of(model.image_encoder) if model.uses_image else ""
        if isinstance(error, UserError) or not (library or model.has_own_encoder):
            raise
        raise UserError(
            f"torch cannot make an ONNX graph of the {f'{library}:' if library else 'user-defined'} encoder "
            f"({type(error).__name__}): export with --onnx false"
        ) from None


def _evaluation_of(run_dir: Path, trained: TrainedModel) -> RunResult | None:
    """The evaluation on the test split, or None; raises UserError if it is of another checkpoint or other shards."""
    if not (run_dir / "evaluation" / "test" / "metrics.json").is_file():
        return None
    result = read_run(run_dir, trained.config.run, "test")
    same = result.evaluation["members"] == [member_of(trained.config, trained.step)]
    if not same or result.evaluation["manifest_sha256"] != trained.manifest_sha256:
        raise UserError(
            f"the evaluation in {run_dir} is of step {result.evaluation['checkpoint_step']} or of other shards, but "
            f"the best checkpoint is of step {trained.step}: run `cxr-dist evaluate {run_dir}` again"
        )
    return result
