"""Assembly of `cxr-dist evaluate` and `cxr-dist compare`.

From run folders to metrics.json and predictions.csv, and from these to comparison.json and a page.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import load_config
from cxr_dist.data.place import open_store, shards_folder
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.reduce import from_main
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.distributed.watch.watchdog import watching
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.calibrator_choice import CalibratorChoice, calibrator_from_main, choose_calibrator
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.evaluate.ensemble import average, member_of, prepare_ensemble_folder
from cxr_dist.evaluate.leakage import label_terms_redacted, patients_in_training
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.predict import predict_split
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import finished_predictions
from cxr_dist.evaluate.subgroups import read_attributes
from cxr_dist.evaluate.thresholds import check_sensitivity
from cxr_dist.files import write_whole
from cxr_dist.format.manifest import Manifest
from cxr_dist.inference.trained import TrainedModel, open_run
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.report.comparison_file import refuse_other_comparison, write_comparison
from cxr_dist.report.examples import examples_of
from cxr_dist.report.page import write_page
from cxr_dist.run.folder import manifest_sha256


def evaluate_runs(
    run_dirs: Sequence[Path],
    out: Path,
    split: str,
    mc: McDropout,
    shards: str | None = None,
    at_sensitivity: float | None = None,
) -> None:
    """Evaluate the best checkpoint of a run, or an ensemble of several runs, on a split (all ranks).

    Writes OUT/evaluation/SPLIT; for one run `out` is its own folder. The calibrator and the thresholds are chosen on
    validation, which is evaluated first unless these checkpoints were already evaluated on it with these shards.
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
            opened = [open_run(run_dir, world.device, shards) for run_dir in run_dirs]
            evaluation = _Evaluation([trained for trained, _ in opened], opened[0][1], world, out)
            if world.is_main and len(run_dirs) > 1:
                prepare_ensemble_folder(out, run_dirs)
            validation = None
            if split != "val" and evaluation.manifest.splits["val"].samples:
                validation = evaluation.validation(mc, at_sensitivity)
            evaluation.run(split, mc, validation, at_sensitivity)
    finally:
        stop()


class _Evaluation:
    """The members of an ensemble, often one, on the same shards."""

    def __init__(self, members: Sequence[TrainedModel], manifest: Manifest, world: World, out: Path) -> None:
        self.members, self.manifest, self.world, self.out = members, manifest, world, out
        digests = {manifest_sha256(shards_folder(member.config.data)) for member in members}
        if len(digests) > 1:
            raise UserError(
                "the runs of the ensemble were trained on different shards: choose the shards to evaluate on with "
                "--shards"
            )
        self.manifest_sha256 = digests.pop()
        self.facts = [member_of(member.config, member.step) for member in members]

    def validation(self, mc: McDropout, at_sensitivity: float | None) -> Predictions | None:
        """Predictions on validation, from an earlier evaluation of the same checkpoints if there is one (rank 0)."""
        earlier = None
        if self.world.is_main:
            earlier = finished_predictions(self.out, "val", self.facts, self.manifest_sha256)
        # Rank 0 decides for all ranks, because they may not all see the same files.
        if from_main(torch.tensor(int(earlier is not None), device=self.world.device)):
            return earlier
        return self.run("val", mc, None, at_sensitivity)

    def calibration(self, validation: Predictions) -> CalibratorChoice:
        """The calibrator of these members, chosen on their validation predictions (rank 0)."""
        shifts = [member.trained_on.prior_shift for member in self.members if member.trained_on is not None]
        of_classes = [[shift[name] for name in validation.classes] for shift in shifts]
        # Averaging probabilities of members with different shifts is no exact shift; cross-validation judges it.
        return choose_calibrator(validation, np.mean(of_classes, axis=0).tolist() if shifts else None)

    def run(
        self, split: str, mc: McDropout, validation: Predictions | None, at_sensitivity: float | None
    ) -> Predictions:
        """Predict, gather, calibrate, assess and write (all ranks); returns the raw predictions.

        Without `validation` on rank 0 nothing is calibrated.
        """
        choice = self.calibration(validation) if self.world.is_main and validation is not None else None
        fitted = None if choice is None else choice.calibrator
        calibrator = calibrator_from_main(fitted, len(self.manifest.classes), self.world.device)
        predictions = average(
            [
                predict_split(
                    member.classifier,
                    member.config,
                    self.manifest,
                    split,
                    tokenizer=member.tokenizer,
                    world=self.world,
                    mc=mc,
                    calibrator=calibrator,
                )
                for member in self.members
            ]
        )
        if self.world.is_main:
            data, folder = self.members[0].config.data, self.out / "evaluation" / split
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(open_store(data, self.manifest, split)) as store:
                described = dataclasses.replace(predictions, attributes=read_attributes(store))
            described = described.calibrated(calibrator)
            facts = self._facts(split, mc, data) | assess(described, validation, choice, at_sensitivity)
            described.write_csv(folder / "predictions.csv")
            write_whole(folder / "metrics.json", strict_json(facts))
        return predictions

    def _facts(self, split: str, mc: McDropout, data: DataConfig) -> dict[str, Any]:
        """The fields of metrics.json that `assess` does not give."""
        modes = {member["mode"] for member in self.facts}
        sections = [section for member in self.facts for section in member["text_sections"]]
        in_reports = self.manifest.labels_in_reports
        return ({"labels_in_reports": in_reports} if in_reports else {}) | {
            "run": self.facts[0]["run"],
            "mode": modes.pop() if len(modes) == 1 else "fused",
            "members": self.facts,
            "split": split,
            "text_sections": list(dict.fromkeys(sections)),
            "split_by": self.manifest.split_by,
            "made_data": self.manifest.made_data,
            "label_source": self.manifest.label_source,
            "label_terms_redacted": label_terms_redacted(self.manifest),
            "patients_in_training": patients_in_training(data, self.manifest, split),
            "manifest_sha256": self.manifest_sha256,
            "checkpoint_step": self.facts[0]["checkpoint_step"],
            "mc_scope": mc.scope if mc.passes else None,
        }


def compare_runs(
    run_dirs: list[Path],
    split: str,
    out: Path,
    examples_per_kind: int = 0,
    shards: str | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Write comparison.json and report.html of evaluated runs to the folder `out`.

    Raises UserError if `out` holds the comparison of other runs or of another split, unless `overwrite`.

    `examples_per_kind` is the number of each run's most uncertain and of its most wrong cases that the page shows.
    They are read from `shards`, by default the shards that the run was trained on. The page then holds patient data.
    """
    if examples_per_kind < 0:
        raise UserError(f"--with-examples is {examples_per_kind}; expected a number of cases, or 0 for none")
    if not overwrite:
        refuse_other_comparison(out, run_dirs, split)
    comparison, examples = compare(run_dirs, split, shards=shards), []
    if examples_per_kind:
        examples = [examples_of(run, examples_per_kind, shards) for run in comparison.runs]
    out.mkdir(parents=True, exist_ok=True)
    write_comparison(comparison, out, run_dirs)
    write_page(comparison, out / "report.html", examples)
    return comparison
