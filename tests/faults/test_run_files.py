"""A small file of a run folder that is damaged or no file is refused in one line or repaired, and never waited for.

The files are those that a command reads or appends to; another program, an incomplete copy or a full disk damages them.
"""

import json
import signal
from pathlib import Path

import pytest
from bad_files import FLAGS, SPECIAL, put

from cxr_dist.config.decode import parse_record
from cxr_dist.errors import UserError
from cxr_dist.files import append_to, json_lines
from cxr_dist.run.claim import Claim

pytestmark = pytest.mark.usefixtures("no_hang")
EACH = pytest.mark.parametrize("kind", SPECIAL)
DAMAGES = {
    "nothing": b"",
    "half a record": b'{"step": 1, "epoch"',
    "another type": b"[]\nnull\n7\n",
    "no UTF-8": b"\xff\xfe{}\n",
    "a record of something else": b'{"a": 1}\n',
    "brackets without end": b"[" * 100_000,
}
LINES = ("metrics.jsonl", "bad_samples.jsonl", "restarts.jsonl", "startup.jsonl")
RECORDS = ("environment.json", "evaluation/test/metrics.json", "evaluation/test/predictions.csv", "trained_on.json")


@pytest.fixture(autouse=True)
def handlers():
    """Training in this process handles signals."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@EACH
def test_records_are_read_from_regular_files_alone(tmp_path, kind):
    put(kind, tmp_path / "file")
    for read in (json_lines, append_to, lambda path: parse_record(path, "file")):
        with pytest.raises((UserError, OSError)) as error:
            read(tmp_path / "file")
        assert isinstance(error.value, UserError) or kind == "a link to itself"


def test_lines_that_are_no_records_are_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert json_lines(path) == []
    path.write_bytes(b'{"a": 1}\n' + b"\n".join(DAMAGES.values()) + b'\n{"a": 2}\n')
    assert [line for line in json_lines(path) if set(line) == {"a"}] == [{"a": 1}, {"a": 1}, {"a": 2}]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resumed_run_mends_its_logs(run_copy, tiny_shards, cxr_dist, tried, damage):
    for name in LINES:
        (run_copy / name).write_bytes(DAMAGES[damage])
    status, _, err = cxr_dist("train", "demo", "--data.shards", tiny_shards, *FLAGS, "--out", run_copy)
    assert status == 0, err
    for line in (run_copy / "metrics.jsonl").read_text().splitlines():
        assert "step" in json.loads(line)
    tried(f"{damage} in the logs of a run that is resumed", "read as it should be")


@pytest.mark.parametrize("name", LINES[:3])
def test_a_log_that_is_a_fifo_does_not_stop_a_run_for_ever(run_copy, tiny_shards, cxr_dist, tried, name):
    put("a FIFO", run_copy / name)
    status, _, err = cxr_dist("train", "demo", "--data.shards", tiny_shards, *FLAGS, "--out", run_copy)
    assert f"{name} in {run_copy} " in err
    assert "Traceback" not in err
    # A tracker that fails does not end training.
    assert status == (0 if name == "metrics.jsonl" else 2)
    tried(f"a FIFO as {name} of a run", "noticed")


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("damage", [*DAMAGES, "a FIFO", "a folder"])
def test_a_record_is_refused_in_one_line(run_copy, tmp_path, cxr_dist, tried, name, damage):
    if damage in DAMAGES:
        (run_copy / name).write_bytes(DAMAGES[damage])
    else:
        put(damage, run_copy / name)
    status, _, err = cxr_dist("compare", run_copy, "--out", tmp_path / "page")
    if status != 0 or name not in ("environment.json", "trained_on.json"):  # whose fields may be absent
        assert status == 2
        assert err.startswith("cxr-dist: ")
        assert err.count("\n") == 1
        tried(f"{damage} in {name} of a run", "refused in one line")


@pytest.mark.parametrize("content", [*DAMAGES.values(), b'{"token": 1}'])
def test_an_owner_whose_record_was_overwritten_stops(tmp_path, content):
    claim = Claim(tmp_path)
    claim.take()
    claim.check()
    (tmp_path / "owner.json").write_bytes(content)
    with pytest.raises(UserError, match=r"owner\.json in .* was overwritten by something else: this process writes"):
        claim.check()


@EACH
def test_an_owner_whose_record_is_no_file_stops(tmp_path, kind):
    claim = Claim(tmp_path)
    claim.take()
    put(kind, tmp_path / "owner.json")
    with pytest.raises((UserError, OSError), match=r"overwritten|symbolic links|directory"):
        claim.check()


def test_a_run_is_known_by_its_folder_and_not_by_its_path(tmp_path):
    """Two paths lead to one folder, and its later owner stops the earlier one; a swapped link does the same."""
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("run")
    first, second = Claim(link), Claim(tmp_path / "run")
    first.take()
    second.take()
    with pytest.raises(UserError, match="was taken over by process"):
        first.check()
    third = Claim(link)
    third.take()
    link.unlink()
    link.symlink_to("other")
    with pytest.raises(UserError, match=r"no longer contains owner\.json: the folder was moved or cleared"):
        third.check()
    assert sorted(Path(tmp_path / "other").iterdir()) == []
