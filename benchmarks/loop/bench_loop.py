"""The network side of the loop against uvloop and asyncio: CPU time of a server for each operation.

The floors are in floors.toml, the contenders in loop_servers. The tests marked short run in CI.
"""

from functools import partial

import loop_servers as servers
import pytest

KIB = 1024
FRAME = (64).to_bytes(4, "big") + bytes(64)

ROWS = {
    "echo_64": partial(servers.echo, kind="protocol", message=bytes(64)),
    "tcp_echo_1k": partial(servers.echo, kind="protocol", message=bytes(KIB)),
    "echo_1k_x1": partial(servers.echo, kind="protocol", message=bytes(KIB), connections=1),
    "echo_1k_x100": partial(servers.echo, kind="protocol", message=bytes(KIB), connections=100),
    "echo_16k": partial(servers.echo, kind="protocol", message=bytes(16 * KIB)),
    "echo_100k": partial(servers.echo, kind="protocol", message=bytes(100 * KIB)),
    "pipelined_64": partial(servers.echo, kind="protocol", message=bytes(64), messages=64),
    "buffered_1k": partial(servers.echo, kind="buffered", message=bytes(KIB)),
    "buffered_16k": partial(servers.echo, kind="buffered", message=bytes(16 * KIB)),
    "buffered_100k": partial(servers.echo, kind="buffered", message=bytes(100 * KIB)),
    "asyncio_streams_100k": partial(servers.echo, kind="streams", message=bytes(100 * KIB)),
    "sock_1k": partial(servers.echo, kind="sock", message=bytes(KIB)),
    "small_writes": partial(servers.echo, kind="frames", message=FRAME, messages=servers.FRAMES),
    "unix_1k": partial(servers.echo, kind="unix", message=bytes(KIB)),
    "tls_1k": partial(servers.echo, kind="tls", message=bytes(KIB)),
    "tls_16k": partial(servers.echo, kind="tls", message=bytes(16 * KIB)),
    "udp_echo_1k": partial(servers.datagrams, size=KIB),
    "connections": servers.connections,
}
#: Rows that measure added cost: there is a server in C that does the same.
BARE = ("echo_64", "tcp_echo_1k", "echo_1k_x1", "echo_1k_x100", "echo_16k", "buffered_1k", "sock_1k", "unix_1k",
        "connections")
SHORT = ("tcp_echo_1k", "buffered_1k", "sock_1k", "small_writes", "udp_echo_1k", "connections")


@pytest.mark.parametrize("row", [pytest.param(r, marks=pytest.mark.short) if r in SHORT else r for r in ROWS])
def test_against_uvloop(pair, row: str) -> None:
    with ROWS[row]("corenet") as ours, ROWS[row]("uvloop") as theirs:
        pair(f"{row}/uvloop", ours, theirs, bare=partial(ROWS[row], servers.BARE) if row in BARE else None)


@pytest.mark.parametrize("row", ["tcp_echo_1k", "udp_echo_1k"])
def test_against_asyncio(pair, row: str) -> None:
    with ROWS[row]("corenet") as ours, ROWS[row]("asyncio") as theirs:
        pair(f"{row}/asyncio", ours, theirs)
