#!/bin/bash
# Evaluate a trained run: sbatch [SBATCH OPTIONS] slurm/evaluate.sh RUN_DIR [EVALUATE FLAGS]
# Any number of tasks gives the same metrics.json. Submit from the repository's root, or set CXR_DIST_HOME to it.
# If the job is preempted, it is requeued and starts over.
#SBATCH --job-name=cxr-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
source "${CXR_DIST_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}/slurm/job.sh"
if (($# < 1)); then
    echo "usage: sbatch [SBATCH OPTIONS] slurm/evaluate.sh RUN_DIR [EVALUATE FLAGS]" >&2
    exit 2
fi
run_tasks evaluate "$@"
