"""A file is complete or absent, even if the writer is killed or the disk is full."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, whole_file, write_whole


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state.json"
    write_whole(path, "old")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"new, but not to its end", 3])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_file(full_disk):
    path = full_disk / "state.json"
    write_whole(path, "old")
    with pytest.raises(UserError, match=r"no space left to write state\.json: free some"):
        write_whole(path, b"x" * 2**20)
    assert path.read_text() == "old"
    assert os.listdir(full_disk) == ["state.json"]


def test_kill_9_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_whole(path, "old")
    code = (
        "import sys; from pathlib import Path; from cxr_dist.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as f:\n"
        "    f.write(b'half'); f.flush(); print('writing', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert path.read_text() == "old"


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    write_whole(tmp_path / "a", "abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")
    assert Path(tmp_path / "a").stat().st_mode & 0o777 == 0o644
