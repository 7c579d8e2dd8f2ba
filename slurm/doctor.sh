#!/bin/bash
# Check a run on its nodes: sbatch [SBATCH OPTIONS] slurm/doctor.sh RUN [SHARDS [RUN_DIR]] [TRAIN FLAGS]
# RUN is enhanced, baseline, …; the other arguments are those of the run. Submit from the repository's root, or set
# CXR_DIST_HOME to it. Give sbatch the run's own --nodes, --ntasks-per-node and --gpus-per-node: the ranks connect.
# The job takes a minute. If the run would fail, the job fails and says what to do.
#SBATCH --job-name=cxr-doctor
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=00:15:00
#SBATCH --no-requeue
#SBATCH --output=%x-%j.log

set -euo pipefail
source "${CXR_DIST_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}/slurm/job.sh"
if (($# < 1)); then
    echo "usage: sbatch [SBATCH OPTIONS] slurm/doctor.sh RUN [SHARDS [RUN_DIR]] [TRAIN FLAGS]" >&2
    exit 2
fi
find_folders "$@"
run_tasks doctor "$1" --data.shards "$shards" --out "$run_dir" "${flags[@]}"
