"""New names of a healthy zone while random names of a dead or slow zone flood the resolver, ours beside Unbound.

``python benchmarks/resolver/subdomain_flood.py [--kind dead|slow] [--rate 1000] [--seconds 6]`` needs two cores: the
server runs on one, clients and name servers on the other. Three zones are configured with their servers: one answers
at once, one after `SLOW` seconds, one never. An honest client asks `HONEST` new names a second of the first zone.
``share`` is the part of them that is answered within `PATIENCE` during the flood, ``quiet`` the same without it.
"""

import argparse
import contextlib
import heapq
import json
import multiprocessing
import os
import random
import select
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "support"), str(ROOT / "tests")]

from handshake_flood import paced, pin  # noqa: E402
from resolver_servers import free_port, running, unbound_with  # noqa: E402

from resolver.wire import name as names  # noqa: E402
from resolver.wire.build import make_query  # noqa: E402
from resolver.wire.consts import A  # noqa: E402

SLOW = 2.0
HONEST = 200
PATIENCE = 2.0
SOURCES = 100
ZONES = ("good.test.", "slow.test.", "dead.test.")
HEADER = 12


def serve(ports: list[int]) -> None:
    """The name servers of the three zones: each name has the address 192.0.2.1."""
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
    for sock, port in zip(socks, ports, strict=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
    late: list[tuple[float, bytes, Any]] = []
    while True:
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, reply, peer = heapq.heappop(late)
            socks[1].sendto(reply, peer)
        wait = min(late[0][0] - now, 1.0) if late else 1.0
        for sock in select.select(socks, [], [], wait)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    query, peer = sock.recvfrom(4096)
                    end = query.index(0, HEADER) + 5
                    head = query[:2] + b"\x84\0\0\1\0\1\0\0\0\0" + query[HEADER:end]
                    reply = head + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
                    if sock is socks[0]:
                        sock.sendto(reply, peer)
                    elif sock is socks[1]:
                        heapq.heappush(late, (time.monotonic() + SLOW, reply, peer))


def flood(port: int, zone: str, rate: int, sent: Any) -> None:
    """Ask `rate` random names of `zone` a second, from `SOURCES` networks."""
    rng = random.Random(1)
    socks = []
    for number in range(SOURCES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((f"127.1.{number}.1", 0))
        sock.setblocking(False)
        socks.append(sock)

    def once(number: int) -> None:
        name = names.from_text(f"{rng.getrandbits(64):x}.{zone}")
        with contextlib.suppress(OSError):
            socks[number % SOURCES].sendto(make_query(number & 0xFFFF, name, A), ("127.0.0.1", port))
        sent.value += 1

    paced(rate, once, time.sleep)


def honest(port: int, seconds: float, prefix: str) -> float:
    """The share of new names of the healthy zone that are answered in time."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    asked: dict[int, float] = {}
    fine, number, began = 0, 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds + PATIENCE:
        while number < min((now - began) * HONEST, seconds * HONEST):
            sock.send(make_query(number, names.from_text(f"{prefix}{number}.{ZONES[0]}"), A))
            asked[number] = time.monotonic()
            number += 1
        if select.select([sock], [], [], 1 / HONEST)[0]:
            reply = sock.recv(4096)
            since = asked.pop(int.from_bytes(reply[:2], "big"), 0.0)
            fine += reply[3] & 15 == 0 and reply[7] == 1 and time.monotonic() - since < PATIENCE
    return fine / number


@contextlib.contextmanager
def process(target: Any, *given: Any) -> Iterator[None]:
    """Another process that runs `target`."""
    made = multiprocessing.Process(target=target, args=given, daemon=True)
    made.start()
    try:
        yield
    finally:
        made.kill()
        made.join()


@contextlib.contextmanager
def resolverd(ports: list[int]) -> Iterator[tuple[int, int]]:
    """(pid, port) of our daemon with the three zones."""
    port = free_port()
    stubs = "".join(f'[[stub]]\nzone = "{zone}"\naddresses = ["127.0.0.1:{at}"]\n'
                    for zone, at in zip(ZONES, ports, strict=True))
    with tempfile.TemporaryDirectory(prefix="bench-flood-") as folder:
        config = Path(folder) / "resolverd.toml"
        config.write_text(f"""[server]
listen = ["127.0.0.1:{port}"]
[iteration]
do-not-query-localhost = false
[policy]
special-use-domains = false
[dnssec]
enabled = false
[control]
socket = "{folder}/control"
[log]
level = "error"
{stubs}""")
        command = [sys.executable, "-m", "resolver.daemon", "--config", str(config)]
        with running(command, port, (f"www.{ZONES[0]}",)) as pid:
            yield pid, port


def unbound(ports: list[int]) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """(pid, port) of Unbound with the three zones."""
    stubs = "\n".join(f'stub-zone:\n  name: "{zone}"\n  stub-addr: 127.0.0.1@{at}'
                      for zone, at in zip(ZONES, ports, strict=True))
    options = ('module-config: "iterator"', 'local-zone: "test." nodefault')
    return unbound_with(options, stubs, (f"www.{ZONES[0]}",))


def main() -> None:
    """Measure both and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=int, default=1000, help="random names a second")
    options.add_argument("--seconds", type=float, default=6)
    options.add_argument("--kind", choices=["dead", "slow"], default="dead")
    chosen = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "needs two cores"
    os.sched_setaffinity(0, cores[:1])
    ports = [free_port() for _ in ZONES]
    zone = next(one for one in ZONES if one.startswith(chosen.kind))
    with process(serve, ports):
        for name, server in (("ours", resolverd), ("unbound", unbound)):
            with server(ports) as (pid, port):
                pin(pid, cores[-1:])
                quiet = honest(port, 2.0, "quiet")
                sent = multiprocessing.Value("l", 0, lock=False)
                with process(flood, port, zone, chosen.rate, sent):
                    time.sleep(1.0)
                    share = honest(port, chosen.seconds, "flood")
                print(json.dumps({"server": name, "kind": chosen.kind, "rate": round(sent.value / (
                    chosen.seconds + PATIENCE + 1.0)), "quiet": round(quiet, 3), "share": round(share, 3)}), flush=True)


if __name__ == "__main__":
    main()
