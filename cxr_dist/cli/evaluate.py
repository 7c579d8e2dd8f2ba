"""The command `evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from cxr_dist.cli.ending import interruptible, what_is_new
from cxr_dist.cli.help import FOLDER, RUN_DIR, SHARDS, DropoutScope
from cxr_dist.cli.paths import check_file, check_run_folder, check_shards
from cxr_dist.config.argument_help import Switch
from cxr_dist.config.range import Range
from cxr_dist.errors import UserError


def evaluate(
    run_dir: Positional[RUN_DIR],
    *,
    split: Literal["test", "val", "train"] = "test",
    mc_samples: Annotated[int, Range(min=0, max=10_000)] = 30,
    mc_scope: DropoutScope = "head",
    ensemble: tuple[Path, ...] = (),
    out: FOLDER | None = None,
    at_sensitivity: Annotated[float | None, Range(above=0, max=1)] = None,
    shards: SHARDS | None = None,
    name: str | None = None,
    class_map: Path | None = None,
    recalibrate: Switch = False,
    audit: Switch = False,
    boxes: Switch = False,
) -> None:
    """Evaluate a run's best checkpoint; writes RUN_DIR/evaluation/SPLIT/metrics.json and predictions.csv.

    With --shards the run is evaluated on other shards than those that it was trained on. The classes are the model's;
    those of the shards are matched by name.

    For example: cxr-dist evaluate runs/enhanced

    Args:
        run_dir: A folder that `cxr-dist train` wrote.
        split: The split to evaluate.
        mc_samples: Number of Monte-Carlo dropout passes; 0: none.
        mc_scope: Where these passes apply dropout: in fusion and head, also in the text encoder, or also in both
            encoders.
        ensemble: Further run folders. The mean of all runs is evaluated and written to --out.
        out: Folder of the ensemble, which `cxr-dist compare` accepts like a run folder.
        at_sensitivity: Choose each class's threshold on validation for this sensitivity, 0 to 1; by default by
            Youden's index.
        shards: Folder or URL of other shards, which requires --name, or of the run's own, if they have moved.
        name: With other shards: results are written to RUN_DIR/evaluation/NAME.
        class_map: With other shards: a YAML file that says which of their classes stand for a class of the model,
            such as `Pneumonia: [Pneumonia, "Pneumonia/Viral"]`, and which to ignore, `not evaluated: [Fracture]`.
        recalibrate: With other shards: choose calibration and thresholds on their validation split; by default they
            are those of the run's own validation split.
        audit: Also swap the images, then the reports, between patients of the same label and of other labels, and
            record how far each metric falls. The split is predicted twice more for each input that the model reads.
        boxes: Also score the model's heat maps against the boxes that the shards hold (`boxes` in the recipe). Later
            evaluations of the same checkpoint, split and calibration keep the results of --audit and --boxes.
    """
    if bool(ensemble) != (out is not None):
        raise UserError("an ensemble needs both: --ensemble RUN_DIR … and --out DIR, a separate folder")
    for each in (run_dir, *ensemble):
        check_run_folder(each)
    if shards is not None:
        check_shards(shards, "--shards")
    if class_map is not None:
        check_file(class_map, "--class-map", "a YAML file")
    from rich.console import Console

    from cxr_dist.inference.evaluation import evaluate_runs
    from cxr_dist.inference.kept import earlier_blocks, kept_or_dropped
    from cxr_dist.inference.other_shards import Wanted
    from cxr_dist.model.monte_carlo import McDropout

    mc = McDropout(passes=mc_samples, scope=mc_scope)
    wanted = Wanted(name=name, class_map=class_map, recalibrate=recalibrate)
    folder, runs = out or run_dir, [run_dir, *ensemble]
    more = {"with_audit": audit, "with_boxes": boxes}
    results = [folder / "evaluation" / each / "metrics.json" for each in dict.fromkeys(("val", name or split))]
    earlier = earlier_blocks(results[-1])
    with interruptible(what_is_new(*results)):
        evaluation = evaluate_runs(runs, folder, split, mc, shards, at_sensitivity, wanted, **more)
    if evaluation is not None:
        from cxr_dist.report.evaluation_table import print_evaluation

        print_evaluation(evaluation, Console())
        asked = [block for block, wish in (("audit", audit), ("explanations", boxes)) if wish]
        for line in kept_or_dropped(earlier, evaluation, asked):
            print(line)
        print(f"results: {folder / 'evaluation' / (name or split)}")
