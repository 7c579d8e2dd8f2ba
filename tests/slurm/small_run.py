"""The run that the tests submit to SLURM: the enhanced run, reduced to seconds, on two nodes with two tasks each."""

import sys
from pathlib import Path

from cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]

# 40 steps: the encoders are frozen for the first ten, mixup starts after them, and steps 20 and 40 are validated.
FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--model.image-encoder densenet-narrow --model.text-encoder tiny --model.pretrained false "
    "--model.fusion-dim 64 --model.fusion-heads 4 --model.gradient-checkpointing false --precision fp32 "
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 32 --data.workers 1 "
    "--data.evaluation-batch 5 --train.epochs 8 --train.eval-every 20 --train.save-every 4 --train.log-every 1 "
    "--train.timeout-minutes 0.5 --seed 1"
).split()
ON_CPUS = ("--cpus-per-task=1", "--gpus-per-node=0")
FOUR_RANKS = ("--nodes=2", "--ntasks-per-node=2", *ON_CPUS)


def submit_script(
    cluster: Cluster, script: str, *arguments: str | Path, log: Path, options: tuple[str, ...] = FOUR_RANKS
) -> str:
    """Submit a script of slurm/ and return the job's id."""
    variables = f"--export=ALL,CXR_DIST_HOME={REPOSITORY},CXR_DIST_PYTHON={sys.executable}"
    return cluster.sbatch(variables, f"--output={log}", *options, REPOSITORY / "slurm" / script, *arguments)


def submit_enhanced(cluster: Cluster, shards: Path, out: Path) -> str:
    """Submit the run with slurm/enhanced.sh, with OUT.log as its log; return the job's id."""
    return submit_script(cluster, "enhanced.sh", shards, out, *FLAGS, log=Path(f"{out}.log"))


def submit_py(cluster: Cluster, folder: Path, shards: Path, *site: str) -> str:
    """Submit the run with launch/submit.py, with FOLDER/run as its run folder; return the job's id."""
    command = [sys.executable, REPOSITORY / "launch" / "submit.py", "enhanced", *site]
    command += ["--nodes", "2", "--tasks-per-node", "2", "--cpus-per-task", "1", "--gpus-per-node", "0"]
    printed = cluster.run(*command, *FLAGS, "--data.shards", shards, "--out", "run", cwd=folder)
    return printed.splitlines()[0].removeprefix("job ")


def submitit_log(folder: Path, job: str) -> Path:
    """Return the log of the first rank of a job of `submit_py`."""
    return folder / "logs" / job / f"{job}_0_log.out"
