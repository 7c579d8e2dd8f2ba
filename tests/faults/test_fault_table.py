"""Every fault of the table is noticed by cxr_dist, and stock webdataset behaves as the table says."""

import pytest

from benchmarks.faults.damages import measure_damages, small_shards
from benchmarks.faults.trials import TRIALS, measure_trials

SILENT_IN_STOCK = {"one flipped bit in a film", "cut between members", "a zeroed header", "a member missing",
                   "keys twice, across shards"}  # fmt: skip
STOCK = {
    "a key with dots": "silent: 1 of 20",
    "an error while a shard is written": "silent",
    "a pickle among the members": "executed",
    "a shell command for a name": "executed",
    "a film of 169 megapixels": "silent",
    "a report that is not UTF-8": "leaked",
    "a damaged film on one of two ranks": "silent",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small_shards(tmp_path_factory.mktemp("faults"))


def test_no_damage_goes_unnoticed_here_but_much_does_in_stock_webdataset(whole, tmp_path, tried):
    for name, row in measure_damages(whole, tmp_path, 10).items():
        assert "silent" not in row["cxr_dist"], name
        # Not all of the 10: a flipped bit in the tar's closing blocks is harmless.
        assert row["cxr_dist"].get("noticed", 0) >= 5, name
        if name in SILENT_IN_STOCK:
            assert row["webdataset"] == {"silent": 10}, name
        assert row["webdataset, warn_and_continue"].get("silent", 0) >= 7, name
        tried(f"a shard with {name}", "noticed")


def test_a_hostile_shard_is_noticed_and_never_executed_or_quoted(whole, tmp_path, tried):
    rows = measure_trials(whole, tmp_path)
    assert set(rows) == set(TRIALS) == set(STOCK)
    for name, row in rows.items():
        assert row["cxr_dist"].startswith("noticed: "), name
        assert row["webdataset"].startswith(STOCK[name]), name
        tried(f"a shard with {name}", "noticed")
