"""The front door: one function per command, its arguments parsed by tyro from the function's own signature.

Torch and the rooms are imported inside the commands, so that `cxr-dist --help` answers at once.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import FlagConversionOff, Positional, UseAppendAction

from cxr_dist.cli.help import FOLDER, SHARDS, commands_help, runs_help
from cxr_dist.cli.shard import shard
from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.named import RUNS, named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import EXIT_REFUSED, EXIT_STOPPED, UserError, out_of_files, unknown
from cxr_dist.model.offline import stay_offline

_McScope = Literal["head", "text", "all"]


def verify(shards: Positional[FOLDER], *, near_duplicates: bool = True, workers: int = 0) -> None:
    """Check shards: counts, sha256, duplicate keys, no patient or film in two splits. Exit 1 with what is wrong.

    Args:
        shards: A folder that `cxr-dist shard` wrote.
        near_duplicates: Look for the same film in two splits; false where what was found is known and harmless.
        workers: Processes; 0: one per core.
    """
    import os

    from cxr_dist.shard.verify import verify as find_faults

    faults = find_faults(shards, near_duplicates=near_duplicates, workers=workers or os.cpu_count() or 1)
    print("\n".join(faults) if faults else "all shards are as they were written")
    sys.exit(1 if faults else 0)


def fetch(*, out: FOLDER | None = None) -> None:
    """On a machine with network: download DenseNet-121 and Bio_ClinicalBERT into an offline bundle.

    Args:
        out: The bundle; default $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights.
    """
    from cxr_dist.model.fetch import fetch as download
    from cxr_dist.model.weights import bundle_folder

    folder = out or bundle_folder("")
    download(folder)
    print(f"weights are in {folder}")


def plan(config: Config) -> None:
    """Dry run: steps, lanes, draws per class, legal world sizes; refuses what training would refuse."""
    from cxr_dist.doctor.dry_run import describe

    for name, value in describe(config).items():
        print(f"{name:<28}{value}")


def doctor(config: Config) -> None:
    """Check what a run needs before it takes GPUs: software, GPU, shards, weights, disks, ranks. Exit 1 on failure."""
    from cxr_dist.doctor.examine import examine

    sys.exit(0 if examine(config) else 1)


def train(config: Config) -> None:
    """Train a run, or resume it where its folder holds a checkpoint."""
    from cxr_dist.distributed.watch.progress import start_clock
    from cxr_dist.run.preempt import StopRequest

    start_clock()
    asked_to_stop = StopRequest(config.train.max_minutes)  # before the seconds that importing torch takes
    from cxr_dist.distributed.world import World
    from cxr_dist.train.assembly import train as run_training
    from cxr_dist.train.loop import Outcome

    outcome = run_training(config, asked_to_stop)
    if World.from_environment().is_main:
        print(f"{outcome.value}: {config.run_dir}")
    sys.exit(0 if outcome is Outcome.FINISHED else EXIT_STOPPED)


def evaluate(
    run_dir: Positional[FOLDER],
    *,
    split: Literal["test", "val", "train"] = "test",
    mc_samples: int = 30,
    mc_scope: _McScope = "head",
    ensemble: tuple[Path, ...] = (),
    out: FOLDER | None = None,
    at_sensitivity: float | None = None,
    shards: SHARDS | None = None,
) -> None:
    """Evaluate a run's best checkpoint; writes RUN_DIR/evaluation/SPLIT/metrics.json and predictions.csv.

    Args:
        run_dir: A folder that `cxr-dist train` wrote.
        split: Which split.
        mc_samples: Monte-Carlo dropout passes; 0: none.
        mc_scope: Where dropout acts in them: in fusion and head, in the text encoder too, or in both encoders too.
        ensemble: More run folders: the mean of all is evaluated, and written to --out.
        out: The ensemble's folder, which `cxr-dist compare` takes like a run's.
        at_sensitivity: Choose each class's threshold on validation for this sensitivity; by default Youden's.
        shards: The shards, where they have moved since training: a folder, or a URL as in training.
    """
    from cxr_dist.inference.evaluation import evaluate_runs
    from cxr_dist.model.monte_carlo import McDropout

    if bool(ensemble) != (out is not None):
        raise UserError("an ensemble needs both: --ensemble RUN_DIR … and --out DIR, a folder of its own")
    mc = McDropout(passes=mc_samples, scope=mc_scope)
    evaluate_runs([run_dir, *ensemble], out or run_dir, split, mc, shards, at_sensitivity)


def compare(
    run_dirs: Positional[tuple[Path, ...]],
    *,
    split: str = "test",
    out: FOLDER = Path("comparison"),
    with_examples: int = 0,
    shards: SHARDS | None = None,
) -> None:
    """Set evaluated runs side by side: a table, comparison.json and report.html.

    Args:
        run_dirs: Evaluated run folders.
        split: The split that they were evaluated on.
        out: Folder for comparison.json and report.html.
        with_examples: Put so many of each run's most uncertain, and of its most wrong, cases on the page, with film
            and report. It then holds patient data: treat it as you do the shards.
        shards: The shards, where they have moved since training: a folder, or a URL as in training.
    """
    from rich.console import Console

    from cxr_dist.inference.evaluation import compare_runs
    from cxr_dist.report.closing_table import print_comparison

    comparison = compare_runs(list(run_dirs), split, out, with_examples, shards)
    print_comparison(comparison, Console())
    print(f"page: {(out / 'report.html').resolve()}" + (" (holds patient data)" if with_examples else ""))


def predict(
    run_dir: Positional[FOLDER],
    *,
    image: UseAppendAction[tuple[Path, ...]] = (),
    report: str = "",
    input: Path | None = None,
    batch: int | None = None,
    mc_samples: int = 30,
    mc_scope: _McScope = "head",
    out: Path | None = None,
) -> None:
    """Class probabilities with uncertainty for a film, a folder or a table, and pictures of where the model looked.

    Args:
        run_dir: A folder that `cxr-dist train` or `cxr-dist export` wrote.
        image: One film, PNG or JPEG; a text-only run needs none. For a run on studies, --image once for each film.
        report: Its report's text, as much of it as the model was trained to see.
        input: In place of --image: a folder of films, with FILM.txt beside FILM.png for its report; or a .csv with
            the columns image (relative to the table), report and, if you like, id.
        batch: With --input: so many films per forward pass and no pictures, for thousands of films.
        mc_samples: Monte-Carlo dropout passes; 0: none.
        mc_scope: Where dropout acts in them, as in `cxr-dist evaluate`.
        out: The picture (default prediction.png), its JSON beside it; with --input the folder (default predictions)
            for predictions.csv, which names films as the input does, and a picture and JSON per case. They hold
            private data, and only you can read them.
    """
    from cxr_dist.model.monte_carlo import McDropout

    if (input is None) == (not image and not report):
        raise UserError("say what to predict: --image FILE and --report TEXT, or --input FOLDER or TABLE.csv")
    if batch is not None and (input is None or batch < 1):
        raise UserError("--batch is the number of films per forward pass, 1 or more, and goes with --input")
    mc = McDropout(passes=mc_samples, scope=mc_scope)
    if input is None:
        from cxr_dist.inference.case import predict_one
        from cxr_dist.inference.trained import Case

        facts = predict_one(run_dir, Case.of(image, report), mc, out or Path("prediction.png"))
        print(json.dumps(facts, indent=1))
        return
    from cxr_dist.inference.prediction_table import predict_many

    counts = predict_many(run_dir, input, mc, out or Path("predictions"), batch)
    print(counts)
    sys.exit(1 if counts.failed else 0)


def export(
    run_dir: Positional[FOLDER],
    *,
    out: FOLDER | None = None,
    onnx: bool = True,
    shards: SHARDS | None = None,
) -> None:
    """Make a run's best checkpoint a folder of its own: weights, tokenizer, model card, ONNX graph.

    Args:
        run_dir: A folder that `cxr-dist train` wrote; evaluate it first, so that the model card has its metrics.
        out: The folder, absent or empty; default RUN_DIR/export. `cxr_dist.load` and `cxr-dist predict` open it.
        onnx: Write model.onnx, too, and compare it with the network; needs pip install 'cxr_dist[export]'.
        shards: The shards, where they have moved since training: a folder, or a URL as in training.
    """
    from cxr_dist.inference.export import export as export_run

    folder = out or run_dir / "export"
    export_run(run_dir, folder, with_onnx=onnx, shards=shards)
    print(f"exported: {folder}")


_WITH_CONFIG: dict[str, Callable[[Config], None]] = {"plan": plan, "doctor": doctor, "train": train}
_PLAIN: dict[str, Callable[..., None]] = {
    "shard": shard,
    "verify": verify,
    "fetch": fetch,
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "export": export,
}
_ORDER = ("shard", "verify", "fetch", "plan", "doctor", "train", "evaluate", "compare", "predict", "export")


def main() -> None:
    """Run a command; a UserError ends it with its one message and exit status 2, and its SLURM job stays ended."""
    try:
        _dispatch(sys.argv[1:])
    except Exception as error:
        reason = out_of_files(error) or error
        if not isinstance(reason, UserError):
            raise
        print(f"cxr-dist: {reason}", file=sys.stderr)
        with suppress(OSError):  # where no more files can be opened, modules and pipes are among them
            from cxr_dist.run.requeue import forbid_requeue

            forbid_requeue()
        sys.exit(EXIT_REFUSED)


def config_of(run: str, flags: Sequence[str], prog: str, description: str | None = None) -> Config:
    """A named run with `--section.field VALUE` flags applied; a flag that it does not know exits with status 2."""
    return tyro.cli(
        Config,
        default=named_run(run),
        args=_as_tyro_has_it(_renamed(flags)),
        prog=prog,
        description=description,
        config=(FlagConversionOff,),
    )


def _as_tyro_has_it(arguments: Sequence[str]) -> list[str]:
    """tyro takes True and False, and --slurm.FIELD; people type true and false, and scripts --slurm-FIELD."""
    spelt = [a.capitalize() if a in ("true", "false") else a for a in arguments]
    return ["--slurm." + a.removeprefix("--slurm-") if a.startswith("--slurm-") else a for a in spelt]


def _renamed(flags: Sequence[str]) -> list[str]:
    """`--model.gradient-checkpointing true` and `false`, which scripts may still have, in the words of today."""
    return [
        RENAMED_CHECKPOINTING.get(value.lower(), value)
        if flag.replace("_", "-") == "--model.gradient-checkpointing"
        else value
        for flag, value in zip(["", *flags], flags, strict=False)
    ]


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command != "fetch":
        stay_offline()
    if command in _WITH_CONFIG:
        if not rest or rest[0].startswith("-"):
            print(runs_help(command, RUNS))
            sys.exit(0 if rest[:1] in (["-h"], ["--help"]) else 2)
        prog = f"cxr-dist {command} {rest[0]}"
        _WITH_CONFIG[command](config_of(rest[0], rest[1:], prog, _WITH_CONFIG[command].__doc__))
    elif command in _PLAIN:
        tyro.cli(
            _PLAIN[command],
            args=_as_tyro_has_it(rest),
            prog=f"cxr-dist {command}",
            config=(FlagConversionOff,),
        )
    elif command in ("-h", "--help"):
        print(commands_help({name: (_WITH_CONFIG | _PLAIN)[name] for name in _ORDER}))
    else:
        raise unknown("command", command, _ORDER)
