"""Kills while saving, damage to a checkpoint and a full disk: a run can always go on, and never from wrong weights.

A small selection; `python -m benchmarks.checkpoint_faults` does many more of the same.
"""

from collections import Counter
from random import Random

import pytest

from benchmarks.checkpoint_faults.trials import DAMAGES, damage_trials, fill_trials, inode_trials, kill_trial


def test_a_run_killed_while_it_saves_has_all_that_it_was_told_is_on_disk(tmp_path):
    chance, found = Random(0), Counter[str]()
    for _ in range(20):
        found[kill_trial(tmp_path / "run", 400_000, chance, longest_seconds=0.2)] += 1
    assert found["resumable, killed in a write"] > 0
    assert sum(found[how] for how in found if how.startswith("resumable")) == 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_the_reason_and_the_one_before_taken(tmp_path, damage):
    assert damage_trials(tmp_path, damage, 60) == {"the one before, and said why": 60}


def test_every_write_of_a_save_may_meet_a_full_disk(full_disk):
    found = fill_trials(full_disk)
    assert found.keys() == {"refused, the one before is whole", "saved"}
    assert found["refused, the one before is whole"] >= 24  # pages of 96 kB of tensors


def test_every_file_folder_and_link_of_a_save_may_be_one_too_many(full_disk):
    found = inode_trials(full_disk)
    # The folder and its four files; then the link to the best, when the checkpoint is there already.
    assert found["refused, the one before is whole"] == 5
    assert found["refused at its mark, and it is whole"] == 1
    assert found["saved"] == sum(found.values()) - 6
