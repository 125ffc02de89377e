"""Soak test: resolverd at full load for a long time while its name servers drop, delay, truncate, hang and forge.

Cached names, new names of healthy zones and new names of faulty zones are queried at the same time, each kind from its
own addresses. Conditions: every healthy name gets the right answer, however faulty the others are; memory stays within
the cache's limit and a fixed allowance; no descriptor is leaked; the log has no traceback; SIGTERM ends the daemon with
status 0. ``make soak`` runs half an hour (``SOAK_SECONDS=`` changes that); the integration tests run it for seconds.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from support.faulty import ANSWER, FAULTY, HEALTHY, ROOT_ADDRESS  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.servers import wait_until  # noqa: E402

import corenet  # noqa: E402
import resolver  # noqa: E402
from resolver.wire import consts as c  # noqa: E402
from resolver.wire import name as names  # noqa: E402
from resolver.wire.build import make_query  # noqa: E402
from resolver.wire.errors import WireError  # noqa: E402
from resolver.wire.message import MessageView  # noqa: E402

#: The folder of the packages under test: the checkout, or a debug or sanitizer build.
PACKAGES = Path(resolver.__file__).parents[1]
CACHE_MIB = 32
# Memory besides the cache: a worker's own, measured at about 45 MiB, and that of thousands of waiting queries.
MEMORY_MIB = 64
# Seconds to wait for a reply. A healthy name is queried again until this long after its first query. On a busy machine
# the name servers themselves may not get the processor for a while, so a few repetitions are permitted.
TIMEOUT = 4.0
PERSISTENCE = 30.0
PAUSE = 1.0
REPEATED_PART = 0.01
# Idle sockets of upstream queries and idle connections to name servers are closed after seconds; then nothing is left.
SETTLE_SECONDS = 30.0
STOP_SECONDS = 30.0
HIT_NAMES = 500
REPORT_SECONDS = 60.0


@dataclass
class Counts:
    """The results of one kind of load."""

    asked: int = 0
    answered: int = 0
    repeated: int = 0
    failed: int = 0
    wrong: int = 0
    silent: int = 0
    slowest: float = 0.0
    examples: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Store the first few failures."""
        if len(self.examples) < 5:
            self.examples.append(text)


class Asker(asyncio.DatagramProtocol):
    """A client with `window` queries in flight on one socket; `next_name` returns the next qname."""

    def __init__(self, counts: Counts, window: int, next_name, *, demanding: bool) -> None:
        self._counts = counts
        self._window = window
        self._next_name = next_name
        self._demanding = demanding
        self._waiting: dict[int, tuple[str, float, int, asyncio.TimerHandle]] = {}
        self._number = 0
        self._paused = 0
        self.stopped = False
        self.empty = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        for _ in range(self._window):
            self._ask(self._next_name(), self._loop.time(), 1)

    def _ask(self, name: str, began: float, attempt: int) -> None:
        self._number = (self._number + 1) & 0xFFFF
        while self._number in self._waiting:
            self._number = (self._number + 1) & 0xFFFF
        self._counts.asked += attempt == 1
        self._transport.sendto(make_query(self._number, names.from_text(name), c.A))
        timer = self._loop.call_later(TIMEOUT, self._give_up, self._number)
        self._waiting[self._number] = (name, began, attempt, timer)

    def _ask_again(self, name: str, began: float, attempt: int) -> None:
        self._paused -= 1
        self._ask(name, began, attempt)

    def _go_on(self) -> None:
        if not self.stopped:
            self._ask(self._next_name(), self._loop.time(), 1)
        elif not self._waiting and not self._paused:
            self.empty.set()

    def _give_up(self, number: int) -> None:
        name, began, attempt, _ = self._waiting.pop(number)
        if self._demanding and self._loop.time() - began < PERSISTENCE:
            self._counts.repeated += 1
            self._ask(name, began, attempt + 1)
            return
        self._counts.silent += 1
        if self._demanding:
            self._counts.note(f"{name}: no reply to {attempt} queries")
        self._go_on()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        entry = self._waiting.pop(int.from_bytes(data[:2], "big"), None)
        if entry is None:
            return  # a reply to a query that has timed out
        name, began, attempt, timer = entry
        timer.cancel()
        counts = self._counts
        try:
            view = MessageView.parse(data)
        except WireError as error:
            counts.wrong += 1
            counts.note(f"{name}: {error}")
            self._go_on()
            return
        if view.rcode == c.NOERROR and view.answer:
            addresses = {rdata for rrset in view.answer if rrset.rtype == c.A for rdata in rrset.rdatas()}
            # A forging server may answer anything for its own names, but nothing for those of others.
            if self._demanding and addresses != {ANSWER}:
                counts.wrong += 1
                counts.note(f"{name}: a forged address")
            counts.answered += 1
            counts.slowest = max(counts.slowest, self._loop.time() - began)
        elif self._demanding and self._loop.time() - began < PERSISTENCE:
            counts.repeated += 1
            self._paused += 1
            self._loop.call_later(PAUSE, self._ask_again, name, began, attempt + 1)
            return
        else:
            counts.failed += 1
            if self._demanding:
                reasons = view.edns.options if view.edns is not None else ()
                counts.note(f"{name}: {c.rcode_to_text(view.rcode)} {reasons}")
        self._go_on()


@dataclass
class Process:
    """The daemon's figures in /proc."""

    pid: int
    resident: float = 0.0
    descriptors: int = 0

    def look(self) -> tuple[float, int]:
        """Return resident MiB and open descriptors; the highest values are stored."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
        self.resident = max(self.resident, resident)
        self.descriptors = max(self.descriptors, descriptors)
        return resident, descriptors


def configuration(folder: Path, port: int, upstream_port: int, anchor: str) -> Path:
    """Write the daemon's configuration and root hints."""
    (folder / "root.hints").write_text(f". 3600000 NS ns.\nns. 3600000 A {ROOT_ADDRESS}\n")
    path = folder / "resolverd.toml"
    path.write_text(f"""\
root-hints-file = "{folder / 'root.hints'}"
[server]
listen = ["127.0.0.1:{port}"]
[cache]
size = "{CACHE_MIB} MiB"
[iteration]
upstream-port = {upstream_port}
do-not-query-localhost = false
do-ip6 = false
[dnssec]
trust-anchors = ["{anchor}"]
""")
    return path


async def load(
    port: int, seconds: float, process: Process, opened: int, seed: int
) -> tuple[dict[str, Counts], int]:
    """Send queries for `seconds`. Returns the counts of each kind of load, and the open descriptors when they are down
    to `opened` again after the load, or after `SETTLE_SECONDS`."""
    draw = random.Random(seed)
    loop = asyncio.get_running_loop()
    counts = {"cached": Counts(), "new": Counts(), "sick": Counts()}
    healthy, sick = list(HEALTHY), list(FAULTY)

    def fresh(zones: list[str]) -> str:
        return f"n{draw.getrandbits(40):x}.{draw.choice(zones)}"

    kinds = (
        ("cached", "127.31.100.1", 32, lambda: f"hit{draw.randrange(HIT_NAMES)}.good.soak.", True),
        ("new", "127.31.100.2", 48, lambda: fresh(healthy), True),
        ("sick", "127.31.100.3", 200, lambda: fresh(sick), False),
    )
    askers: list[Asker] = []
    transports: list[asyncio.DatagramTransport] = []
    for kind, address, window, next_name, demanding in kinds:
        transport, asker = await loop.create_datagram_endpoint(
            lambda counts=counts[kind], window=window, next_name=next_name, demanding=demanding:
                Asker(counts, window, next_name, demanding=demanding),
            local_addr=(address, 0), remote_addr=("127.0.0.1", port),
        )
        askers.append(asker)
        transports.append(transport)
    end = loop.time() + seconds
    said = loop.time() + REPORT_SECONDS
    while loop.time() < end:
        await asyncio.sleep(min(1.0, max(0.0, end - loop.time())))
        resident, descriptors = process.look()
        if loop.time() >= said:
            said += REPORT_SECONDS
            print(f"{end - loop.time():6.0f} s left: {resident:.0f} MiB, {descriptors} descriptors, "
                  f"{ {kind: one.answered for kind, one in counts.items()} }", flush=True)
    for asker in askers:
        asker.stopped = True
    async with asyncio.timeout(PERSISTENCE + 2 * TIMEOUT):
        for asker in askers:
            await asker.empty.wait()
    for transport in transports:
        transport.close()
    deadline = loop.time() + SETTLE_SECONDS
    _, left = process.look()
    while left > opened and loop.time() < deadline:
        await asyncio.sleep(0.5)
        left = min(left, process.look()[1])
    return counts, left


def soak(seconds: float, folder: Path, seed: int = 1) -> list[str]:
    """Run the test; returns the failures."""
    port, upstream_port = free_port(), free_port(ROOT_ADDRESS)
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{PACKAGES}", "PYTHONUNBUFFERED": "1"}
    log = folder / "resolverd.log"
    upstream = subprocess.Popen([sys.executable, "-m", "support.faulty", str(upstream_port)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, env=environment)
    assert upstream.stdout is not None
    assert upstream.stdin is not None
    try:
        ready, _, anchor = upstream.stdout.readline().decode().strip().partition(" ")
        assert ready == "ready", "the faulty name servers did not start"
        config = configuration(folder, port, upstream_port, anchor)
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "resolver.daemon", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            )
        try:
            wait_until(lambda: b"serving" in log.read_bytes(), "the daemon's start", process=daemon, log=log)
            process = Process(daemon.pid)
            first, opened = process.look()
            with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
                counts, left = runner.run(load(port, seconds, process, opened, seed))
            used = sum(float(part) for part in Path(f"/proc/{daemon.pid}/schedstat").read_text().split()[:1]) / 1e9
            daemon.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            status: int | None
            try:
                status = daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            stopped = time.monotonic() - asked
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
    finally:
        upstream.stdin.close()
        upstream.stdout.close()
        upstream.wait(STOP_SECONDS)
    print(f"{seconds:.0f} s, {used:.0f} s of CPU; memory {first:.0f} MiB at the start, {process.resident:.0f} at most; "
          f"descriptors {opened} at the start, {process.descriptors} at most, {left} at the end; "
          f"stopped in {stopped:.2f} s with status {status}")
    for kind, one in counts.items():
        print(f"{kind}: {one.asked} queried, {one.answered} answered, {one.failed} failed, {one.silent} without reply, "
              f"{one.repeated} repeated, {one.wrong} wrong, slowest {one.slowest * 1000:.0f} ms")
    return find_problems(counts, process, first, opened, left, status, log.read_text(errors="replace"))


def find_problems(
    counts: dict[str, Counts], process: Process, first: float, opened: int, left: int, status: int | None, log: str
) -> list[str]:
    """Return the violated conditions of a run."""
    wrong = [f"{kind}: {text}" for kind, one in counts.items() for text in one.examples]
    for kind in ("cached", "new"):
        one = counts[kind]
        if not one.answered or one.failed or one.silent:
            wrong.append(f"{kind}: {one.answered} of {one.asked} healthy names were answered")
        if one.repeated > one.asked * REPEATED_PART:
            wrong.append(f"{kind}: {one.repeated} of {one.asked} healthy names had to be queried again")
    if not counts["sick"].answered:
        wrong.append("faulty: no name was answered, although lossy and slow servers do answer in the end")
    if process.resident > first + CACHE_MIB + MEMORY_MIB:
        wrong.append(f"memory grew from {first:.0f} to {process.resident:.0f} MiB with a cache of {CACHE_MIB}")
    if left > opened:
        wrong.append(f"{left} descriptors are left of {opened} at the start")
    if status != 0:
        wrong.append(f"SIGTERM ended it with {status}")
    for word in ("Traceback", "level=error", "level=critical", "traceback="):
        if word in log:
            at = log.index(word)
            wrong.append(f"the log says {word}: {log[max(0, at - 300):at + 1200]}")
            break
    return wrong


def main() -> int:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description="soak resolverd")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that started processes are ended
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wrong = soak(options.seconds, Path(folder), options.seed)
    for text in wrong:
        print(f"WRONG {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
