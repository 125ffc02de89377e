"""The honest clients of the floods: names in the cache, new names of a healthy zone, and queries over TCP.

Cached names are asked for by a program in C (udp_load.c), because a client in Python would measure its own delays.
"""

import contextlib
import os
import select
import shlex
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flood_messages import packet
from flood_servers import Server
from ratio import cpu_of
from resolver_servers import ask

from resolver.wire import name as names
from resolver.wire.consts import A

__all__ = ["Load", "Phase", "compiled", "measure", "warm"]

CACHED = tuple(f"c{number}.good." for number in range(10))
SOURCES = 20
"""Client networks of the cached names, so that none of them has much."""
DEPTH, FULL_DEPTH = 4096, 192
COLD_RATE = 100
PATIENCE = 2.0
STREAM_RATE = 10
SOURCE = "127.3.1.1"


@dataclass(frozen=True)
class Load:
    """What is asked: for how long, and how many cached names a second; `full`: also as many as the server answers."""

    program: Path
    seconds: float
    cached_rate: int
    full: bool = False


@dataclass
class Phase:
    """What the honest clients got, and what the resolver took for it, quiet or in a flood."""

    asked: int = 0
    answered: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    cold_asked: int = 0
    cold_answered: int = 0
    streams_asked: int = 0
    streams_answered: int = 0
    full_asked: int = 0
    full_rate: float = 0.0
    core: float = 0.0
    """Part of its core that the process of the resolver used."""
    delayed: float = 0.0
    """Part of the time in which it waited for that core, because other processes had it."""

    @property
    def cached(self) -> float:
        """Part of the cached names that were answered."""
        return self.answered / max(self.asked, 1)

    @property
    def cold(self) -> float:
        """Part of the new names that were answered within `PATIENCE`."""
        return self.cold_answered / max(self.cold_asked, 1)

    @property
    def streams(self) -> float:
        """The same of the queries over TCP."""
        return self.streams_answered / max(self.streams_asked, 1)

    def as_json(self) -> dict[str, Any]:
        """All fields and parts."""
        return asdict(self) | {"cached": self.cached, "cold": self.cold, "streams": self.streams}


def compiled(folder: Path) -> Path:
    """The program that asks for cached names."""
    program = folder / "udp_load"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-O2", "-o", program, Path(__file__).with_name("udp_load.c")], check=True, timeout=60)
    return program


def warm(server: Server, known: tuple[tuple[str, int], ...]) -> None:
    """Bring the cached names and the questions `known` into the cache.

    Raises:
        RuntimeError: one of them is not answered.
    """
    for text, rtype in (*((text, A) for text in CACHED), *known):
        for _ in range(5):
            reply = ask(server.ports.udp, packet(1, names.from_text(text), rtype), timeout=5.0)
            if reply is not None and reply[3] & 15 == 0:
                break
        else:
            raise RuntimeError(f"{server.name} does not answer {text}")


def _start(load: Load, port: int, rate: int) -> "subprocess.Popen[str]":
    queries = [packet(0, names.from_text(text), A).hex() for text in CACHED]
    words = (port, load.seconds, DEPTH if rate else FULL_DEPTH, rate, SOURCES)
    return subprocess.Popen([load.program, *map(str, words), *queries], stdout=subprocess.PIPE, text=True)


def _result(process: "subprocess.Popen[str]", load: Load) -> list[float]:
    """Sent, answered, mean, median and 99th percentile in microseconds."""
    output, _ = process.communicate(timeout=load.seconds + 60)
    if process.returncode:
        raise RuntimeError(f"udp_load ended with status {process.returncode}")
    return [float(word) for word in output.split()]


def _cold(port: int, seconds: float, prefix: str, phase: Phase) -> None:
    """New names of the healthy zone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((SOURCE, 0))
        sock.connect(("127.0.0.1", port))
        asked: dict[int, float] = {}
        number, began = 0, time.monotonic()
        while (now := time.monotonic()) < began + seconds + PATIENCE and (asked or now < began + seconds):
            while number < min((now - began) * COLD_RATE, seconds * COLD_RATE):
                sock.send(packet(number, names.from_text(f"{prefix}{number}.good."), A))
                asked[number] = time.monotonic()
                number += 1
            if select.select([sock], [], [], 1 / COLD_RATE)[0]:
                reply = sock.recv(4096)
                since = asked.pop(int.from_bytes(reply[:2], "big"), 0.0)
                phase.cold_answered += reply[3] & 15 == 0 and reply[7] == 1 and time.monotonic() - since < PATIENCE
        phase.cold_asked = number


def _stream(port: int) -> bool:
    """Whether a cached name is answered over a new TCP connection."""
    query = packet(7, names.from_text(CACHED[0]), A)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE, (SOURCE, 0)) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(len(query).to_bytes(2, "big") + query)
        reply = sock.recv(4096)
        return len(reply) > 9 and reply[5] & 15 == 0 and reply[9] > 0
    return False


def _streams(port: int, seconds: float, phase: Phase) -> None:
    """Queries over TCP, one on each connection. While one waits, no other is asked."""
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        phase.streams_asked += 1
        phase.streams_answered += _stream(port)
        time.sleep(max(0.0, now + 1 / STREAM_RATE - time.monotonic()))


def measure(server: Server, load: Load, prefix: str) -> Phase:
    """All honest clients at the same time; `prefix` makes new names."""
    phase, port, cpu = Phase(), server.ports.udp, cpu_of(server.pid)
    before, delayed, began = cpu(), server.delayed(), time.monotonic()
    process = _start(load, port, load.cached_rate)
    thread = threading.Thread(target=_streams, args=(port, load.seconds, phase))
    thread.start()
    _cold(port, load.seconds, prefix, phase)
    thread.join()
    sent, answered, _, phase.p50_us, phase.p99_us = _result(process, load)
    phase.asked, phase.answered = int(sent), int(answered)
    took = time.monotonic() - began
    phase.core, phase.delayed = (cpu() - before) / took, (server.delayed() - delayed) / took
    if load.full:
        sent, answered, *_ = _result(_start(load, port, 0), load)
        phase.full_asked, phase.full_rate = int(sent), answered / load.seconds
    return phase
