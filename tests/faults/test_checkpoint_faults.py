"""After a kill while saving, damage to a checkpoint or a full disk, a run can resume, and never from wrong weights.

This is a small selection; `python -m benchmarks.checkpoint_faults` runs many more trials.
"""

from collections import Counter
from random import Random

import pytest

from benchmarks.checkpoint_faults.trials import DAMAGES, damage_trials, fill_trials, inode_trials, kill_trial


def test_a_run_killed_while_saving_keeps_every_confirmed_checkpoint(tmp_path):
    chance, outcomes = Random(0), Counter[str]()
    for _ in range(20):
        outcomes[kill_trial(tmp_path / "run", 400_000, chance, longest_seconds=0.2)] += 1
    assert outcomes["resumable, killed in a write"] > 0
    assert sum(outcomes[how] for how in outcomes if how.startswith("resumable")) == 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_reason_and_the_previous_one_is_used(tmp_path, damage):
    assert damage_trials(tmp_path, damage, 60) == {"the one before, and said why": 60}


def test_a_full_disk_at_any_write_of_a_save_keeps_the_previous_checkpoint(full_disk):
    outcomes = fill_trials(full_disk)
    assert outcomes.keys() == {"refused, the one before is whole", "saved"}
    assert outcomes["refused, the one before is whole"] >= 24  # the number of pages in 96 kB of tensors


def test_running_out_of_inodes_at_any_file_of_a_save_keeps_a_whole_checkpoint(full_disk):
    outcomes = inode_trials(full_disk)
    # First the folder and its four files fail; then the link to the best, when the new checkpoint is already whole.
    assert outcomes["refused, the one before is whole"] == 5
    assert outcomes["refused at its mark, and it is whole"] == 1
    assert outcomes["saved"] == sum(outcomes.values()) - 6
