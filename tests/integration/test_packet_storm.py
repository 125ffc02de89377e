"""Random and mutated packets to the UDP and TCP ports of the daemon: it continues to serve and does not grow.

A daemon in the simulated Internet gets a real query before and after the packets, and its memory is measured. The
default run is short; ``-m slow`` sends a million. As a program, the file sends to any port:
``test_packet_storm.py ADDRESS PORT COUNT``.
"""

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.ports import free_port
from support.servers import ask, ask_packet, run_process, wait_until
from support.subject import daemon_environment

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

ADDRESS = "127.0.0.1"
NAME = "www.example.playground."
CACHE_MIB = 4
# What the interpreter's own pools, the pending queries of a full mesh and its generators may add to the cache.
GROWTH_KIB = 48 * 1024
BURST = 32

CONFIGURATION = f"""
[server]
listen = ["{ADDRESS}:%d"]
tcp-idle-timeout = 2
pending-queries = 200
[cache]
size = "{CACHE_MIB} MiB"
[iteration]
query-timeout = 1
"""


class Daemon(NamedTuple):
    """A running daemon: its port and its process."""

    port: int
    pid: int

    def memory_kib(self) -> int:
        """Resident memory, the cache's included."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the daemon is gone")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def serves(self) -> bool:
        """Whether a real question gets a real answer, over UDP and TCP."""
        for tcp in (False, True):
            view = ask(ADDRESS, self.port, NAME, c.A, tcp=tcp, timeout=5.0)
            if view is None or view.rcode != c.NOERROR or not view.answer:
                return False
        return True


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    port = free_port()
    config = tmp_path / "resolverd.toml"
    config.write_text(CONFIGURATION % port)
    command = [sys.executable, "-m", "resolver.daemon", "-c", str(config), "--playground"]
    if hasattr(request, "param"):
        command = ["/usr/bin/prlimit", f"--nofile={request.param}:{request.param}", *command]
    log = tmp_path / "log"
    with run_process(command, log, env=daemon_environment()) as process:
        running = Daemon(port, process.pid)
        wait_until(running.serves, "an answer of the daemon", process=process, log=log)
        yield running
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        assert "Traceback" not in log.read_text(errors="replace")


def seeds() -> list[bytes]:
    """Queries of every kind, and things that are none."""
    qname = names.from_text(NAME)
    return [
        make_query(1, qname, c.A, do=True),
        make_query(2, qname, c.AAAA, edns_payload=None),
        make_query(3, names.from_text("nope.example.playground."), c.MX),
        make_query(4, qname, c.ANY),
        make_query(5, qname, c.AXFR),
        make_query(6, qname, c.A, options=[(c.OPTION_COOKIE, bytes(8)), (c.OPTION_NSID, b"")]),
        make_query(7, names.from_text("version.bind."), c.TXT, qclass=c.CH),
        make_query(8, qname, c.SOA, flags=4 << 11),
        make_query(9, names.from_text("localhost."), c.A, flags=0),
        make_query(10, qname, c.A, flags=0x8180),
        b"\0" * 12,
    ]


def packets(count: int, seed: int) -> Iterator[bytes]:
    """`count` packets: noise, mutated queries, and good queries for names that do not exist."""
    rng = random.Random(seed)
    originals = seeds()
    for n in range(count):
        kind = rng.randrange(10)
        if kind == 0:
            yield rng.randbytes(rng.randrange(0, 600))
            continue
        packet = bytearray(rng.choice(originals))
        if kind == 1:
            packet = bytearray(make_query(n & 0xFFFF, names.from_text(f"x{n}.example.playground."), c.A))
        for _ in range(rng.randrange(0, 5)):
            at = rng.randrange(len(packet) + 1)
            change = rng.randrange(4)
            if change == 0 and packet:
                packet[at % len(packet)] ^= 1 << rng.randrange(8)
            elif change == 1 and packet:
                packet[at % len(packet)] = rng.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF))
            elif change == 2:
                del packet[at:at + rng.randrange(1, 9)]
            else:
                packet[at:at] = rng.randbytes(rng.randrange(1, 9))
        yield bytes(packet)


def storm_udp(address: str, port: int, count: int, seed: int = 1) -> int:
    """Send `count` packets over UDP, never many more than are answered; the number of replies."""
    replies = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.connect((address, port))
        channel.settimeout(0.2)
        known = make_query(0x4B4B, names.from_text(NAME), c.A)
        for n, packet in enumerate(packets(count, seed)):
            channel.send(packet)
            if n % BURST == BURST - 1:
                # One good question a burst keeps both sides together, so that packets reach the parser and not a
                # full socket buffer.
                channel.send(known)
                try:
                    while channel.recv(65535)[:2] != known[:2]:
                        replies += 1
                except TimeoutError:
                    pass
    return replies


def storm_tcp(address: str, port: int, count: int, seed: int = 2) -> None:
    """The same packets over TCP, some with wrong lengths; connections are left in every state."""
    rng = random.Random(seed)
    open_channels: list[socket.socket] = []
    channel: socket.socket | None = None
    for packet in packets(count, seed):
        if channel is None:
            channel = socket.create_connection((address, port), timeout=30)
        size = len(packet) if rng.random() < 0.9 else rng.randrange(65536)
        try:
            channel.sendall(size.to_bytes(2, "big") + packet)
            if rng.random() < 0.1:
                open_channels.append(channel)
                channel = None
        except OSError:
            channel.close()
            channel = None
        if len(open_channels) > 50:
            open_channels.pop(rng.randrange(50)).close()
    for left in (*open_channels, *([channel] if channel else [])):
        left.close()


def storm_and_measure(daemon: Daemon, udp: int, tcp: int) -> None:
    storm_udp(ADDRESS, daemon.port, 2000, seed=3)       # so that what is allocated once is not counted as growth
    memory = daemon.memory_kib()
    assert storm_udp(ADDRESS, daemon.port, udp) > udp // 10
    storm_tcp(ADDRESS, daemon.port, tcp)
    wait_until(daemon.serves, "an answer after the storm")
    assert daemon.memory_kib() - memory < CACHE_MIB * 1024 + GROWTH_KIB
    wait_until(lambda: daemon.descriptors() < 150, "the end of left connections")


@pytest.mark.integration
def test_storm(daemon: Daemon) -> None:
    storm_and_measure(daemon, 20_000, 2_000)


@pytest.mark.integration
@pytest.mark.slow
def test_storm_of_a_million(daemon: Daemon) -> None:
    storm_and_measure(daemon, 1_000_000, 50_000)


@pytest.mark.integration
def test_every_packet_of_the_seeds_gets_the_right_reply(daemon: Daemon) -> None:
    expected = [c.NOERROR, c.NOERROR, c.NXDOMAIN, c.NOERROR, c.REFUSED, c.NOERROR, c.REFUSED, c.NOTIMP, c.REFUSED, None,
                c.FORMERR]
    got = [
        ask_packet(ADDRESS, daemon.port, packet, timeout=0.5 if rcode is None else 30)
        for packet, rcode in zip(seeds(), expected, strict=True)
    ]
    assert [None if view is None else view.rcode for view in got] == expected


@pytest.mark.integration
@pytest.mark.parametrize("daemon", [160], indirect=True)
def test_no_descriptors_left_for_connections(daemon: Daemon) -> None:
    channels = [socket.create_connection((ADDRESS, daemon.port), timeout=30) for _ in range(120)]
    # Nothing can be accepted any more; UDP does not care, and neither does what is cached.
    for _ in range(3):
        view = ask(ADDRESS, daemon.port, NAME, c.A, timeout=20.0)
        assert view is not None
        assert view.rcode == c.NOERROR
    for channel in channels:
        channel.close()
    wait_until(daemon.serves, "an answer over TCP once there are descriptors again")


if __name__ == "__main__":
    print(storm_udp(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), "replies")
