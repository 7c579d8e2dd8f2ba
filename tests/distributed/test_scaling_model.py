"""The model of larger clusters: its fit recovers the parameters of synthetic times, and its limits are correct."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.model import (
    Cluster,
    Link,
    Work,
    bytes_sent,
    cluster_seconds,
    exposed_seconds,
    fit_link,
    predict,
    ring_seconds,
    shortest_step,
)

WORK = Work(lane_seconds=0.3, backward_seconds=0.2, update_seconds=0.05)
FAST = Cluster(
    gpus_per_node=8,
    inside=Link(bytes_per_second=300e9, latency_seconds=5e-6),
    between=Link(bytes_per_second=40e9, latency_seconds=1e-5),
)
BUCKETS = [1e6, 25e6, 25e6, 100e6]
links = st.builds(Link, bytes_per_second=st.floats(1e8, 1e12), latency_seconds=st.floats(1e-6, 1e-3))


@given(links, st.integers(2, 64))
def test_the_fit_recovers_the_link_that_made_the_points(link, ranks):
    points = [(size, ring_seconds(size, ranks, link)) for size in (2**12, 2**18, 2**22, 2**26)]
    found = fit_link(points, ranks)
    assert found.bytes_per_second == pytest.approx(link.bytes_per_second, rel=1e-3)
    assert found.latency_seconds == pytest.approx(link.latency_seconds, rel=1e-3)


@given(st.lists(st.floats(1e3, 1e9), min_size=1, max_size=20), st.floats(0.0, 10.0), st.floats(1e7, 1e12))
def test_what_is_exposed_is_at_least_the_last_bucket_and_at_most_all(buckets, backward, rate):
    seconds = [size / rate for size in buckets]
    exposed = exposed_seconds(seconds, buckets, backward)
    assert seconds[-1] * (1 - 1e-9) - 1e-9 <= exposed <= sum(seconds) * (1 + 1e-9) + 1e-9
    assert exposed >= sum(seconds) - backward - 1e-9
    assert exposed_seconds(seconds, buckets, 0.0) == pytest.approx(sum(seconds))


def test_one_rank_sends_nothing_and_more_ranks_never_gain_efficiency():
    found = [predict(WORK, 1, BUCKETS, ranks, FAST) for ranks in (1, 2, 8, 16, 64, 1024)]
    assert found[0] == {
        "all_reduce_seconds": 0.0,
        "exposed_seconds": 0.0,
        "step_seconds": pytest.approx(0.35),
        "efficiency": 1.0,
    }
    efficiencies = [each["efficiency"] for each in found]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[-1] < 1


def test_inside_a_node_the_network_does_not_matter_and_beyond_it_bounds_the_rate():
    slow = Cluster(gpus_per_node=8, inside=FAST.inside, between=Link(bytes_per_second=1e9, latency_seconds=1e-3))
    assert cluster_seconds(1e8, 8, slow) == cluster_seconds(1e8, 8, FAST)
    assert cluster_seconds(1e8, 1024, slow) > 2 * 127 / 128 * 1e8 / 1e9


@given(st.integers(2, 1024), st.integers(1, 64))
def test_engines_keep_their_order_in_bytes(ranks, lanes):
    def sent(engine):
        return bytes_sent(engine, 10**6, ranks, lanes)

    assert sent("ddp, bf16 hook") == sent("ddp") / 2 < sent("ddp") < sent("zero1") <= sent("zero2")
    assert sent("ddp") < 2 * 4 * 10**6  # a ring sends less than twice the tensor
    assert sent("zero3") == lanes * sent("ddp")


@given(st.sampled_from([16, 64, 1024]), st.floats(0.5, 0.99))
def test_a_rank_as_fast_as_the_shortest_step_reaches_the_efficiency_and_a_slower_one_more(ranks, efficiency):
    step = shortest_step(WORK, BUCKETS, ranks, FAST, efficiency)
    reached = [
        predict(WORK.faster(WORK.alone(1) / seconds), 1, BUCKETS, ranks, FAST)["efficiency"]
        for seconds in (step, 2 * step)
    ]
    assert reached[0] == pytest.approx(efficiency, abs=1e-6)
    assert reached[1] > efficiency
