"""The job scripts and submitit on a real SLURM give the same numbers, and a stopped run resumes by itself."""

import json
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import held, wait_until
from run_losses import losses
from small_run import FLAGS, ON_CPUS, submit_enhanced, submit_py, submit_script, submitit_log

pytestmark = pytest.mark.slurm


def log_of(out):
    return Path(f"{out}.log")


def wait_for_steps(cluster, job, out, count=3):
    """Wait until the run has logged `count` steps."""
    metrics = out / "metrics.jsonl"
    logged = lambda: metrics.exists() and metrics.read_text().count("\n") >= count  # noqa: E731
    wait_until(logged, f"{count} steps logged", cluster, job)


@contextmanager
def held_after_steps(cluster, job, out):
    """Suspend the ranks in the middle of the run, so that it cannot end before the disturbance happens."""
    wait_for_steps(cluster, job, out)
    with held(cluster, job):
        yield


def assert_resumed(cluster, job, out, log_file, undisturbed):
    """Check that the job was requeued once, resumed in the middle and gave exactly the same losses."""
    ended, log = cluster.wait(job), log_file.read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log
    assert log.count("saved; requeued job") == 1, log
    assert log.count("resumed after step") == 1, log
    assert losses(out) == losses(undisturbed)


def test_submitit_on_two_nodes_has_the_losses_of_one_process(two_nodes, alone):
    assert json.loads((two_nodes / "environment.json").read_text())["world_size"] == 4
    assert len(losses(two_nodes)) == len(losses(alone))
    early = range(1, 21)  # rounding differences grow from step to step
    expected = {step: losses(alone)[step] for step in early}
    assert {step: losses(two_nodes)[step] for step in early} == pytest.approx(expected, rel=1e-4)
    for folder in (two_nodes, two_nodes.parent / "logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_run_warned_of_its_time_limit_is_requeued_once_and_resumes(cluster, two_nodes, tiny_shards, tmp_path):
    shards, out = tmp_path / "someone's $HOME" / "shards", tmp_path / "someone's $HOME" / "a run"
    shutil.copytree(tiny_shards, shards)
    job = submit_enhanced(cluster, shards, out)
    with held_after_steps(cluster, job, out):
        cluster.run("scancel", "--signal=USR2", job)
    assert_resumed(cluster, job, out, log_of(out), two_nodes)


def test_a_preempted_submitit_run_is_requeued_once_and_resumes(cluster, two_nodes, tiny_shards, tmp_path):
    out, job = tmp_path / "run", submit_py(cluster, tmp_path, tiny_shards)
    log = submitit_log(tmp_path, job)
    with held_after_steps(cluster, job, out):
        urgent = cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true", cwd=tmp_path)
        preempted = lambda: cluster.job(job).get("PreemptTime", "None") != "None"  # noqa: E731
        wait_until(preempted, "preempted", cluster, job)
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    assert_resumed(cluster, job, out, log, two_nodes)


def test_a_cancelled_run_saves_and_stays_cancelled(cluster, two_nodes, tiny_shards, tmp_path):
    out = tmp_path / "run"
    job = submit_enhanced(cluster, tiny_shards, out)
    with held_after_steps(cluster, job, out):
        cluster.run("scancel", job)
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert "is left to SLURM" in log_of(out).read_text()
    done = losses(out)
    assert done == {step: loss for step, loss in losses(two_nodes).items() if step <= max(done)}
    newest = max((out / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) == max(done)


def test_evaluation_on_two_nodes_writes_the_bytes_of_one_process(cluster, alone, tmp_path):
    from cxr_dist.inference.evaluation import evaluate_runs
    from cxr_dist.model.monte_carlo import McDropout

    run_dir = tmp_path / "run"
    shutil.copytree(alone, run_dir, symlinks=True)
    evaluate_runs([alone], alone, "test", McDropout(passes=3))
    options = ("--nodes=2", "--ntasks-per-node=1", *ON_CPUS)
    arguments = (run_dir, "--mc-samples", "3")
    job = submit_script(cluster, "evaluate.sh", *arguments, options=options, log=tmp_path / "log")
    assert cluster.wait(job)["JobState"] == "COMPLETED", (tmp_path / "log").read_text()
    for name in ("metrics.json", "predictions.csv"):
        expected = (alone / "evaluation" / "test" / name).read_bytes()
        assert (run_dir / "evaluation" / "test" / name).read_bytes() == expected, name


def test_sharding_in_a_job_writes_the_same_shards(cluster, tiny_shards, tmp_path):
    recipe = tiny_shards.parent / "recipe.yaml"
    options, arguments = ("--cpus-per-task=2",), (recipe, "--out", tmp_path / "s")
    job = submit_script(cluster, "shard.sh", *arguments, options=options, log=tmp_path / "log")
    assert cluster.wait(job)["JobState"] == "COMPLETED", (tmp_path / "log").read_text()
    manifest = (tmp_path / "s" / "manifest.json").read_bytes()
    assert manifest == (tiny_shards / "manifest.json").read_bytes()


def test_a_training_script_alone_takes_its_folders_from_the_environment_or_names_what_is_missing(
    cluster, tiny_shards, tmp_path, monkeypatch
):
    """More than five seconds: the jobs train and start Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cluster.environment, "CXR_DIST_SHARDS", "")
    for script in ("baseline.sh", "enhanced.sh"):
        ended = cluster.wait(submit_script(cluster, script, options=ON_CPUS, log=tmp_path / f"{script}.log"))
        assert ended["ExitCode"] == "2:0"
        assert "cxr-dist shard RECIPE --source DIR --out data/shards" in (tmp_path / f"{script}.log").read_text()
    monkeypatch.setitem(cluster.environment, "CXR_DIST_SHARDS", str(tiny_shards))
    few = (*FLAGS, "--train.max-steps", "1", "--data.workers", "0")
    job = submit_script(cluster, "enhanced.sh", *few, options=ON_CPUS, log=tmp_path / "log")
    assert cluster.wait(job)["JobState"] == "COMPLETED", (tmp_path / "log").read_text()
    assert list(losses(tmp_path / "runs" / "enhanced")) == [1]


@pytest.mark.parametrize("script", ["evaluate.sh", "shard.sh"])
def test_a_script_without_arguments_prints_its_usage(cluster, script, tmp_path):
    ended = cluster.wait(submit_script(cluster, script, options=ON_CPUS, log=tmp_path / "log"))
    assert ended["ExitCode"] == "2:0"
    assert f"slurm/{script} " in (tmp_path / "log").read_text()
