"""Framed protocols and native streams against readexactly on uvloop, asyncio's streams on uvloop, and Python protocols.

The server of each side is its own process, written as its interface suggests. Both get the same client and do the same
work. A batch of `BATCH` frames is in flight on each connection, as from a peer that does not wait for replies.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import loop_servers as servers
import pytest
from ratio import Contender, cpu_of

CONNECTIONS = 4
BATCH = 64


@contextmanager
def framed(loop_name: str, kind: str, size: int, echoed: bool) -> Iterator[Contender]:
    """A contender: one operation is one frame of `size` bytes received, and sent back if `echoed`."""
    frames = [size.to_bytes(4, "big") + bytes([0]) + bytes(size - 1) for _ in range(BATCH)]
    if not echoed:
        # The last frame of a batch requests a reply, so that the client knows when the batch was processed.
        frames[-1] = size.to_bytes(4, "big") + bytes([1]) + bytes(size - 1)
    batch = b"".join(frames)
    expected = len(batch) if echoed else 4
    with servers.server(loop_name, kind) as (pid, port):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        buffer = bytearray(expected)

        def run(count: int) -> None:
            for _ in range(max(1, count // (CONNECTIONS * BATCH))):
                for sock in sockets:
                    sock.sendall(batch)
                for sock in sockets:
                    left = expected
                    while left:
                        left -= sock.recv_into(buffer, left)

        try:
            yield Contender(f"{loop_name}, {kind}", run, cpu_of(pid), CONNECTIONS * BATCH)
        finally:
            for sock in sockets:
                sock.close()


@pytest.mark.short
@pytest.mark.parametrize(("size", "echoed"), [(64, False), (1024, False), (64, True)])
def test_frames_against_readexactly(pair, size: int, echoed: bool) -> None:
    """The native framer against two calls of readexactly for each message on uvloop."""
    what = "echo" if echoed else "receive"
    with (
        framed("corenet", f"frames_{what}", size, echoed) as ours,
        framed("uvloop", f"readexactly_{what}", size, echoed) as theirs,
    ):
        pair(f"frames_{what}_{size}/readexactly", ours, theirs)


def test_frames_against_a_protocol_by_hand(pair) -> None:
    """The native framer against length prefixes parsed in Python on our own loop."""
    with (
        framed("corenet", "frames_receive", 64, False) as ours,
        framed("corenet", "by_hand_receive", 64, False) as theirs,
    ):
        pair("frames_receive_64/by_hand", ours, theirs)


@pytest.mark.short
def test_native_streams(pair) -> None:
    """The same server code on our streams and loop against asyncio's streams on uvloop, 1 KiB, ten connections."""
    with (
        servers.tcp_echo("corenet", 1024, kind="native_streams") as ours,
        servers.tcp_echo("uvloop", 1024, kind="streams") as theirs,
    ):
        pair("streams_1k/uvloop", ours, theirs, bare=partial(servers.tcp_echo, servers.BARE, 1024))


def test_asyncio_streams(pair) -> None:
    """asyncio's own streams on our loop against the same on uvloop."""
    with (
        servers.tcp_echo("corenet", 1024, kind="streams") as ours,
        servers.tcp_echo("uvloop", 1024, kind="streams") as theirs,
    ):
        pair("asyncio_streams_1k/uvloop", ours, theirs, bare=partial(servers.tcp_echo, servers.BARE, 1024))
