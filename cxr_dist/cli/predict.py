"""The command `predict`."""

import json
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction

from cxr_dist.cli.ending import interruptible, what_is_new
from cxr_dist.cli.help import RUN_DIR, DropoutScope
from cxr_dist.cli.paths import check_file, check_model_folder
from cxr_dist.config.argument_help import Switch
from cxr_dist.config.range import Range
from cxr_dist.errors import UserError


def predict(
    run_dir: Positional[RUN_DIR],
    *,
    image: UseAppendAction[tuple[Path, ...]] = (),
    report: str = "",
    section: str | None = None,
    no_report: Switch = False,
    input: Path | None = None,
    batch: Annotated[int | None, Range(min=1)] = None,
    mc_samples: Annotated[int, Range(min=0, max=10_000)] = 30,
    mc_scope: DropoutScope = "head",
    out: Path | None = None,
) -> None:
    """Predict class probabilities with uncertainty for an image, a folder or a table, and plot what the model used.

    For example: cxr-dist predict runs/enhanced --image chest.png --report "FINDINGS: The heart is enlarged."

    Args:
        run_dir: A folder that `cxr-dist train` or `cxr-dist export` wrote.
        image: One image, PNG, JPEG or DICOM; a text-only run needs none. For a run on studies, give --image once per
            image.
        report: Text of the report with its headings. It is cut into sections, and the model reads those that it was
            trained on.
        section: The section that a report without headings is, such as findings. A run that reads only one section
            needs no --section.
        no_report: Predict from the image alone where a model that reads both is given no report.
        input: Instead of --image: a folder of images, with the report of NAME.png in NAME.txt, or a .csv with the
            columns image (relative to the table), report (or columns named after sections) and optionally id.
        batch: With --input: number of images per forward pass. No figures are drawn, for thousands of images.
        mc_samples: Number of Monte-Carlo dropout passes; 0: none.
        mc_scope: Where these passes apply dropout, as in `cxr-dist evaluate`.
        out: The figure (default prediction.png), with its JSON beside it. With --input, the folder (default
            predictions) for predictions.csv, which names images as the input does, and for a figure and a JSON file
            per case. These files contain private data and are readable only by you.
    """
    if (input is None) == (not image and not report):
        raise UserError("say what to predict: --image FILE and --report TEXT, or --input FOLDER or TABLE.csv")
    if batch is not None and input is None:
        raise UserError("--batch is the number of images per forward pass, 1 or more, and requires --input")
    check_model_folder(run_dir)
    for path in image:
        check_file(path, "--image", "a PNG, JPEG or DICOM image")
    if input is None and out is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out ends in {out.suffix or 'no suffix'}: the name of the picture must end in .png")
    if input is not None:
        check_file(input, "--input", "a folder of images, or a .csv with the columns image and report")
    from cxr_dist.inference.given_case import Case, ReportOptions
    from cxr_dist.inference.reading import reading_in

    options = ReportOptions(section=section, no_report=no_report)
    case, reading = Case.of(image, report, options), reading_in(run_dir)
    if reading is not None and input is None:
        reading.check(case)
    elif reading is not None:
        reading.check_options(options)
    from cxr_dist.model.monte_carlo import McDropout  # imports torch, which takes seconds

    mc = McDropout(passes=mc_samples, scope=mc_scope)
    if input is None:
        from cxr_dist.inference.case import predict_one

        picture = out or Path("prediction.png")
        with interruptible(what_is_new(picture, picture.with_suffix(".json"))):
            facts = predict_one(run_dir, case, mc, picture)
        print(json.dumps(facts, indent=1))
        return
    from cxr_dist.inference.prediction_table import predict_many

    folder = out or Path("predictions")
    with interruptible(
        lambda: f"no table is in {folder}, which may hold files of single cases: remove it to start again"
    ):
        counts = predict_many(run_dir, input, mc, folder, batch, options)
    print(counts)
    sys.exit(1 if counts.failed else 0)
