"""Assembly of `cxr-dist evaluate` and `cxr-dist compare`.

From run folders to metrics.json and predictions.csv, and from these to comparison.json and a page.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.config.file import load_config
from cxr_dist.data.swap import Modality, Swap
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.distributed.watch.watchdog import watching
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.audit import MODALITIES, SEED, Swapped, audit
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.calibrator_choice import (
    CalibratorChoice,
    ValidationSource,
    calibrator_from_main,
    choose_calibrator,
)
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.evaluate.controls import shortcut_controls
from cxr_dist.evaluate.donors import KINDS, NO_DONOR, Kind, donors
from cxr_dist.evaluate.ensemble import average, member_of, prepare_ensemble_folder
from cxr_dist.evaluate.leakage import label_terms_redacted
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.population import population
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import finished_predictions
from cxr_dist.evaluate.thresholds import check_sensitivity
from cxr_dist.files import check_writable, write_whole
from cxr_dist.inference.explained import check_can_be_explained, explain
from cxr_dist.inference.kept import kept_blocks
from cxr_dist.inference.opened import open_trained
from cxr_dist.inference.other_shards import (
    EvaluatedShards,
    Wanted,
    own_shards,
    patients_seen_in_training,
    shards_to_evaluate,
)
from cxr_dist.inference.retrieval_block import pretraining_blocks
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.report.comparison_file import refuse_other_comparison, write_comparison
from cxr_dist.report.examples import examples_of
from cxr_dist.report.page import write_page

_NOTHING = Wanted()


def evaluate_runs(
    run_dirs: Sequence[Path],
    out: Path,
    split: str,
    mc: McDropout,
    shards: str | None = None,
    at_sensitivity: float | None = None,
    wanted: Wanted = _NOTHING,
    *,
    with_audit: bool = False,
    with_boxes: bool = False,
) -> dict[str, Any] | None:
    """Evaluate the best checkpoint of a run, or an ensemble of several runs, on a split (all ranks).

    Writes OUT/evaluation/SPLIT, or OUT/evaluation/NAME for other shards than those that the run was trained on; for
    one run `out` is its own folder. Calibration and thresholds are chosen on the run's own validation split, which is
    evaluated first unless these checkpoints were already evaluated on it. With `with_audit`, the split is predicted
    again with swapped images and reports (evaluate/audit.py), twice for each input that the model reads. With
    `with_boxes`, the heat maps of the run are scored against the boxes of the split. Without them, an audit and scores
    of an earlier evaluation with the same result are kept (kept.py).

    Returns the content of metrics.json (rank 0; None on other ranks).
    """
    check_sensitivity(at_sensitivity)
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise UserError("a run is in the ensemble twice: name each run once")
    world = World.from_environment()
    timeout_minutes = load_config(run_dirs[0] / "config.yaml").train.timeout_minutes
    try:
        with watching(world, timeout_minutes):
            start(world, timeout_minutes)
            enter("evaluating")
            members = [open_trained(run_dir, world.device, shards) for run_dir in run_dirs]
            evaluated = shards_to_evaluate(members, shards, split, wanted, out)
            if with_boxes:
                check_can_be_explained(evaluated, split)
            own = evaluated if evaluated.external is None else own_shards(members)
            evaluation = _Evaluation(evaluated, own, world, out)
            if world.is_main and len(run_dirs) > 1:
                prepare_ensemble_folder(out, run_dirs)
            if world.is_main:
                check_writable(evaluated.folder(out, split))
            return evaluation.evaluate(split, mc, at_sensitivity, with_audit, with_boxes)
    finally:
        stop()


class _Evaluation:
    """The members of an ensemble, often one, on the same shards.

    `own` are the shards that they were trained on, the same or others; None if these are not at hand.
    """

    def __init__(self, shards: EvaluatedShards, own: EvaluatedShards | None, world: World, out: Path) -> None:
        self.shards, self.own, self.world, self.out = shards, own, world, out
        self.facts = [member_of(member.config, member.step) for member in shards.members]

    def evaluate(
        self, split: str, mc: McDropout, at_sensitivity: float | None, with_audit: bool, with_boxes: bool
    ) -> dict[str, Any] | None:
        """Choose calibration and thresholds on validation, and evaluate the split (all ranks).

        Returns the content of metrics.json (rank 0; None on other ranks).
        """
        validation, external = None, self.shards.external
        if external is not None and external.recalibrate:
            validation = self.predict("val", McDropout())  # only its deterministic pass is used
        elif external is not None or split != "val":
            validation = self.own_validation(mc, at_sensitivity)
        return self.run(split, mc, validation, at_sensitivity, with_audit, with_boxes)[1]

    def own_validation(self, mc: McDropout, at_sensitivity: float | None) -> Predictions | None:
        """The members' predictions on the validation split of their own shards (all ranks).

        They come from an earlier evaluation of the same checkpoints (rank 0; None on other ranks), or the split is
        evaluated now. None if it was not evaluated before and is empty or not at hand.
        """
        own, members = self.own, self.shards.members
        can_be = own is not None and own.manifest.splits["val"].samples > 0
        earlier = None
        if self.world.is_main:
            earlier = finished_predictions(self.out, "val", self.facts, members[0].manifest_sha256)
        # Rank 0 decides for all ranks, because they may not all see the same files.
        to_do = from_main(torch.tensor(int(earlier is None and can_be), device=self.world.device))
        if not to_do:
            return earlier
        if own is None:
            raise UserError("the shards that the run was trained on can be read by rank 0, but not by this rank")
        return _Evaluation(own, own, self.world, self.out).run("val", mc, None, at_sensitivity)[0]

    def calibration(self, validation: Predictions) -> CalibratorChoice:
        """The calibrator of these members, chosen on validation predictions of theirs (rank 0)."""
        shifts = [member.trained_on.prior_shift for member in self.shards.members if member.trained_on is not None]
        of_classes = [[shift[name] for name in validation.classes] for shift in shifts]
        # Averaging probabilities of members with different shifts is no exact shift; cross-validation judges it.
        shift = np.mean(of_classes, axis=0).tolist() if shifts else None
        recalibrated = self.shards.recalibrated
        source: ValidationSource = "validation of the evaluated shards" if recalibrated else "own validation"
        return choose_calibrator(validation, shift, source)

    def run(
        self,
        split: str,
        mc: McDropout,
        validation: Predictions | None,
        at_sensitivity: float | None,
        with_audit: bool = False,
        with_boxes: bool = False,
    ) -> tuple[Predictions, dict[str, Any] | None]:
        """Predict, gather, calibrate, assess and write (all ranks).

        Without `validation` on rank 0 nothing is calibrated. Returns the raw predictions and, on rank 0, the content
        of metrics.json.
        """
        choice = self.calibration(validation) if self.world.is_main and validation is not None else None
        fitted, classes = None if choice is None else choice.calibrator, self.shards.members[0].classes
        calibrator = calibrator_from_main(fitted, len(classes), self.world.device)
        predictions = self.predict(split, mc, calibrator)
        swapped = self.swapped(split, predictions, calibrator) if with_audit else {}
        explained = {"explanations": explain(self.shards, split, self.world)} if with_boxes else {}
        explained |= pretraining_blocks(self.shards, split, self.world)
        if not self.world.is_main:
            return predictions, None
        described = dataclasses.replace(predictions, attributes=self.shards.attributes(split)).calibrated(calibrator)
        facts = self._facts(split, mc, choice) | {"population": population(described)}
        facts |= assess(described, validation, choice, at_sensitivity) | explained
        facts |= {"audit": audit(described, swapped)} if with_audit else {}
        folder = self.shards.folder(self.out, split)
        folder.mkdir(parents=True, exist_ok=True)
        facts |= kept_blocks(folder / "metrics.json", facts)
        # Before the predictions change: if this ends in between, the metrics of earlier ones must not describe them.
        (folder / "metrics.json").unlink(missing_ok=True)
        described.write_csv(folder / "predictions.csv")
        write_whole(folder / "metrics.json", strict_json(facts))
        return predictions, facts

    def swapped(
        self, split: str, predictions: Predictions, calibrator: Calibrator | None
    ) -> dict[tuple[Modality, Kind], Swapped]:
        """The predictions for the swapped images and reports that a member reads (all ranks)."""
        models, rows = [member.config.model for member in self.shards.members], self.shards.rows(split)
        reads = {"image": any(m.uses_image for m in models), "report": any(m.uses_text for m in models)}
        found: dict[tuple[Modality, Kind], Swapped] = {}
        for kind in KINDS:
            of_rows = donors(predictions.labels, predictions.patients, kind, SEED)
            ids = np.arange(self.shards.manifest.split(split).samples)
            ids[rows] = np.where(of_rows == NO_DONOR, rows, rows[of_rows])
            for modality in (modality for modality in MODALITIES if reads[modality]):
                after = self.predict(split, McDropout(), swap=Swap(modality=modality, donors=ids))
                found[modality, kind] = Swapped(predictions=after.calibrated(calibrator), donors=of_rows)
        return found

    def predict(
        self, split: str, mc: McDropout, calibrator: Calibrator | None = None, swap: Swap | None = None
    ) -> Predictions:
        """The mean raw predictions of the members (all ranks); stochastic passes are calibrated."""
        return average(
            [
                predict_split(
                    member.classifier,
                    member.config,
                    self.shards.manifest,
                    split,
                    tokenizer=member.tokenizer,
                    world=self.world,
                    mc=mc,
                    calibrator=calibrator,
                    match=self.shards.match,
                    swap=swap,
                    title=f"Evaluating {split}" + (f" (run {number})" if len(self.shards.members) > 1 else ""),
                )
                for number, member in enumerate(self.shards.members, start=1)
            ]
        )

    def _facts(self, split: str, mc: McDropout, choice: CalibratorChoice | None) -> dict[str, Any]:
        """The fields of metrics.json that `assess` does not give."""
        manifest, external = self.shards.manifest, self.shards.external
        trained_on = [member.trained_on for member in self.shards.members]
        modes = {member["mode"] for member in self.facts}
        sections = [section for member in self.facts for section in member["text_sections"]]
        in_reports = manifest.labels_in_reports
        in_training, notes = patients_seen_in_training(self.shards, split, self.own)
        if external is not None and choice is None:
            notes += (
                "calibration and thresholds are not chosen: the run was not evaluated on its own validation split, "
                "and that split is empty or not at hand",
            )
        return ({"labels_in_reports": in_reports} if in_reports else {}) | {
            "run": self.facts[0]["run"],
            "mode": modes.pop() if len(modes) == 1 else "fused",
            "members": self.facts,
            "split": split,
            "text_sections": list(dict.fromkeys(sections)),
            "split_by": manifest.split_by,
            "made_data": manifest.made_data or any(facts.made_data for facts in trained_on if facts is not None),
            "label_source": manifest.label_source,
            "label_terms_redacted": label_terms_redacted(manifest),
            "patients_in_training": in_training,
            "manifest_sha256": self.shards.manifest_sha256,
            "checkpoint_step": self.facts[0]["checkpoint_step"],
            "mc_scope": mc.scope if mc.passes else None,
            "external": self.shards.facts(split, notes),
        }


def compare_runs(
    run_dirs: list[Path],
    split: str,
    out: Path,
    examples_per_kind: int = 0,
    shards: str | None = None,
    overwrite: bool = False,
    *,
    with_controls: bool = True,
) -> Comparison:
    """Write comparison.json and report.html of evaluated runs to the folder `out`.

    Raises UserError if `out` holds the comparison of other runs or of another split, unless `overwrite`.

    `examples_per_kind` is the number of each run's most uncertain and of its most wrong cases that the page shows.
    They are read from `shards`, by default the shards that the run was trained on. The page then holds patient data.
    `with_controls` adds the shortcut controls (evaluate/controls.py), which are trained on the same shards.
    """
    if examples_per_kind < 0:
        raise UserError(f"--with-examples is {examples_per_kind}; expected a number of cases, or 0 for none")
    if not overwrite:
        refuse_other_comparison(out, run_dirs, split)
    comparison, examples = compare(run_dirs, split, shards=shards), []
    if with_controls:
        controls = shortcut_controls(run_dirs, comparison.runs, split, shards)
        comparison = dataclasses.replace(comparison, controls=controls)
    if examples_per_kind:
        examples = [examples_of(run, examples_per_kind, shards) for run in comparison.runs]
    out.mkdir(parents=True, exist_ok=True)
    write_comparison(comparison, out)
    write_page(comparison, out / "report.html", examples)
    return comparison
