"""The command line: one function per command, whose arguments tyro parses from the function's signature.

Torch and most rooms are imported inside the commands, so that `cxr-dist --help` answers at once.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagConversionOff, Positional, UseAppendAction

from cxr_dist import __version__
from cxr_dist.cli.ending import interruptible, status_after, what_is_new
from cxr_dist.cli.evaluate import evaluate
from cxr_dist.cli.help import (
    FOLDER,
    RUN_DIR,
    RUN_DIRS,
    SHARDS,
    SHARDS_FOLDER,
    DropoutScope,
    commands_help,
    runs_help,
)
from cxr_dist.cli.paths import (
    check_evaluated,
    check_file,
    check_model_folder,
    check_output_folder,
    check_run_folder,
    check_shards,
)
from cxr_dist.cli.shard import shard
from cxr_dist.cli.site import init, recipes, submit
from cxr_dist.cli.train import doctor, plan, train
from cxr_dist.config.argument_help import Switch, description_of, example_of
from cxr_dist.config.command_line import parse_call
from cxr_dist.config.range import Range
from cxr_dist.errors import EXIT_REFUSED, CommandLineError, UserError, printable, unknown
from cxr_dist.model.offline import stay_offline


def verify(
    shards: Positional[SHARDS_FOLDER],
    *,
    near_duplicates: FlagConversionOff[bool] = True,
    workers: Annotated[int, Range(min=0)] = 0,
) -> None:
    """Check shards: counts, sha256, duplicate keys, patients or images in two splits.

    The exit status is 1 on any fault.

    For example: cxr-dist verify data/shards

    Args:
        shards: A folder that `cxr-dist shard` wrote.
        near_duplicates: Search for the same image in two splits; false if all those duplicates are known and harmless.
        workers: Number of processes; 0: one per core.
    """
    check_shards(str(shards), "")
    from cxr_dist.format.manifest import load_manifest
    from cxr_dist.shard.verify import verify as find_faults

    faults = find_faults(shards, near_duplicates=near_duplicates, workers=workers or os.cpu_count() or 1)
    if not faults:
        splits = load_manifest(shards).splits
        counts = ", ".join(f"{split.samples} {name}" for name, split in splits.items())
        print(f"all shards are as they were written: {counts} samples")
    else:
        print(printable("\n".join(faults)))
    sys.exit(1 if faults else 0)


def fetch(*, out: FOLDER | None = None) -> None:
    """Download DenseNet-121 and Bio_ClinicalBERT into an offline bundle, on a machine with network.

    For example: cxr-dist fetch --out /project/weights

    Args:
        out: Folder of the bundle; by default $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights.
    """
    from cxr_dist.model.fetch import fetch as download
    from cxr_dist.model.weights import bundle_folder

    folder = out or bundle_folder("")
    with interruptible(lambda: "what is complete is kept, and the same command continues"):
        download(folder)
    print(f"weights are in {folder}")


def compare(
    run_dirs: RUN_DIRS,
    *,
    split: str = "test",
    out: FOLDER = Path("comparison"),
    with_examples: Annotated[int, Range(min=0)] = 0,
    shards: SHARDS | None = None,
    overwrite: Switch = False,
    controls: FlagConversionOff[bool] = True,
) -> None:
    """Compare evaluated runs in a table, comparison.json and report.html.

    For example: cxr-dist compare runs/baseline runs/enhanced --out comparison

    Args:
        run_dirs: Evaluated run folders.
        split: The split on which they were evaluated.
        out: Folder for comparison.json and report.html.
        with_examples: Show this many of each run's most uncertain and of its most wrong cases on the page, with image
            and report. The page then contains patient data; protect it like the shards.
        shards: Folder or URL of the shards, if they have moved since training.
        overwrite: Replace a comparison of other runs in --out.
        controls: Also train logistic regressions on view, age and sex alone, and on thumbnails of 16×16 pixels, and
            show them beside the runs. A run folder keeps their metrics for the next comparison.
    """
    if not run_dirs:
        raise CommandLineError("compare needs RUN_DIR …, for example: " + str(example_of(compare)))
    for run_dir in run_dirs:
        check_file(run_dir, "the run folder", "a folder that `cxr-dist evaluate` has evaluated")
        check_evaluated(run_dir, split)
    check_output_folder(out)
    from rich.console import Console

    from cxr_dist.inference.evaluation import compare_runs
    from cxr_dist.report.closing_table import print_comparison

    runs = list(run_dirs)
    with interruptible(what_is_new(out / "comparison.json", out / "report.html")):
        comparison = compare_runs(runs, split, out, with_examples, shards, overwrite, with_controls=controls)
    print_comparison(comparison, Console())
    print(f"page: {(out / 'report.html').resolve()}" + (" (holds patient data)" if with_examples else ""))


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
    if input is not None:
        check_file(input, "--input", "a folder of images, or a .csv with the columns image and report")
    from cxr_dist.inference.given_case import Case, ReportOptions
    from cxr_dist.model.monte_carlo import McDropout

    options, mc = ReportOptions(section=section, no_report=no_report), McDropout(passes=mc_samples, scope=mc_scope)
    if input is None:
        from cxr_dist.inference.case import predict_one

        picture = out or Path("prediction.png")
        with interruptible(what_is_new(picture, picture.with_suffix(".json"))):
            facts = predict_one(run_dir, Case.of(image, report, options), mc, picture)
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


def export(
    run_dir: Positional[RUN_DIR],
    *,
    out: FOLDER | None = None,
    onnx: FlagConversionOff[bool] = True,
    shards: SHARDS | None = None,
) -> None:
    """Export a run's best checkpoint as a folder with weights, tokenizer, model card and ONNX graph.

    For example: cxr-dist export runs/enhanced --out exported

    Args:
        run_dir: A folder that `cxr-dist train` wrote. Evaluate it first, so that the model card contains its metrics.
        out: Folder, absent or empty; by default RUN_DIR/export. `cxr_dist.load` and `cxr-dist predict` open it.
        onnx: Also write model.onnx and compare it with the network; requires pip install 'cxr_dist[export]'.
        shards: Folder or URL of the shards, if they have moved since training.
    """
    check_run_folder(run_dir)
    if out is not None:
        check_output_folder(out)
    from cxr_dist.inference.export import export as export_run

    folder = out or run_dir / "export"
    export_run(run_dir, folder, with_onnx=onnx, shards=shards, say=partial(print, file=sys.stderr, flush=True))
    print(f"exported: {folder}")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e3:,.0f} kB")


_Command = Callable[..., None]
_WITH_CONFIG: tuple[_Command, ...] = (plan, doctor, train)
_IN_ORDER: tuple[_Command, ...] = (
    recipes,
    init,
    shard,
    verify,
    fetch,
    *_WITH_CONFIG,
    submit,
    evaluate,
    compare,
    predict,
    export,
)
_COMMANDS = {command.__name__: command for command in _IN_ORDER}


def main() -> None:
    """Run a command, and exit with its status unless that is 0.

    cli/ending.py says how errors, Ctrl-C and closed pipes end it.
    """
    if status := status_after(lambda: _dispatch(sys.argv[1:])):
        sys.exit(status)


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command == "help":
        command, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if command != "fetch":
        stay_offline()
    if command in ("-h", "--help"):
        print(commands_help(_COMMANDS))
        return
    if command == "--version":
        print(f"cxr-dist {__version__}")
        return
    if command not in _COMMANDS:
        raise CommandLineError(str(unknown("command", command, [*_COMMANDS, "--help", "--version"])))
    if _COMMANDS[command] is submit:  # it separates its own flags from those of the run
        submit(rest)
    elif _COMMANDS[command] in _WITH_CONFIG:
        _dispatch_run(_COMMANDS[command], rest)
    else:
        parse_call(_COMMANDS[command], rest, f"cxr-dist {command}")()


def _dispatch_run(command: _Command, arguments: list[str]) -> None:
    from cxr_dist.config.flags import config_of, names_a_run
    from cxr_dist.config.named import RUNS

    name = command.__name__
    if names_a_run(arguments):
        run, flags = (None, arguments) if arguments[0].startswith("-") else (arguments[0], arguments[1:])
        command(config_of(run, flags, f"cxr-dist {name} {run or '--config FILE'}", description_of(command)))
    elif not arguments or {"-h", "--help"} & set(arguments):
        print(runs_help(command, RUNS))
        sys.exit(0 if arguments else EXIT_REFUSED)
    else:
        expected = f"one of {', '.join(RUNS)}, or --config FILE"
        raise CommandLineError(f"{name} expects a run before {arguments[0]!r}: {expected}")
