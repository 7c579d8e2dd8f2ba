"""MLflow in a local folder and Weights & Biases offline: `--trackers mlflow wandb`, from the extra `trackers`.

They get the numbers, figures and settings of a run, without folders of this machine. What the packages would collect
by themselves is off: user, host, command, code, git and console. A resumed run continues the same record, whose id is
in the run folder. Nothing is sent, unless MLFLOW_TRACKING_URI names a server or WANDB_MODE is online.
"""

import importlib
import io
import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from cxr_dist.errors import UserError
from cxr_dist.files import write_whole
from cxr_dist.train.tensorboard_tags import settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROJECT = "cxr_dist"
_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}


class Mlflow:
    """Records a run in the folder `mlruns` beside the run folder, or where MLFLOW_TRACKING_URI says.

    The run folders of one study share this folder, so that `mlflow ui` compares them.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Begin a record, or continue the one of the run folder. Raises UserError if MLflow is not installed."""
        for name, value in _NO_TELEMETRY.items():
            os.environ.setdefault(name, value)
        self._entities = _package("mlflow", "mlflow.entities")
        local = (run_dir.resolve().parent / "mlruns").as_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        # The client, because mlflow.start_run would record user, host, command and git commit.
        self._client = _package("mlflow", "mlflow.tracking").MlflowClient(tracking_uri=uri)
        self._run = _recorded(run_dir, "mlflow")
        if not self._run:
            self._run = self._client.create_run(self._experiment(), run_name=run_dir.resolve().name).info.run_id
            settings = settings_of(config)
            parameters = [self._entities.Param(name, str(value)[:6000]) for name, value in settings.items()]
            for start in range(0, len(parameters), 100):  # the most that MLflow takes at a time
                self._client.log_batch(self._run, params=parameters[start : start + 100])
            _record(run_dir, "mlflow", self._run)
        else:
            self._client.update_run(self._run, status="RUNNING")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record finite values under their names."""
        finite = {_allowed(name): value for name, value in values.items() if math.isfinite(value)}
        now = int(1000 * time.time())  # in milliseconds
        metrics = [self._entities.Metric(name, value, now, step) for name, value in finite.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._run, metrics=metrics[start : start + 1000])

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Record a figure as an image file."""
        self._client.log_figure(self._run, figure, f"{name}-{step}.png")

    def close(self) -> None:
        """End the record; a resumed run opens it again."""
        self._client.set_terminated(self._run)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(_PROJECT)
        return str(found.experiment_id if found else self._client.create_experiment(_PROJECT))


class Wandb:
    """Records a run for Weights & Biases in the run folder, offline unless WANDB_MODE says otherwise.

    `wandb sync RUN_DIR/wandb/offline-run-*` uploads it, if you want that.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Begin a record, or continue the one of the run folder. Raises UserError if wandb is not installed."""
        self._wandb = _package("wandb", "wandb")
        run = _recorded(run_dir, "wandb")
        self._run = self._wandb.init(
            project=_PROJECT,
            id=run or uuid.uuid4().hex[:8],
            name=run_dir.resolve().name,
            resume="allow",
            dir=str(run_dir.resolve()),
            config=settings_of(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=self._wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                disable_job_creation=True,
                host="-",
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                root_dir=str(run_dir.resolve()),
            ),
        )
        self._run.define_metric("*", step_metric="step")
        if not run:
            _record(run_dir, "wandb", self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values, whose horizontal axis is `step`."""
        self._run.log({"step": step, **values})

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Record a figure as an image."""
        image = io.BytesIO()
        figure.savefig(image, format="png")
        self._run.log({"step": step, name: self._wandb.Image(PIL.Image.open(image))})

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def _package(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(name, str(error.name)) from None


def missing(tracker: str, package: str) -> UserError:
    """The error for a tracker whose package is not installed."""
    return UserError(f"tracker {tracker!r} needs the package {package}: pip install 'cxr_dist[trackers]'")


def _allowed(name: str) -> str:
    """A name that MLflow accepts: letters, digits and _-.:/ and spaces; others become _."""
    return "".join(c if c.isalnum() or c in "_-.:/ " else "_" for c in name)


def _recorded(run_dir: Path, tracker: str) -> str:
    """The id of the run's record, or an empty text."""
    path = run_dir / f"{tracker}.json"
    return str(json.loads(path.read_text())["id"]) if path.is_file() else ""


def _record(run_dir: Path, tracker: str, record: str) -> None:
    write_whole(run_dir / f"{tracker}.json", json.dumps({"id": record}) + "\n")
