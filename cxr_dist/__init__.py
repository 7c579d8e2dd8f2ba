"""cxr_dist trains chest X-ray classifiers on images and radiology reports together, on clusters.

    import cxr_dist
    model = cxr_dist.load("EXPORT")
    print(model.predict("image.png", report="…"))

The functions here are the commands of `cxr-dist` for Python. Each imports what it needs when it is called, so that
`import cxr_dist` is quick. Mistakes that a user can correct raise `cxr_dist.errors.UserError`, which is a ValueError.

Research software; not for clinical use.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cxr_dist.config.run import Config
    from cxr_dist.config.runs import runs as runs
    from cxr_dist.data.shard_folder import ShardFolder
    from cxr_dist.evaluate.compare import Comparison
    from cxr_dist.evaluate.measured import Measured
    from cxr_dist.inference.loaded import LoadedModel

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load", "metrics", "open_shards", "runs", "train"]


def load(folder: str | Path, device: str = "cpu") -> "LoadedModel":
    """Open a trained model: a folder that `cxr-dist export` wrote, or a run folder whose shards can still be read.

    Nothing outside an exported folder is read. `device` is a torch device string such as cpu, cuda or cuda:1.
    Raises UserError if the folder is missing, damaged, of a newer release, or not a model, and for a device that this
    machine lacks.

    >>> model = cxr_dist.load("runs/demo")
    >>> answer = model.predict("image.png", report="INDICATION: cough. FINDINGS: the lungs are clear.", heat_map=True)
    >>> answer["headline"]["kind"], answer["heat_map"].shape
    ('calibrated probability', (2, 2))
    """
    from cxr_dist.inference.opened import checked_device, open_model  # not at the top: `import cxr_dist` stays quick

    return open_model(Path(folder).expanduser(), checked_device(device))


def open_shards(folder: str | Path, *, fold: int | None = None) -> "ShardFolder":
    """Open the shards that `cxr-dist shard` wrote to a folder or URL, as tables and for your own training loop.

    `.frame(split)` is a pandas DataFrame with a row for each sample, and `.loader(split, batch_size=…)` gives the
    batches of an epoch, for torch. `fold` is the number of the test fold, for shards that are divided into folds.
    Raises UserError if the folder holds no shards that this release reads.

    >>> shards = cxr_dist.open_shards("SHARDS")
    >>> shards.classes
    ('Normal', 'Cardiomegaly', 'Effusion', 'Opacity', 'Nodule')
    >>> list(shards.frame("test").columns)
    ['patient', 'study', 'label']
    >>> loader = shards.loader("train", batch_size=8)
    >>> batch = next(iter(loader))
    >>> batch.images.shape, batch.labels.shape, len(batch.texts)
    (torch.Size([8, 1, 64, 64]), torch.Size([8, 1]), 8)
    """
    from cxr_dist.data.shard_folder import open_shard_folder

    return open_shard_folder(folder, fold)


def train(config: "Config") -> Path:
    """Train a run in this process, or resume it if its folder contains a checkpoint; returns the run folder.

    `cxr_dist.runs` makes the configuration. The same call in every process that torchrun, accelerate or srun starts
    trains on all of them. Ctrl-C saves and then raises KeyboardInterrupt; the same call resumes. Must be called from
    the main thread. Raises UserError for shards, settings or a run folder that do not fit.

    >>> settings = dict(train__max_steps=4, data__image_size=64, data__global_batch=16, data__micro_batch=8)
    >>> run = cxr_dist.train(cxr_dist.runs.demo(shards="SHARDS", out="runs/demo", **settings))
    >>> (run / "best").exists()
    True
    """
    from cxr_dist.train.in_python import train_here

    return train_here(config)


def evaluate(
    run: str | Path,
    *,
    split: Literal["test", "val", "train"] = "test",
    mc_samples: int = 30,
    mc_scope: Literal["head", "text", "all"] = "head",
    at_sensitivity: float | None = None,
    shards: str | Path | None = None,
    name: str | None = None,
    class_map: str | Path | None = None,
    recalibrate: bool = False,
    audit: bool = False,
    boxes: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's best checkpoint on a split, and write and return the content of its metrics.json.

    The arguments are the flags of `cxr-dist evaluate`. `shards` are others than the run's own, with `name` for the
    results, or its own that have moved. `audit` swaps the images and reports of patients; `boxes` scores heat maps
    against the boxes of the shards. Returns an empty dictionary on all ranks but the first. Raises UserError if
    the run or the shards cannot be used.

    >>> evaluation = cxr_dist.evaluate("runs/demo", mc_samples=0)
    >>> evaluation["metrics"]["n"], sorted(evaluation["intervals"]["accuracy"])
    (27, ['high', 'low', 'skipped'])
    """
    from cxr_dist.inference.evaluation import evaluate_runs
    from cxr_dist.inference.other_shards import Wanted
    from cxr_dist.model.monte_carlo import McDropout
    from cxr_dist.model.offline import stay_offline

    stay_offline()
    folder = Path(run).expanduser()
    map_file = None if class_map is None else Path(class_map).expanduser()
    wanted = Wanted(name=name, class_map=map_file, recalibrate=recalibrate)
    mc, place = McDropout(passes=mc_samples, scope=mc_scope), None if shards is None else str(shards)
    more = {"with_audit": audit, "with_boxes": boxes}
    return evaluate_runs([folder], folder, split, mc, place, at_sensitivity, wanted, **more) or {}


def compare(
    runs: Sequence[str | Path], *, split: str = "test", out: str | Path | None = None, overwrite: bool = False
) -> "Comparison":
    """Compare evaluated runs on the same samples; `.frame()` is the table of metrics, intervals and differences.

    With `out`, comparison.json and report.html are written to that folder, as by `cxr-dist compare`; a comparison of
    other runs there is only replaced with `overwrite`. Raises UserError for runs that are not comparable.

    >>> table = cxr_dist.compare(["runs/demo"]).frame()
    >>> list(table.columns[:5])
    ['run', 'metric', 'value', 'low', 'high']
    """
    folders = [Path(run).expanduser() for run in runs]
    if out is None:
        from cxr_dist.evaluate.compare import compare as compared

        return compared(folders, split)
    from cxr_dist.inference.evaluation import compare_runs

    return compare_runs(folders, split, Path(out).expanduser(), overwrite=overwrite)


def metrics(
    labels: Any,
    probabilities: Any,
    patients: Any = None,
    *,
    classes: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> "Measured":
    """Compute metrics with 95% intervals over patients, for predictions of any model.

    Args:
        labels: [n] numbers or names of classes, for which each sample has one class; or [n, C], or [n] with
            probabilities [n], of 1 (present), 0 (absent) and -1 or missing (unknown). An array, a list or a DataFrame.
        probabilities: [n, C], or [n] for one class that is present or absent, 0 to 1. A DataFrame's columns name the
            classes.
        patients: [n], any identifier; the samples of a patient are resampled together. None: each sample is a patient.
        classes: Names of the classes, in the order of the columns.
        n_bootstrap: Number of resamples.
        seed: Seed of the resamples.

    Returns an object with `values`, `intervals`, `frame()`, and `difference(other)` for another model on the same
    samples. Raises UserError for arrays that do not fit each other, without quoting their content.

    >>> first = cxr_dist.metrics([0, 1, 1, 0, 1, 0], [0.2, 0.9, 0.6, 0.7, 0.8, 0.1], patients=list("aabbcc"))
    >>> print(f"{first.values['macro']['roc_auc']:.3f}")
    0.889
    >>> second = cxr_dist.metrics([0, 1, 1, 0, 1, 0], [0.4, 0.3, 0.6, 0.7, 0.8, 0.1], patients=list("aabbcc"))
    >>> print(f"{first.difference(second).loc['macro_roc_auc', 'value']:.3f}")
    0.222
    """
    from cxr_dist.evaluate.measured import measure

    return measure(labels, probabilities, patients, classes=classes, n_bootstrap=n_bootstrap, seed=seed)


def __getattr__(name: str) -> Any:
    if name == "runs":
        from cxr_dist.config.runs import runs

        return runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_NAMED_AS_ROOMS: dict[str, Callable[..., Any]] = {"train": train, "evaluate": evaluate}


class _CallableRoom(ModuleType):
    """The room `train` or `evaluate` once it is imported: calling it calls the function of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _NAMED_AS_ROOMS[self.__name__.rpartition(".")[2]](*arguments, **named)


class _Package(ModuleType):
    """This package. Python's import sets a room as its attribute, where the room would hide a function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _NAMED_AS_ROOMS and isinstance(value, ModuleType):
            value.__class__ = _CallableRoom
            value.__dict__["__wrapped__"] = _NAMED_AS_ROOMS[name]  # for help() and inspect.signature
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
