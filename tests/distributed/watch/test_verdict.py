"""The verdict which rank holds up the job, as a pure function of what is known of all ranks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.distributed.watch.heartbeat import to_message, verdict_from
from cxr_dist.distributed.watch.process import Process
from cxr_dist.distributed.watch.verdict import EXIT_ENDED, Beat, Limits, Member, judge
from cxr_dist.errors import EXIT_REFUSED

LIMITS = Limits(timeout_seconds=600, silence_seconds=60)
DATA, FORWARD, VALIDATION = ("waiting for data", 10), ("forward and backward", 11), ("validation", 11)


def member(rank, state="alive", phase=FORWARD, *, step=7, idle=0.0, waits=True, since=0.0, note=""):
    beat = Beat(
        process=Process(host=f"node{rank // 8}", machine="m", pid=100 + rank, started="1"),
        step=step,
        phase=phase[0],
        entered=phase[1],
        idle_seconds=idle,
        waits=waits,
    )
    found = None if state == "absent" else beat
    return Member(rank=rank, state=state, beat=found, since_seconds=since, note=note)


def hung(rank, phase=FORWARD, **more):
    return member(rank, phase=phase, **{"idle": 600.0} | more)


def ranks(verdict):
    return verdict and verdict.culprits


members = st.builds(
    member,
    st.integers(0, 1000),
    st.sampled_from(["absent", "alive", "gone", "failed", "refused", "left"]),
    st.sampled_from([DATA, FORWARD, VALIDATION]),
    step=st.integers(0, 3),
    idle=st.floats(0, 2000),
    waits=st.booleans(),
    since=st.floats(0, 2000),
)
jobs = st.lists(members, min_size=1, max_size=6, unique_by=lambda m: m.rank)


@given(jobs)
def test_every_culprit_is_a_rank_and_is_named(job):
    verdict = judge(job, LIMITS)
    if verdict is not None:
        assert set(verdict.culprits) <= {m.rank for m in job}
        assert all(f"rank {rank}" in verdict.text for rank in verdict.culprits)
        assert verdict_from(json.loads(json.dumps(to_message(verdict)))) == verdict


@given(jobs, st.randoms())
def test_the_order_of_ranks_does_not_matter(job, random):
    before = judge(job, LIMITS)
    random.shuffle(job)
    after = judge(job, LIMITS)
    assert (before is None) == (after is None)
    assert before is None or set(before.culprits) == set(after.culprits)


@given(st.lists(st.floats(0, 2000), max_size=5), st.floats(0, 599), st.floats(0, 59))
def test_nobody_is_blamed_while_one_rank_makes_progress_and_all_send_beats(others, idle, since):
    job = [hung(0, DATA, idle=idle, since=since)]
    job += [hung(rank, idle=waited) for rank, waited in enumerate(others, start=1)]
    assert judge(job, LIMITS) is None


@pytest.mark.parametrize(
    ("job", "culprits", "text"),
    [
        ([member(0), member(9, "gone", DATA)], (9,), r"rank 9 on node1 (pid 109) died, last heard at step 7, waiting"),
        ([member(0), member(1, since=60)], (1,), "stopped answering 60 s ago at step 7, forward and backward"),
        ([member(0), member(1, "absent", since=600), member(2, "absent", since=600)], (1, 2), "rank 2 has not joined"),
        ([member(0), member(1, "failed", since=1, note="OSError")], (1,), "failed at step 7, forward and backward (OS"),
        # The cause is blamed, not what followed from it.
        ([member(0, "failed", since=5), member(1, "gone")], (1,), "died"),
        ([member(0, "failed", since=1), member(1, "left", DATA)], (1,), "left at step 7, waiting for data, while"),
        ([member(0, "failed", since=1), member(1, "left", VALIDATION)], (0,), "failed"),
        # Ranks outside a collective are blamed, however many there are.
        ([hung(0), hung(1, DATA, waits=False), hung(2)], (1,), "; the others are at step 7, forward and backward"),
        ([hung(0), hung(1, DATA, waits=False), hung(2, DATA, waits=False)], (1, 2), "rank 2 on node0"),
        ([hung(0, DATA, waits=False), hung(1, step=8, waits=False)], (0,), "at step 7, waiting for data"),
        ([hung(0, DATA, waits=False), hung(1, DATA, waits=False), hung(2, step=8, waits=False)], (0, 1), "rank 1 on"),
        # All ranks are in collectives, but not in the same one.
        ([hung(0), hung(1), hung(2, VALIDATION)], (2,), "step 7, validation; the others are at step 7, forward"),
        ([hung(0), hung(1, step=8), hung(2)], (1,), "at step 8"),
        ([hung(0), hung(1, step=8)], (0,), "at step 7"),
        ([hung(0), hung(1)], (), "no rank has made progress for 600 s: all are at step 7, forward and backward"),
        ([hung(0), member(1, "left", step=3)], (1,), "left at step 3"),
    ],
)  # fmt: skip
def test_the_rank_to_blame(job, culprits, text):
    verdict = judge(job, LIMITS)
    assert ranks(verdict) == culprits
    assert text in verdict.text
    assert verdict.status == EXIT_ENDED


def test_an_error_is_judged_only_after_a_death_would_have_been_noticed():
    assert judge([member(0), member(1, "failed", since=0.5)], LIMITS) is None


def test_a_user_error_of_one_rank_is_the_status_of_all():
    verdict = judge([member(0, "failed", since=1), member(1, "refused")], LIMITS)
    assert (verdict.culprits, verdict.status) == ((1,), EXIT_REFUSED)


def test_equal_words_of_ranks_on_one_host_are_printed_by_the_lowest_of_them():
    notes = {0: "a", 1: "a", 2: "b", 3: "a", 8: "a", 9: "a", 10: ""}  # ranks 8 to 15 are on another host
    job = [member(rank, "refused", since=1, note=note) for rank, note in notes.items()]
    verdict = judge(job, LIMITS)
    assert verdict.culprits == tuple(notes)
    assert verdict.quiet == (1, 3, 9)
    assert judge([member(0, "failed", since=1, note="a"), member(1, "failed", note="a")], LIMITS).quiet == ()


def test_there_is_no_verdict_if_all_ranks_have_left():
    assert judge([member(rank, "left", since=1e9) for rank in range(3)], LIMITS) is None


def test_of_many_culprits_some_are_named_and_all_are_counted():
    verdict = judge([member(rank, "gone") for rank in range(1000)], LIMITS)
    assert len(verdict.culprits) == 1000
    assert "rank 7 " in verdict.text
    assert "; and 992 more" in verdict.text
