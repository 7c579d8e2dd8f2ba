"""MLflow and Weights & Biases, the real packages: what they record, what they must not, and that nothing is sent.

Takes over five seconds, because importing both packages does.
"""

import dataclasses
import json
import socket
import struct
import threading
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.train import trackers as module
from cxr_dist.train.trackers import Trackers, check_trackers

pytest.importorskip("mlflow", reason="needs mlflow-skinny, of the extra trackers")
pytest.importorskip("wandb", reason="needs wandb, of the extra trackers")

FOLDER = "folder-of-patient-4711"
SPEED = {"train/samples_per_second": 100.0, "train/data_wait_share": 0.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that this process and its children ask of a proxy of the web."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for each in (name, name.lower()):
            monkeypatch.setenv(each, f"http://127.0.0.1:{listener.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy", "MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)

    def listen() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            requests.append(caller.recv(200))
            caller.close()

    threading.Thread(target=listen, daemon=True).start()
    yield requests
    listener.close()


def run_of(config: Config, run_dir: Path, steps: range, world: World) -> None:
    trackers = Trackers(config, run_dir, world)
    trackers.open(steps.start - 1, 4)
    for step in steps:
        trackers.log(SPEED | {"epoch": step / 2, "train/loss": 1 / step, "draws/none of them": 2.0}, step)
    figure = Figure()
    figure.subplots()
    trackers.figure("validation/roc", figure, steps[-1])
    trackers.close()


def wandb_records(run_dir: Path) -> list:
    """What `wandb sync` would upload. The files are LevelDB logs: 32 KiB blocks of (checksum, length, type, data)."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        content, place, part = path.read_bytes(), 7, b""
        while place < len(content):
            if 32768 - place % 32768 < 7:  # the rest of a block is too small for a header
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", content, place)
            part += content[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                records.append(wandb_internal_pb2.Record.FromString(part))
                part = b""
    return records


def test_a_resumed_run_continues_its_records_and_nothing_private_is_in_them(tiny_config, tmp_path, asked, capfd):
    run_dir = tmp_path / FOLDER / "runs" / "one"
    run_dir.mkdir(parents=True)
    data = dataclasses.replace(tiny_config.data, stages=())
    config = dataclasses.replace(tiny_config, data=data, out=str(run_dir), trackers=("mlflow", "wandb"))
    check_trackers(config.trackers)
    run_of(config, run_dir, range(1, 3), World(rank=1, world_size=2))
    assert not list(run_dir.parent.rglob("*.json"))  # only rank 0 records
    run_of(config, run_dir, range(1, 3), World())
    run_of(config, run_dir, range(3, 5), World())
    said = capfd.readouterr().err
    assert "raised" not in said
    assert "failed" not in said

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run_dir.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("cxr_dist")
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(step, 1 / step) for step in range(1, 5)]
    assert run.data.params["seed"] == str(config.seed)
    assert run.info.status == "FINISHED"
    assert set(run.data.tags) == {"mlflow.runName"}  # neither user, command nor commit
    assert FOLDER not in str(run.data)

    records = wandb_records(run_dir)
    logged = [{item.key or item.nested_key[0]: item.value_json for item in each.history.item} for each in records]
    losses = [(json.loads(row["step"]), json.loads(row["train/loss"])) for row in logged if "train/loss" in row]
    assert losses == [(step, 1 / step) for step in range(1, 5)]
    runs = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {run.host for run in runs} <= {"", "-"}
    sent = b"".join(each.SerializeToString() for each in records)
    assert FOLDER.encode() not in sent
    assert socket.gethostname().encode() not in sent or len(socket.gethostname()) < 4
    assert not list(run_dir.rglob("wandb-metadata.json"))
    assert not list(run_dir.rglob("requirements.txt"))
    assert asked == []


def test_a_tracker_without_its_package_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracker 'wandb' needs the package wandb: .*cxr_dist\[trackers\]"):
        check_trackers(("wandb",))
