"""The engine sums gradients as one tree over lanes, at any number of ranks."""

from pathlib import Path

import forked_ranks
import pytest


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_engine_gives_the_tree_of_plain_torchs_gradients(world_size):
    script = Path(__file__).with_name("exact_engine_ranks.py")
    assert forked_ranks.run(world_size, script).count("agrees") == world_size
