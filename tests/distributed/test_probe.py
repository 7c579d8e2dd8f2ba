"""The exchange of text over a real store: absent ranks are reported in time, with our own messages."""

import socket
import time

import pytest
import torch.distributed as dist
from free_ports import free_ports

from cxr_dist.distributed.probe import RollCall, _checked_sum, all_reduce_speed, call_the_roll
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError


@pytest.fixture
def free_port(monkeypatch):
    """Return a port on which nothing listens, set as the rendezvous."""
    (port,) = free_ports()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # set by the call and restored after the test
        monkeypatch.setenv(name, "0")
    return port


def test_rank_0_receives_the_texts_of_the_ranks_that_joined(free_port):
    main = call_the_roll(World(rank=0, world_size=3), seconds=5)
    other = call_the_roll(World(rank=2, world_size=3, local_rank=2), seconds=5)
    main.say("report", "zero")
    other.say("report", "zwei – ü")
    assert main.hear("report", seconds=0.5) == {0: "zero", 2: "zwei – ü"}
    main.say("go", "on")
    assert other.hear_main("go", seconds=5) == "on"


def test_silence_of_rank_0_is_an_error_in_time(free_port):
    call = RollCall(dist.HashStore(), World(rank=1, world_size=2))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"rank 1 heard nothing from rank 0 for 0\.5 s"):
        call.hear_main("go", seconds=0.5)
    assert time.monotonic() - start < 10


def test_a_rank_that_finds_nobody_says_why(free_port, monkeypatch, capfd):
    rank = World(rank=1, world_size=2)
    with pytest.raises(UserError, match=rf"rank 1 reached nobody at 127\.0\.0\.1:{free_port} .* nothing listens"):
        call_the_roll(rank, seconds=0.3)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    with pytest.raises(UserError, match=r"cannot resolve that name; set MASTER_ADDR"):
        call_the_roll(rank, seconds=0.3)
    assert capfd.readouterr().err == "", "the store's client prints nothing itself"


def test_a_taken_port_is_named(free_port):
    with socket.socket() as other:
        other.bind(("", free_port))
        other.listen()
        with pytest.raises(UserError, match=rf"port {free_port} of this host is taken.*MASTER_PORT"):
            call_the_roll(World(rank=0, world_size=2), seconds=1)


def test_a_rank_that_does_not_join_the_collective_is_an_error_in_time(free_port):
    call = call_the_roll(World(rank=0, world_size=2), seconds=5)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"the ranks met, but"):
        all_reduce_speed(call, seconds=1)
    assert time.monotonic() - start < 30
    assert not dist.is_initialized()


def test_a_sum_that_is_wrong_is_noticed(free_port):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        _checked_sum(World(), seconds=5)
        with pytest.raises(UserError, match=r"wrong in 6553600 of 6553600 values: a link or a GPU is bad"):
            _checked_sum(World(rank=0, world_size=2), seconds=5)  # the other rank contributes zeros
    finally:
        dist.destroy_process_group()
