#!/bin/bash
# Train on images and reports: sbatch [SBATCH OPTIONS] slurm/enhanced.sh [SHARDS [RUN_DIR]] [TRAIN FLAGS]
# SHARDS is by default $CXR_DIST_SHARDS, else data/shards, and RUN_DIR runs/enhanced.
# Submit from the folder that holds slurm/, or set CXR_DIST_HOME to it. Options given to sbatch override these lines.
# Use one task per GPU: --nodes=2 --ntasks-per-node=4 --gpus-per-node=4; or no GPU: --gpus-per-node=0.
# A job with a short time limit starts sooner. Before the limit, the run saves, requeues itself and resumes. A run whose
# tasks die is also requeued, but not a third time at the same checkpoint. --no-requeue switches both off.
#SBATCH --job-name=cxr-enhanced
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
source "${CXR_DIST_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}/slurm/job.sh"
train enhanced "$@"
