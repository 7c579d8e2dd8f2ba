"""Assembly of `cxr-dist export`: a run folder in; a folder that anybody can use without it out."""

from pathlib import Path

import torch

from cxr_dist.data.place import shards_folder
from cxr_dist.errors import UserError
from cxr_dist.evaluate.ensemble import member_of
from cxr_dist.evaluate.run_result import RunResult, read_run
from cxr_dist.files import holds_something, whole_folder
from cxr_dist.format.manifest import Manifest
from cxr_dist.inference import exported
from cxr_dist.inference.onnx import check_onnx, write_onnx
from cxr_dist.inference.trained import TrainedModel, open_run
from cxr_dist.report.model_card import CardFacts, model_card
from cxr_dist.run.folder import manifest_sha256


def export(run_dir: Path, out: Path, *, with_onnx: bool, shards: str | None = None) -> None:
    """Write the best checkpoint of a run as an exported model (inference/exported.py has the format).

    Raises UserError where `out` holds anything, the run has no checkpoint, its shards are others than it was
    trained on, its evaluation is of another checkpoint, or the ONNX graph differs from the network, or was asked
    for though samples have several films; `out` is then as it was.
    """
    if holds_something(out):
        raise UserError(f"{out} exists already: remove it, or choose another --out")
    if with_onnx:
        check_onnx()
    trained, manifest = open_run(run_dir, torch.device("cpu"), shards)
    if with_onnx and trained.views > 1 and trained.config.model.uses_image:
        raise UserError(
            "this model was trained on studies of several films, which the ONNX graph has no place for: export with "
            "--onnx false"
        )
    _check_shards(trained)
    result = _evaluation_of(run_dir, trained)
    with whole_folder(out) as folder:
        exported.write_weights(folder, trained, trained.classifier.state_dict())
        if trained.config.model.uses_text:
            exported.write_text_encoder(folder, run_dir / exported.TEXT_ENCODER)
        if with_onnx:
            _write_graph(trained, folder / exported.GRAPH)
        card = model_card(_facts(trained, manifest, result, with_graph=with_onnx))
        (folder / exported.CARD).write_text(card, encoding="utf-8")
        exported.write_sums(folder)


def _write_graph(trained: TrainedModel, path: Path) -> None:
    data = trained.config.data
    try:
        write_onnx(
            trained.classifier, trained.task, path, image_size=data.image_size, max_tokens=data.max_tokens
        )
    except Exception as error:
        if isinstance(error, UserError) or not trained.config.model.has_own_encoder:
            raise
        raise UserError(
            f"torch cannot make an ONNX graph of this run's own encoder ({type(error).__name__}): export with "
            "--onnx false"
        ) from None


def _check_shards(trained: TrainedModel) -> None:
    if manifest_sha256(shards_folder(trained.config.data)) != trained.manifest_sha256:
        raise UserError(
            "the shards are not those that the run was trained on (their manifest differs), so that the model card "
            "would speak of other data: name the right ones with --shards"
        )


def _evaluation_of(run_dir: Path, trained: TrainedModel) -> RunResult | None:
    """The evaluation on the test split, if there is one; raises UserError for one of another checkpoint."""
    if not (run_dir / "evaluation" / "test" / "metrics.json").is_file():
        return None
    result = read_run(run_dir, trained.config.run, "test")
    same = result.evaluation["members"] == [member_of(trained.config, trained.step)]
    if not same or result.evaluation["manifest_sha256"] != trained.manifest_sha256:
        raise UserError(
            f"the evaluation in {run_dir} is of step {result.evaluation['checkpoint_step']} or of other shards, the "
            f"best checkpoint is of step {trained.step}: run `cxr-dist evaluate {run_dir}` again"
        )
    return result


def _facts(
    trained: TrainedModel, manifest: Manifest, result: RunResult | None, *, with_graph: bool
) -> CardFacts:
    return CardFacts(
        config=trained.config,
        manifest=manifest,
        manifest_sha256=trained.manifest_sha256,
        step=trained.step,
        temperature=trained.temperature,
        result=result,
        with_graph=with_graph,
    )
