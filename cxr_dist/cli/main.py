"""The command line: one function per command, whose arguments tyro parses from the function's signature.

Torch and most rooms are imported inside the commands, so that `cxr-dist --help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagConversionOff, Positional

from cxr_dist import __version__
from cxr_dist.cli.ending import interruptible, status_after, what_is_new
from cxr_dist.cli.evaluate import evaluate
from cxr_dist.cli.fetch import fetch
from cxr_dist.cli.help import (
    FOLDER,
    RUN_DIR,
    RUN_DIRS,
    SHARDS,
    SHARDS_FOLDER,
    commands_help,
    runs_help,
)
from cxr_dist.cli.paths import (
    check_evaluated,
    check_file,
    check_output_folder,
    check_run_folder,
    check_shards,
)
from cxr_dist.cli.predict import predict
from cxr_dist.cli.shard import shard
from cxr_dist.cli.site import init, recipes, submit
from cxr_dist.cli.train import doctor, plan, train
from cxr_dist.config.argument_help import Switch, description_of, example_of
from cxr_dist.config.command_line import parse_call
from cxr_dist.config.range import Range
from cxr_dist.errors import EXIT_REFUSED, CommandLineError, printable, unknown
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
