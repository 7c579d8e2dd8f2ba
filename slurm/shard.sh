#!/bin/bash
# Write shards on one node: sbatch [SBATCH OPTIONS] slurm/shard.sh RECIPE.yaml --source DIR --out SHARDS
# It uses one process per CPU of the task. Submit from the repository's root, or set CXR_DIST_HOME to it.
# If the job is preempted, it is requeued and writes the shards that are still missing.
#SBATCH --job-name=cxr-shard
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
source "${CXR_DIST_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}/slurm/job.sh"
if (($# < 3)); then
    echo "usage: sbatch [SBATCH OPTIONS] slurm/shard.sh RECIPE.yaml --source DIR --out SHARDS" >&2
    exit 2
fi
run_tasks shard "$1" --workers "$SLURM_CPUS_PER_TASK" "${@:2}"
