"""How the files in this folder were written, by the version of commit cd27655. No test runs this.

    PYTHONPATH=CHECKOUT OMP_NUM_THREADS=1 python tests/written_before/make.py FOLDER

CHECKOUT holds cd27655, and FOLDER, absent or empty, gets what is kept here: shards, a run that was killed after its
second step and then evaluated, the model exported from it, and in expected.json what that version made of them. The
same run, left alone, gave the losses in it. Files that begin anew with another commit belong into another folder.

The safetensors files of all checkpoints are in weights.tar.xz, which is a third of their size. For that the run has
much dropout in its head, few steps, and frozen encoders before the kill: most of Adam's moments are zeros, or not
there yet. Names of the machine are taken out.
"""

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np

import cxr_dist

COMMIT = "cd27655"
RECIPE = """
reader: demo
demo: {studies: 48, side: 48, seed: 0}
labels:
  task: multiclass
  classes: {Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 48, quality: 90}
shard: {samples: 13}
"""
# Encoders thaw, and mixup begins, with the fifth of six steps. More steps would make the losses a matter of the
# processor: where a gradient is nearly zero, the sign of its rounding decides which way Adam's first steps go.
SETTINGS = "--data.shards shards --out run --data.global-batch 8 --data.micro-batch 4 --data.image-size 64"
SETTINGS += " --data.max-tokens 48 --model.fusion-dim 16 --model.fusion-heads 2 --model.head-dropout 0.9 0.6"
SETTINGS += " --optim.lr 0.001 --optim.warmup-steps 2 --train.max-steps 6 --train.freeze-epochs 1"
SETTINGS += " --train.mixup-from-epoch 2 --train.eval-every 2 --train.save-every 2 --train.log-every 1"
TRAIN = ["train", "demo", *SETTINGS.split()]
KILLED_AFTER = 2
REPORT = "Cough for 3 weeks. The heart is enlarged; no pleural effusion."
OF_A_STEP = ("step", "epoch", "loss", "learning_rate", "validation")
# Numbers of four bytes, and files that repeat each other.
LAYOUT = {"lc": 2, "lp": 2, "pb": 2, "dict_size": 8 << 20}


def command(*arguments: str) -> list[str]:
    """A command of the old version."""
    return [sys.executable, "-m", "cxr_dist", *arguments]


def train_whole() -> list[dict]:
    """The run, left alone; returns what metrics.jsonl says of each step and validation."""
    subprocess.run(command(*TRAIN), check=True)
    lines = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    shutil.rmtree("run")
    return [{name: line[name] for name in OF_A_STEP if name in line} for line in lines]


def train_and_kill() -> None:
    """The same run, killed when its first checkpoint is on disk and marked as the best."""
    run = subprocess.Popen(command(*TRAIN))
    while not Path("run/best").exists():
        assert run.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    found = [path.name for path in Path("run/checkpoints").iterdir()]
    assert found == [f"step-{KILLED_AFTER:08d}"], f"{found}: it was killed too late; try again"
    for events in Path("run").glob("events.out.tfevents.*"):
        events.unlink()


def draw_film() -> None:
    """A film from outside the shards, of another size than theirs: a bright oval on a slope of grey."""
    rows, columns = np.mgrid[:70, :60]
    oval = ((rows - 40) / 22) ** 2 + ((columns - 34) / 14) ** 2 < 1
    cv2.imwrite("film.png", (40 + rows + columns // 2 + 60 * oval).astype(np.uint8))


def predictions() -> dict:
    """What the run and the exported model say of the film and the report."""
    case = {"image": "film.png", "report": REPORT, "mc_samples": 3}
    return {"case": case} | {folder: cxr_dist.load(folder).predict(**case) for folder in ("run", "export")}


def pack_weights() -> None:
    """Move all safetensors files into weights.tar.xz."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME} | LAYOUT]
    files = sorted(Path().rglob("*.safetensors"))
    with (
        lzma.open("weights.tar.xz", "w", filters=filters) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for file in files:
            member = tarfile.TarInfo(file.as_posix())
            member.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(member, content)
    for file in files:
        file.unlink()


def main(folder: Path) -> None:
    """Fill the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    assert not os.listdir(), f"{folder} is not empty"
    Path("recipe.yaml").write_text(RECIPE.lstrip())
    subprocess.run(command("shard", "recipe.yaml", "--out", "shards"), check=True)
    lines = train_whole()
    train_and_kill()
    assert json.loads(Path("run/environment.json").read_text())["commit"].startswith(COMMIT)
    subprocess.run(command("evaluate", "run", "--mc-samples", "3"), check=True)
    subprocess.run(command("export", "run", "--out", "export", "--onnx", "false"), check=True)
    draw_film()
    expected = {
        "commit": COMMIT,
        "train": TRAIN,
        "killed_after": KILLED_AFTER,
        "lines": lines,
        **predictions(),
    }
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    owner = json.loads(Path("run/owner.json").read_text()) | {"host": "node"}
    Path("run/owner.json").write_text(json.dumps(owner, indent=1) + "\n")
    pack_weights()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
