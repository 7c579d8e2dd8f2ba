# shellcheck shell=bash
# Sourced by job.sh and by submitit's batch script: starts a job's tasks, and where they died, but the job was neither
# cancelled nor meant to end, puts it back into the queue. Reads $python and, of a training run, $run_dir.

# supervise [SRUN OPTION …] PROGRAM [ARGUMENT …]
#
# In the background: while a foreground srun runs, the shell's traps wait. Without traps, the shell would die of what
# `--signal=B:USR2@120`, `scancel --batch` or a requeue send it, and end the job.
# USR2 for TERM, too: srun passes it on to the tasks, which save; of a TERM it kills them.
# --kill-on-bad-exit: one dead rank ends the step, instead of leaving the others to wait for it. srun's status is then
# 137 or 143, whatever the first to leave has said; so what a run has decided for good stands in SLURM (requeue.py).
supervise() {
    local tasks status=0
    CXR_DIST_SUPERVISED=1 command srun --kill-on-bad-exit=1 "$@" &
    tasks=$!
    trap 'kill -USR2 "$tasks" 2>/dev/null || true' TERM USR2
    wait "$tasks" || status=$?
    while kill -0 "$tasks" 2>/dev/null; do wait "$tasks" || true; done # a trap ends a wait
    wait "$tasks" && status=0 || status=$?
    trap '' TERM USR2
    ((status == 0)) || "$python" -m cxr_dist.run.requeue "$status" ${run_dir:+"$run_dir"} || status=$?
    return "$status"
}
