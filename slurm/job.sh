# shellcheck shell=bash
# The job scripts in this folder source this file. It finds the interpreter, sets the environment and starts the tasks.
# The interpreter is CXR_DIST_PYTHON, else .venv/bin/python of the checkout, else python3.

script=slurm/${0##*/}
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "$script is a job of SLURM: submit it with \`sbatch $script\` on a login node. On a machine without SLURM," \
        "run the command itself, such as \`cxr-dist train enhanced --data.shards SHARDS --out runs/enhanced\`" >&2
    exit 2
fi

repository=${CXR_DIST_HOME:-$SLURM_SUBMIT_DIR}
python=${CXR_DIST_PYTHON:-$repository/.venv/bin/python}
[[ -x $python ]] || python=$(command -v "${CXR_DIST_PYTHON:-python3}") || python=none
"$python" -c 'import cxr_dist' || {
    echo "no Python with cxr_dist ($python): set CXR_DIST_PYTHON to the one where it is installed" >&2
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

# find_folders RUN [SHARDS [RUN_DIR]] [FLAG …]: set shards, run_dir and flags.
find_folders() {
    shards=${CXR_DIST_SHARDS:-data/shards} run_dir=runs/$1 flags=()
    shift
    if [[ ${1:--} != -* ]]; then shards=$1 && shift; fi
    if [[ ${1:--} != -* ]]; then run_dir=$1 && shift; fi
    while (($# > 0)); do
        case $1 in
            --data.shards) shards=${2:-} && shift ;;
            --out) run_dir=${2:-} && shift ;;
            *) flags+=("$1") ;;
        esac
        shift || break
    done
}

# train RUN [SHARDS [RUN_DIR]] [FLAG …]: train, or say how to make the shards if there are none.
train() {
    find_folders "$@"
    [[ $shards == *://* || -f $shards/manifest.json ]] || {
        echo "no shards in $shards (the folder is $PWD): write them with" \
            "\`cxr-dist shard RECIPE --source DIR --out $shards\` (recipes: \`cxr-dist recipes\`)," \
            "set CXR_DIST_SHARDS to the folder that has them, or name it after the script" >&2
        exit 2
    }
    run_tasks train "$1" --data.shards "$shards" --out "$run_dir" "${flags[@]}"
}
