"""Cached answers over UDP while a flood of TLS or QUIC handshakes comes, ours beside Unbound at the same rate.

``python benchmarks/resolver/handshake_flood.py [--rate 2000] [--seconds 4] [--kind tls]`` needs two cores: the server
runs on one, the load over UDP and the flood on the other. With other programs on the machine, run it as root under
``chrt -r 10`` and with several ``--rounds``, each without the flood and then with it; the line printed is that of the
round with the median share. A flood connection sends a recorded ClientHello from one of `SOURCES` networks, waits for
the first octets of the answer, and resets the connection. So it costs its client next to nothing, and the server the
whole key exchange. The rate of cached answers over UDP is measured at full speed, and their delay at a fixed rate.
``share`` is the rate under the flood as a part of the rate without it.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import select
import shlex
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "support"), str(ROOT / "tests")]

from encrypted_servers import Encrypted, certificate, encrypted_resolverd, encrypted_unbound  # noqa: E402
from ratio import cpu_of  # noqa: E402
from resolver_servers import NAMES  # noqa: E402

from resolver.wire import name as names  # noqa: E402
from resolver.wire.build import make_query  # noqa: E402
from resolver.wire.consts import A  # noqa: E402

SOURCES = 200
AT_ONCE = 64
DEPTH = 192
FIXED_RATE = 5000
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close resets the connection


def client_hello(alpn: str) -> bytes:
    """The first flight of a TLS client."""
    context = ssl.create_default_context()
    context.set_alpn_protocols([alpn])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def initials(count: int) -> list[bytes]:
    """The first datagrams of QUIC clients, each to a connection id of its own."""
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.connection import QuicConnection

    found = []
    for _ in range(count):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["doq"], server_name="localhost")
        client = QuicConnection(configuration=configuration)
        client.connect(("127.0.0.1", 853), now=0.0)
        found.append(client.datagrams_to_send(now=0.0)[0][0])
    return found


def paced(rate: int, once: Callable[[int], None], idle: Callable[[float], None]) -> None:
    """Call `once` with increasing numbers, `rate` times a second, and `idle` with the time that is left in between."""
    began, number = time.monotonic(), 0
    while True:
        ahead = number / rate - (time.monotonic() - began)
        if ahead > 0:
            idle(ahead)
        else:
            once(number)
            number += 1


def flood_tcp(port: int, rate: int, hello: bytes, sent: Any) -> None:
    """Begin `rate` connections a second, as far as the server accepts them."""
    poller, pending = select.epoll(), {}

    def close(descriptor: int) -> None:
        sock, _ = pending.pop(descriptor)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()

    def once(number: int) -> None:
        if len(pending) >= AT_ONCE * 8:
            close(next(iter(pending)))
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.{number % SOURCES + 1}.1", 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        pending[sock.fileno()] = sock, False
        poller.register(sock, select.EPOLLOUT)
        sent.value += 1

    def idle(seconds: float) -> None:
        for descriptor, events in poller.poll(seconds):
            sock, said = pending[descriptor]
            if said or events & (select.EPOLLERR | select.EPOLLHUP):
                close(descriptor)
            else:
                sock.send(hello)
                pending[descriptor] = sock, True
                poller.modify(descriptor, select.EPOLLIN)

    paced(rate, once, idle)


def flood_quic(port: int, rate: int, first: list[bytes], sent: Any) -> None:
    """Send `rate` first datagrams a second; what comes back is not read."""
    socks = []
    for number in range(SOURCES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((f"127.0.{number + 1}.1", 0))
        sock.setblocking(False)
        socks.append(sock)

    def once(number: int) -> None:
        with contextlib.suppress(OSError):
            socks[number % SOURCES].sendto(first[number % len(first)], ("127.0.0.1", port))
        sent.value += 1

    paced(rate, once, time.sleep)


@contextlib.contextmanager
def flood(server: Encrypted, kind: str, rate: int, seconds: float) -> Iterator[Any]:
    """A process that floods `server`; yields how many handshakes it has begun."""
    sent = multiprocessing.Value("l", 0, lock=False)
    if kind == "quic":
        given: tuple = (flood_quic, server.quic, rate, initials(min(int(rate * seconds * 3), 10_000)))
    else:
        hello = client_hello("dot" if kind == "tls" else "h2")
        given = (flood_tcp, server.tls if kind == "tls" else server.https, rate, hello)
    process = multiprocessing.Process(target=given[0], args=(*given[1:], sent), daemon=True)
    process.start()
    try:
        yield sent
    finally:
        process.kill()
        process.join()


def compiled(folder: Path) -> Path:
    """The program that loads a server over UDP."""
    program = folder / "udp_load"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-O2", "-o", program, Path(__file__).with_name("udp_load.c")], check=True, timeout=60)
    return program


def load(program: Path, port: int, seconds: float, rate: int) -> dict[str, float]:
    """Answers a second, and their delay in microseconds; with a `rate` of 0 as many as the server gives."""
    query = make_query(0, names.from_text(NAMES[0]), A).hex()
    told = subprocess.run(
        [program, str(port), str(seconds), str(DEPTH), str(rate), query], capture_output=True, text=True, check=True,
        timeout=seconds + 60,
    ).stdout.split()
    return dict(zip(("rate", "mean_us", "p99_us", "lost"), map(float, told), strict=True))


def measure(program: Path, server: Encrypted, seconds: float) -> dict[str, Any]:
    """Cached answers over UDP at full speed, with the share of its core that the server used, and at a fixed rate."""
    cpu = cpu_of(server.pid)
    before = cpu()
    full = load(program, server.udp, seconds, 0)
    full["core"] = round((cpu() - before) / seconds, 2)
    return {"full": full, "fixed": load(program, server.udp, seconds, FIXED_RATE)}


def pin(pid: int, cores: list[int]) -> None:
    """Let all threads of a process run on `cores` only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def main() -> None:
    """Measure both and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=int, default=2000, help="handshakes a second")
    options.add_argument("--seconds", type=float, default=3, help="of each measurement")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--kind", choices=["tls", "https", "quic"], default="tls")
    options.add_argument("--ours", action="store_true", help="without Unbound")
    chosen = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "needs two cores"
    os.sched_setaffinity(0, cores[:1])
    with contextlib.ExitStack() as stack:
        program = compiled(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        given = stack.enter_context(certificate())
        ours = stack.enter_context(encrypted_resolverd(*given))
        servers = {"ours": ours}
        if chosen.kind != "quic" and not chosen.ours:
            servers["unbound"] = stack.enter_context(encrypted_unbound(ours.udp, *given))
        for name, server in servers.items():
            pin(server.pid, cores[-1:])
            rounds = []
            for _ in range(chosen.rounds):
                quiet = measure(program, server, chosen.seconds)
                with flood(server, chosen.kind, chosen.rate, chosen.seconds) as sent:
                    time.sleep(0.5)
                    begun, began = sent.value, time.monotonic()
                    busy = measure(program, server, chosen.seconds)
                    rate = (sent.value - begun) / (time.monotonic() - began)
                rounds.append({
                    "server": name, "kind": chosen.kind, "handshakes": round(rate),
                    "share": round(busy["full"]["rate"] / quiet["full"]["rate"], 2), "quiet": quiet, "flood": busy,
                })
            rounds.sort(key=lambda found: found["share"])
            shares = [found["share"] for found in rounds]
            print(json.dumps({"shares": shares, **rounds[len(rounds) // 2]}), flush=True)


if __name__ == "__main__":
    main()
