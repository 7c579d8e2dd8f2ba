# shellcheck shell=bash
# The job scripts in this folder source this file. It finds the interpreter, sets the environment and starts the tasks.
# The interpreter is CXR_DIST_PYTHON, else .venv/bin/python of the checkout, else python3.

repository=${CXR_DIST_HOME:-$SLURM_SUBMIT_DIR}
python=${CXR_DIST_PYTHON:-$repository/.venv/bin/python}
[[ -x $python ]] || python=$(command -v "${CXR_DIST_PYTHON:-python3}") || {
    echo "no Python: set CXR_DIST_PYTHON to one that has cxr_dist" >&2
    exit 2
}

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export PYTHONUNBUFFERED=1      # so that the log is complete up to a kill

source "$repository/slurm/supervise.sh"
run_dir=

# run_tasks COMMAND [ARGUMENT …]: run `cxr-dist COMMAND …` in every task of the job.
#
# Since SLURM 22.05, srun does not inherit --cpus-per-task from sbatch.
run_tasks() {
    echo "$(date '+%F %T')  job $SLURM_JOB_ID (restart ${SLURM_RESTART_COUNT:-0}) on $SLURM_JOB_NODELIST:" \
        "${SLURM_NTASKS:-1} task(s) of ${SLURM_CPUS_PER_TASK:-1} CPU(s), GPUs per node: ${SLURM_GPUS_PER_NODE:-0}"
    printf '  %q' "$python" -m cxr_dist "$@"
    printf '\n'
    supervise --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$python" -m cxr_dist "$@"
}

# train RUN SHARDS RUN_DIR [FLAG …]
train() {
    if (($# < 3)); then
        echo "usage: sbatch [SBATCH OPTIONS] slurm/$1.sh SHARDS RUN_DIR [TRAIN FLAGS]" >&2
        exit 2
    fi
    run_dir=$3
    run_tasks train "$1" --data.shards "$2" --out "$3" "${@:4}"
}
