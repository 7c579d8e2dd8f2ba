"""The run that the tests send through SLURM: the enhanced one, cut down to seconds."""

import sys
from pathlib import Path

from cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]

# Encoders frozen for two epochs of five steps, mixup from the third one on, one validation at the end.
FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--model.image-encoder densenet-narrow --model.text-encoder tiny --model.pretrained false "
    "--model.fusion-dim 64 --model.fusion-heads 4 --model.gradient-checkpointing false --precision fp32 "
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 32 --data.workers 1 "
    "--data.evaluation-batch 5 --train.epochs 8 --train.eval-every 100 --train.log-every 1 --seed 1"
).split()


def submit_py(cluster: Cluster, folder: Path, shards: Path, *site: str) -> str:
    """Submit the run with launch/submit.py to two nodes; FOLDER/run is its run folder. Returns the job's id."""
    command = [sys.executable, REPOSITORY / "launch" / "submit.py", "enhanced", "--nodes", "2", *site]
    command += [
        "--cpus-per-task",
        "1",
        "--gpus-per-node",
        "0",
        *FLAGS,
        "--data.shards",
        shards,
        "--out",
        "run",
    ]
    printed = cluster.run(*command, cwd=folder)
    return printed.splitlines()[0].removeprefix("job ")
