"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd, which this module starts and stops.

Jobs are submitted, inspected and signalled with SLURM's own commands. It needs root, as slurmd does, and a line in
/etc/hosts, which is removed at the end.
"""

import os
import shutil
import socket
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

NODES = ("cxrtest1", "cxrtest2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_FIRST_PORT = 16800
_HOSTS = Path("/etc/hosts")
_HOSTS_LINE = f"127.0.0.1 {' '.join(NODES)} # cxr_dist tests\n"


def missing() -> str:
    """Describe what this machine lacks to run SLURM; empty if nothing is missing."""
    absent = [program for program in PROGRAMS if _program(program) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


class Cluster:
    """A running cluster; commands with `environment` as their environment use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: list[subprocess.Popen[str]] = []

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command and return its standard output; if it fails, the exception contains its error output."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{command[0]} exited {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str | Path, cwd: Path, output: Path) -> "subprocess.Popen[str]":
        """Start a command in the background, whose output is appended to a file; `end_what_is_left` kills it."""
        with output.open("a") as printed:
            options = {
                "cwd": cwd,
                "env": self.environment,
                "stdout": printed,
                "stderr": subprocess.STDOUT,
                "text": True,
            }
            self._commands.append(subprocess.Popen([str(part) for part in command], **options))
        return self._commands[-1]

    def end_what_is_left(self) -> None:
        """Kill the commands that `start` started, which may submit jobs, and cancel all jobs."""
        for command in self._commands:
            command.kill()
            command.wait()
        self._commands.clear()
        if self.run("squeue", "-h").strip():
            # A job's processes outlive slurmd, and those that a test has suspended end at SIGKILL only.
            self.run("scancel", "--user=root")
            _until(lambda: not self.run("squeue", "-h").strip(), "all jobs gone")

    def sbatch(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Submit a batch job and return its id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Return the fields of `scontrol show job`: JobState, Restarts, ExitCode and so on."""
        line = self.run("scontrol", "--oneliner", "show", "job", job_id)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    @contextmanager
    def configured(self, *lines: str) -> Iterator[None]:
        """Add lines to slurm.conf while the block runs."""
        path = self.folder / "slurm.conf"
        before = path.read_text()
        try:
            path.write_text(before + "".join(f"{line}\n" for line in lines))
            self.run("scontrol", "reconfigure")
            yield
        finally:
            path.write_text(before)
            self.run("scontrol", "reconfigure")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd; a node that SLURM considered down returns by itself."""
        self._nodes[node] = _start(self, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd with SIGKILL; the processes of its jobs keep running."""
        self._nodes[node].kill()
        self._nodes[node].wait()

    def stop_nodes(self) -> None:
        """End all slurmd."""
        for process in self._nodes.values():
            _end(process)

    def wait(self, job_id: str, seconds: float = 180) -> dict[str, str]:
        """Wait until the job has ended, and return its fields."""
        deadline = time.monotonic() + seconds
        while (job := self.job(job_id))["JobState"] not in ENDED:
            assert time.monotonic() < deadline, f"job {job_id} still {job['JobState']} after {seconds} s"
            time.sleep(0.25)
        return job


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a cluster while the block runs; its processes and files are removed afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxr-slurm-")))
        stack.enter_context(_host_names())
        _configure(folder)
        cluster = Cluster(folder)
        munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file")]
        munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
        stack.enter_context(_daemon(cluster, "munged", "--foreground", "--force", *munge))
        _until((folder / "munge.socket").exists, "munged answers")
        stack.enter_context(_daemon(cluster, "slurmctld", "-D"))
        stack.callback(cluster.stop_nodes)
        for node in NODES:
            cluster.start_node(node)
        _until(lambda: cluster.run("sinfo", "-h", "-o", "%T/%D").strip() == f"idle/{len(NODES)}", "nodes idle")
        stack.callback(cluster.end_what_is_left)
        yield cluster


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _configure(folder: Path) -> None:
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    first = _free_ports(3)
    values = {"controller_port": first, "first_port": first + 1, "last_port": first + 2}
    # A job's rendezvous port follows from its id, plus 1000 for each restart. The job ids of clusters that run at the
    # same time on this machine must therefore neither be equal nor differ by a multiple of 1000.
    values["first_job"] = 1 + (first - _FIRST_PORT) // 3 * 125
    template = string.Template(Path(__file__).with_name("slurm.conf.template").read_text())
    (folder / "slurm.conf").write_text(template.substitute(values, folder=folder))


def _free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports below the ephemeral range."""
    for first in range(_FIRST_PORT, 19900, count):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(closing(socket.socket())).bind(("", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


@contextmanager
def _host_names() -> Iterator[None]:
    """Make the nodes' names resolve, because the first one becomes the address of a job's rendezvous."""
    known = _HOSTS.read_text()
    if all(name in known.split() for name in NODES):
        yield
        return
    with _HOSTS.open("a") as file:
        file.write(_HOSTS_LINE)
    try:
        yield
    finally:  # in a container /etc/hosts is often a mount, which can be rewritten but not replaced
        _HOSTS.write_text(_HOSTS.read_text().replace(_HOSTS_LINE, ""))


@contextmanager
def _daemon(cluster: Cluster, name: str, *arguments: str) -> Iterator[None]:
    process = _start(cluster, name, *arguments)
    try:
        yield
    finally:
        _end(process)


def _start(cluster: Cluster, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a daemon as a child process. Its output goes to a file, because inherited pipes would stay open."""
    program = _program(name)
    assert program is not None
    with (cluster.folder / "daemons.out").open("a") as output:
        return subprocess.Popen(
            [program, *arguments],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C then reaches only this process, which ends the jobs before the daemons
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(condition: object, what: str, seconds: float = 40) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
