"""The delay of cached answers while other clients ask for names that are not in the cache, against Unbound.

What a resolver does for one query delays the others on its thread. The figure is the 99th percentile of the delay, not
CPU time: base / ours, above 1 when ours delays less. Both resolvers have the same core to themselves; the clients and
the name servers are on the others. A program in C asks for cached names (udp_load.c), because a client in Python would
measure its own delays.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest
from cold_servers import cold_resolverd, cold_unbound
from cold_world import BIG_ZONES, ColdWorld, make, missing_requirement, served
from flood_load import compiled
from ratio import Contender
from resolver_servers import ask, has_unbound

from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.consts import A

SECONDS = 1.0
HIT_RATE, COLD_RATE = 5000, 1000
IN_FLIGHT = 1024
SOURCES = 8
ROUNDS, BATCHES = 5, 2
SLICES = BATCHES * ROUNDS * 2 + 4
"""pytest-benchmark times four slices more, with a warm-up."""
COLD_NAMES = int(SECONDS * COLD_RATE)
ANSWERED_PART, COLD_ANSWERED_PART = 0.98, 0.88
"""What must be answered of the names, so that dropping them does not count as speed. The last new names of a slice are
asked for shortly before its end."""
PAUSE = 0.001

MISSING = missing_requirement() if has_unbound() else "Unbound is not installed (Debian package unbound)"
pytestmark = pytest.mark.skipif(bool(MISSING) or len(os.sched_getaffinity(0)) < 2,
                                reason=MISSING or "the resolver needs a core of its own")


@contextmanager
def on_other_cores() -> Iterator[int]:
    """This process and its children leave one core, whose number is returned, to the resolver."""
    cores = os.sched_getaffinity(0)
    kept = max(cores)
    os.sched_setaffinity(0, cores - {kept})
    try:
        yield kept
    finally:
        os.sched_setaffinity(0, cores)


def run_at_once() -> None:
    """Let this process precede all others on its core, so that it measures the delays of the resolver and not its
    own."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def ask_steadily(port: int, texts: Iterator[str], count: int) -> int:
    """Ask for `count` names of `texts`, `COLD_RATE` a second; returns how many were answered with records."""
    answered = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        began, sent = time.monotonic(), 0
        while (now := time.monotonic()) < began + SECONDS:
            for text in islice(texts, max(0, min(count, int((now - began) * COLD_RATE)) - sent)):
                sock.send(make_query(sent & 0xFFFF, names.from_text(text), A))
                sent += 1
            with suppress(BlockingIOError):
                while reply := sock.recv(4096):
                    answered += not reply[3] & 15 and reply[7] == 1
            time.sleep(PAUSE)
    return answered


def delay(name: str, pid: int, port: int, world: ColdWorld, program: Path, core: int) -> Contender:
    """A contender whose cost is the 99th percentile of the delay of cached answers, in seconds."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
    known = [f"ns1.{origin}" for origin in world.big[:BIG_ZONES // 4]]
    for origin in world.big:
        assert ask(port, make_query(1, names.from_text(f"ns1.{origin}"), A), timeout=5.0) is not None
    queries = [make_query(0, names.from_text(text), A).hex() for text in known]
    texts = world.new_names()

    def measure() -> float:
        words = (port, SECONDS, IN_FLIGHT, HIT_RATE, SOURCES)
        process = subprocess.Popen([program, *map(str, words), *queries], stdout=subprocess.PIPE, text=True,
                                   preexec_fn=run_at_once)
        cold = ask_steadily(port, texts, COLD_NAMES)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"udp_load ended with status {process.returncode}"
        sent, answered, _, _, p99 = map(float, output.split())
        assert answered >= sent * ANSWERED_PART, f"{name} answered {answered:.0f} of {sent:.0f} cached names"
        assert cold >= COLD_NAMES * COLD_ANSWERED_PART, f"{name} answered {cold} of {COLD_NAMES} new names"
        return p99 / 1e6

    def run(_count: int) -> None:
        measure()

    return Contender(name, run, count=1, measure=measure)


def test_hits_beside_cold(tmp_path: Path, pair) -> None:
    program = compiled(tmp_path)
    with on_other_cores() as core:
        world = make(tmp_path / "world", zones=0, names=SLICES * COLD_NAMES // BIG_ZONES + 1, signed=False)
        with served(world), cold_resolverd(world) as (pid, port, _), cold_unbound(world) as (base_pid, base_port):
            pair("hits_beside_cold/unbound", delay("resolverd", pid, port, world, program, core),
                 delay("unbound", base_pid, base_port, world, program, core), rounds=ROUNDS, batches=BATCHES)
