"""The time of handshakes: how much of a worker's they take, in which order they begin, and which are dropped."""

import asyncio
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver import limits
from resolver.net.client_hello import ClientHello
from resolver.net.handshake_budget import HandshakeBudget

MICRO = 1e-6


class Clocks:
    """The time of a worker: `sleep`, `work` and `shake` let it pass."""

    def __init__(self) -> None:
        self.wall = self.slept = self.shaken = 0.0

    def sleep(self, micros: float) -> None:
        self.wall += micros * MICRO
        self.slept += micros * MICRO

    def work(self, micros: float) -> None:
        self.wall += micros * MICRO

    def shake(self, micros: float) -> None:
        self.work(micros)
        self.shaken += micros * MICRO

    def budget(self) -> HandshakeBudget:
        return HandshakeBudget(wall=lambda: self.wall, slept=lambda: self.slept, measured=lambda: self.shaken)


class Worker:
    """A connection that records its calls."""

    def __init__(self, network: str, noted: list[str], name: str = "") -> None:
        self.network = network
        self.noted = noted
        self.name = name or network

    def begin_handshake(self) -> None:
        self.noted.append(self.name)

    def drop_handshake(self) -> None:
        self.noted.append(f"-{self.name}")


def drive(budget: HandshakeBudget) -> None:
    """What the loop does between two polls: the timer, if one is set, and the callbacks."""
    if budget._timer is not None:
        budget._timer.cancel()
        budget._turn()
    while budget._settling:
        budget._settle()


async def share(*, demand: float, cost: float, seconds: float = 3.0) -> tuple[float, float]:
    """The parts of a worker's time that other work and handshakes get, in a flood. Other work comes in pieces of 100 us
    and needs the part `demand` of the time; handshakes cost `cost` us."""
    clocks = Clocks()
    budget = clocks.budget()
    begun: list[str] = []
    done = worked = 0.0
    while clocks.wall < seconds:
        before = clocks.wall
        if budget.acceptable() > 0:
            budget.accepted()
            clocks.work(limits.HANDSHAKE_ACCEPT_COST)
            budget.enter(Worker("attacker", begun))
        drive(budget)
        for name in begun:
            if not name.startswith("-"):
                clocks.shake(cost)
                done += cost * MICRO
        begun.clear()
        if worked < demand * clocks.wall:
            clocks.work(100)
            worked += 100 * MICRO
        elif clocks.wall == before:
            clocks.sleep(20)
    return worked / clocks.wall, done / clocks.wall


@pytest.mark.parametrize("cost", [100, 300, 2000])
def test_a_busy_worker_gives_handshakes_little_time(cost: float) -> None:
    work, shaken = asyncio.run(share(demand=1.0, cost=cost))
    assert work > 0.85 and 0.01 < shaken < 0.08


@pytest.mark.parametrize("demand", [0.2, 0.5])
def test_other_work_gets_the_time_it_needs(demand: float) -> None:
    work, shaken = asyncio.run(share(demand=demand, cost=300))
    assert work > 0.95 * demand and shaken > 0.1


def test_an_idle_worker_gives_handshakes_most_of_its_time() -> None:
    work, shaken = asyncio.run(share(demand=0.0, cost=300))
    assert work == 0 and shaken > 0.3


def test_started_and_unmeasured_handshakes_count() -> None:
    """Many first flights in one iteration of the loop do not begin all at once."""

    async def body() -> None:
        clocks, begun = Clocks(), []  # type: ignore[var-annotated]
        budget = clocks.budget()
        for _ in range(100):
            clocks.work(20)
            budget.enter(Worker("a", begun))
        assert 0 < len(begun) <= limits.HANDSHAKE_BURST / limits.HANDSHAKE_COST + 1
        assert budget.waiting == 100 - len(begun)
        budget._timer.cancel()  # type: ignore[union-attr]

    asyncio.run(body())


def test_networks_take_turns_and_the_newest_of_the_largest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKES_WAITING", 4)

    async def body() -> None:
        clocks, noted = Clocks(), []  # type: ignore[var-annotated]
        budget = clocks.budget()
        budget.charge(1.0)
        for name in ("a1", "a2", "a3", "b1", "a4", "b2", "c1"):
            budget.enter(Worker(name[0], noted, name))
        assert noted == ["-a4", "-a3", "-a2"] and budget.waiting == 4
        gone = Worker("d", noted)
        budget.remove(gone)  # it does not wait
        assert budget.waiting == 4
        noted.clear()
        clocks.sleep(10_000_000)
        drive(budget)
        assert noted == ["a1", "b1", "c1", "b2"] and budget.waiting == 0 and budget._timer is None

    asyncio.run(body())


def test_ended_connections_start_no_handshake() -> None:
    async def body() -> None:
        clocks, noted = Clocks(), []  # type: ignore[var-annotated]
        budget = clocks.budget()
        budget.charge(1.0)
        workers = [Worker("a", noted, name) for name in ("1", "2")]
        for worker in workers:
            budget.enter(worker)
        budget.remove(workers[0])
        clocks.sleep(10_000_000)
        drive(budget)
        assert noted == ["2"]

    asyncio.run(body())


def test_the_time_for_accepting_recovers() -> None:
    clocks = Clocks()
    budget = clocks.budget()

    async def body() -> None:
        most = budget.acceptable()
        assert most == limits.HANDSHAKE_BURST // limits.HANDSHAKE_ACCEPT_COST
        for _ in range(most + 1):
            budget.accepted()
        assert -limits.HANDSHAKE_WAIT_MAX <= budget.acceptable() <= -limits.HANDSHAKE_WAIT_MIN
        clocks.sleep(limits.HANDSHAKE_BURST)
        assert budget.acceptable() >= 1

    asyncio.run(body())


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="dns.example").do_handshake()
    return outgoing.read()


def hello_complete(data: bytes) -> bool:
    return ClientHello().feed(data)


def test_a_client_hello_in_many_segments_is_parsed_once() -> None:
    """A client divides records and segments as it likes; each segment must cost the same."""

    class Counted(bytes):
        """Octets that count how often one of them is looked at."""

        looks = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
            Counted.looks += 1
            return super().__getitem__(index)

        def __add__(self, other: bytes) -> "Counted":
            return Counted(bytes(self) + other)

    reader = ClientHello()
    reader.data = Counted()
    records = 2000
    assert not reader.feed(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff")
    for _ in range(records):
        assert not reader.feed(b"\x16\x03\x01\x00\x01x")
    assert records < Counted.looks < 10 * records


def test_a_hello_is_complete_with_its_last_octet() -> None:
    octets = hello()
    assert not any(hello_complete(octets[:size]) for size in range(len(octets)))
    assert hello_complete(octets) and hello_complete(octets + b"more")


@given(st.integers(4, 100), st.integers(1, 100))
def test_a_hello_in_several_records(first: int, step: int) -> None:
    octets = hello()
    body = octets[5:]
    cuts = [body[:first], *(body[at:at + step] for at in range(first, len(body), step))]
    records = b"".join(b"\x16\x03\x01" + len(cut).to_bytes(2, "big") + cut for cut in cuts if cut)
    if len(records) < limits.TLS_HELLO_OCTETS:
        assert hello_complete(records) and not hello_complete(records[:-1])


@given(st.binary(max_size=64))
def test_other_first_bytes_are_passed_to_openssl(data: bytes) -> None:
    if data and data[0] != 22:
        assert hello_complete(data)
    # More octets never make a complete one incomplete, and there is a bound on what is collected.
    for size in range(len(data)):
        assert not hello_complete(data[:size]) or hello_complete(data)
    assert hello_complete(data + bytes(limits.TLS_HELLO_OCTETS + (1 << 16)))
