# shellcheck shell=bash
# job.sh and submitit's batch script source this file. It starts a job's tasks and requeues the job if they died,
# unless the job was cancelled or was meant to end. It reads $python and, for a training run, $run_dir.

# supervise [SRUN OPTION …] PROGRAM [ARGUMENT …]
#
# srun runs in the background, because the shell runs no trap while it waits for a foreground command. Without traps,
# the signal of `--signal=B:USR2@120`, `scancel --batch` or a requeue would kill the shell and end the job.
# A TERM is passed on as USR2: srun forwards USR2 to the tasks, which save; on a TERM it would kill them.
# With --kill-on-bad-exit one dead rank ends the step, instead of leaving the others to wait for it. srun then returns
# 137 or 143, whatever status the first task ended with; a run's final decision is therefore kept in SLURM (requeue.py).
supervise() {
    local tasks status=0
    CXR_DIST_SUPERVISED=1 command srun --kill-on-bad-exit=1 "$@" &
    tasks=$!
    trap 'kill -USR2 "$tasks" 2>/dev/null || true' TERM USR2
    wait "$tasks" || status=$?
    while kill -0 "$tasks" 2>/dev/null; do wait "$tasks" || true; done # a trap interrupts `wait`
    wait "$tasks" && status=0 || status=$?
    trap '' TERM USR2
    ((status == 0)) || "$python" -m cxr_dist.run.requeue "$status" ${run_dir:+"$run_dir"} || status=$?
    return "$status"
}
