"""Ports for the rendezvous of tests: below the ephemeral range, from which no outgoing connection takes one."""

import random
import socket
from contextlib import ExitStack, closing

_LOWEST, _HIGHEST = 20_000, 32_000  # tests/slurm/cluster.py takes those below
_CHOICE = random.SystemRandom()  # forked processes and other test runs must not choose alike


def free_ports(count: int = 1) -> list[int]:
    """Return different ports on which nothing listens now."""
    ports: list[int] = []
    with ExitStack() as stack:
        for port in _CHOICE.sample(range(_LOWEST, _HIGHEST), 100 + count):
            try:
                stack.enter_context(closing(socket.socket())).bind(("", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError(f"no {count} free ports from {_LOWEST} to {_HIGHEST}")
