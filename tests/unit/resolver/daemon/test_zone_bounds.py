"""What primaries and secondaries can make this server do: turns of a transfer, transfers and NOTIFY at a time."""

import asyncio
import itertools
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.zone_replies import Direct
from support.zone_versions import ORIGIN, difference, version

from resolver import limits
from resolver.daemon import zone_keeper
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.net import zone_client
from resolver.net.dns_connection import DnsConnection
from resolver.net.zone_client import ZoneClient
from resolver.net.zone_server import ZoneServer
from resolver.settings import Settings, ZoneSettings, ZonesSettings
from resolver.upstream_address import UpstreamAddress
from resolver.wire import consts as c
from resolver.wire.build import Builder, make_query
from resolver.zones import Mode, ServedZone, ZoneTable, outgoing
from resolver.zones.outgoing import History
from resolver.zones.transfer import Transfer, TransferError, make_transfer_query
from resolver.zones.zone import Difference

NOW = 1_800_000_000


def served() -> ZoneTable:
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), NOW + 100)
    return table


def reply(query: bytes, qtype: int, *sets: Any) -> bytes:
    builder = Builder()
    builder.start(int.from_bytes(query[:2], "big"), c.QR | c.AA, ORIGIN, qtype)
    for one in sets:
        assert builder.add(c.ANSWER, one)
    return builder.finish()


# --- incoming -------------------------------------------------------------------------------------------------------


def test_messages_that_have_arrived_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs others meanwhile: a primary may send a million small messages at once."""
    monkeypatch.setattr(limits, "ZONE_EMPTY_MESSAGES", 1 << 30)
    zone, count = version(5, 2), 4 * limits.STREAM_TURN_MESSAGES
    taken: list[int] = []
    whole = Transfer.feed

    def feed(self: Transfer, message: bytes, now: int) -> bool:
        taken.append(turns)
        return whole(self, message, now)

    monkeypatch.setattr(Transfer, "feed", feed)
    turns = 0

    class Reader:
        """All messages are there: reading never waits."""

        def __init__(self) -> None:
            self.data = b""

        def add(self, packet: bytes) -> None:
            self.data += len(packet).to_bytes(2, "big") + packet

        async def readexactly(self, size: int) -> bytes:
            data, self.data = self.data[:size], self.data[size:]
            return data

    reader = Reader()

    class Writer:
        class transport:
            abort = staticmethod(lambda: None)

        def write(self, data: bytes) -> None:
            query = data[2:]
            if not reader.data and not taken and not hasattr(self, "asked"):
                self.asked = True
                reader.add(reply(query, c.SOA, zone.soa))
                return
            reader.add(reply(query, c.AXFR, zone.soa, *zone.sets()))
            for _ in range(count):
                reader.add(reply(query, c.AXFR))
            reader.add(reply(query, c.AXFR, zone.soa))

    async def connect(*_: object) -> tuple[Reader, Writer]:
        return reader, Writer()

    monkeypatch.setattr(ZoneClient, "_connect", connect)

    async def main() -> None:
        nonlocal turns
        client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)
        fetch = asyncio.ensure_future(client.fetch(ORIGIN, UpstreamAddress("192.0.2.1", 53, None), None, None))
        while not fetch.done():
            turns += 1
            await asyncio.sleep(0)
        assert (await fetch).serial == 5

    asyncio.run(main())
    assert len(taken) == count + 2
    most = max(taken.count(turn) for turn in set(taken))
    assert most <= limits.STREAM_TURN_MESSAGES


def test_messages_without_records_are_limited() -> None:
    transfer, zone = Transfer(ORIGIN, 7, None), version(5, 2)
    query = make_query(7, ORIGIN, c.AXFR)
    assert not transfer.feed(reply(query, c.AXFR, zone.soa), NOW)
    for _ in range(limits.ZONE_EMPTY_MESSAGES):
        assert not transfer.feed(reply(query, c.AXFR), NOW)
    with pytest.raises(TransferError, match="messages without records"):
        transfer.feed(reply(query, c.AXFR), NOW)


# --- outgoing -------------------------------------------------------------------------------------------------------


class Slow:
    """A secondary that reads one message, and no more until `end`."""

    stream = takes_many = True

    def __init__(self) -> None:
        self.rcodes: list[int] = []
        self.packets: Iterator[bytes] | None = None

    def send(self, packet: bytes, peer: object) -> None:
        self.rcodes.append(packet[3] & 15)

    def send_many(self, packets: Iterator[bytes], peer: object) -> bool:
        self.packets = packets
        self.send(next(packets), peer)
        return True


def test_transfers_at_a_time_are_limited() -> None:
    settings = Settings(
        zones=ZonesSettings(directory="/unused"),
        zone=(ZoneSettings(name="e.test.", primaries=("192.0.2.1",), allow_transfer=("198.51.100.0/24",)),),
    )
    table = served()
    server = ZoneServer(settings, table, lambda _: None, lambda: NOW, lambda _: None, Direct())

    def ask(host: int) -> Slow:
        sink = Slow()
        assert server.handle(make_query(7, ORIGIN, c.AXFR, edns_payload=None), (f"198.51.100.{host}", 53), sink)
        return sink

    def ask_for_changes(host: int) -> list[int]:
        sink = Slow()
        current = version(5, 2)
        assert server.handle(make_transfer_query(ORIGIN, 7, current), (f"198.51.100.{host}", 53), sink)
        return sink.rcodes

    each, most = limits.ZONE_TRANSFERS_OUT_EACH, limits.ZONE_TRANSFERS_OUT
    first = [ask(1) for _ in range(each + 1)]
    assert [sink.rcodes for sink in first] == [[0]] * each + [[c.SERVFAIL]], "one address leaves room for others"
    others = [ask(2 + number // each) for number in range(most - each)]
    assert [sink.rcodes for sink in others] == [[0]] * len(others)
    assert ask(200).rcodes == [c.SERVFAIL]
    assert ask_for_changes(1) == [0], "a secondary that is up to date gets the SOA record alone"
    assert list(first[0].packets or ()) == []  # read to the end
    later = [ask(200)]
    first[1].packets = None  # its connection has ended
    later += [ask(201), ask(202)]
    assert [sink.rcodes for sink in later] == [[0], [0], [c.SERVFAIL]]
    assert server.transfers == most + 3 and server.refused == 3
    [before] = server.memory()
    new = version(6, 2, 3)
    old = table.get(ORIGIN).zone  # type: ignore[union-attr]
    table.put(ORIGIN, new, NOW + 100)
    [after] = server.memory()
    assert old is not None
    assert (before.octets, after.octets) == (0, old.memory), "once, however many read it"


class Clock:
    """A listener of which only the time counts."""

    message_timeout, idle_timeout = 5.0, 1e9

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


def test_a_transfer_that_is_read_slowly_ends() -> None:
    """Each message is read in time, but the version that is sent stays in memory."""
    connection: Any = object.__new__(DnsConnection)
    DnsConnection.__init__(connection, Clock())  # type: ignore[arg-type]
    connection.waiting = 1
    seconds = limits.ZONE_TRANSFER_TIMEOUT / 1000
    assert not connection.is_late(2 * seconds)
    connection._listener.time = 50.0
    connection._write_blocked_since = 50.0
    assert connection.send_many(iter([b"", b""]), ("", 0)) and not connection.takes_many
    connection._write_blocked_since = None
    assert not connection.is_late(50 + seconds) and connection.is_late(51 + seconds)


def test_the_history_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secondary may name any serial, in many queries on one connection."""
    versions = [version(serial, *range(2, 4 + serial % 3)) for serial in range(1, 41)]
    steps = [difference(old, new) for old, new in itertools.pairwise(versions)]
    history = History()
    history.extend(steps[:20])
    monkeypatch.setattr(limits, "ZONE_HISTORY", history._records)
    history.extend(steps[20:])
    held = len(history._differences)
    assert 10 < held < 30
    with monkeypatch.context() as patched:
        patched.setattr(outgoing, "soa_fields", None)  # no SOA record is looked at
        for serial in range(60):
            wanted = steps[serial - 1:] if len(steps) - held < serial <= len(steps) else []
            assert history.since(serial) == wanted, serial
    assert len(history._numbers) == held == len(history._sizes)


def test_of_many_differences_only_those_that_stay_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [version(serial, *range(2, 4 + serial % 3)) for serial in range(1, 201)]
    steps = [difference(old, new) for old, new in itertools.pairwise(versions)]
    whole = History()
    whole.extend(steps[:20])
    monkeypatch.setattr(limits, "ZONE_HISTORY", whole._records)
    looked_at = 0
    real = outgoing._octets_of

    def octets_of(step: Any) -> int:
        nonlocal looked_at
        looked_at += 1
        return real(step)

    monkeypatch.setattr(outgoing, "_octets_of", octets_of)
    whole.extend(steps[20:])
    one_by_one = History()
    before = looked_at
    for step in steps:
        one_by_one.add(step)
    assert before < 40 < 199 == looked_at - before
    assert list(whole._differences) == list(one_by_one._differences)
    assert (whole._records, whole.octets) == (one_by_one._records, one_by_one.octets)
    assert [whole.since(serial) for serial in range(202)] == [one_by_one.since(serial) for serial in range(202)]


class Records(list[Any]):
    """Records whose end a weak reference shows."""


@pytest.mark.parametrize("whole", [False, True])
def test_what_a_following_history_does_not_have_is_freed_outside_the_loop(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    versions = [version(serial, *range(2, 4 + serial % 3)) for serial in range(1, 41)]
    steps = [Difference(Records(step.removed), Records(step.added))
             for step in itertools.starmap(difference, itertools.pairwise(versions))]
    ends = [weakref.ref(step.removed) for step in steps]
    history, expected = History(), History()
    history.extend(steps[:20])
    monkeypatch.setattr(limits, "ZONE_HISTORY", history._records)
    expected.extend(steps[20:30] if whole else steps[:30])
    made = history.following(steps[20:30], whole=whole)
    assert [history.since(serial) for serial in range(1, 21)] == [steps[serial - 1:20] for serial in range(1, 21)]
    assert [made.since(serial) for serial in range(60)] == [expected.since(serial) for serial in range(60)]
    assert (made._records, made.octets, made._sizes) == (expected._records, expected.octets, expected._sizes)
    held = len(made._differences)
    assert held == 10 if whole else 10 < held < 30
    del expected, steps
    free = history.retire(made)
    assert not history.since(5) and (history._records, history.octets) == (0, 0)
    assert all(end() is not None for end in ends[:30]), "not yet"
    free()
    assert [end() is not None for end in ends[:30]] == [number >= 30 - held for number in range(30)]
    after = made.following([], whole=True)
    assert not after.since(29) and after.octets == 0


def test_a_difference_is_freed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each list of records that is freed at once is short."""
    monkeypatch.setattr(limits, "ZONE_FREED", 3)
    alive = 20
    at_once: list[int] = []

    class Record(tuple[Any, ...]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def trace(frame: Any, _event: str, _argument: object) -> Any:
        if frame.f_code is not outgoing._free_first.__code__:
            return None
        at_once.append(alive)
        return trace

    differences = deque([Difference([Record((n,)) for n in range(10)], [Record((n,)) for n in range(10)])])
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        outgoing._free_first(differences)
    finally:
        sys.settrace(before)
    at_once.append(alive)
    assert at_once[0] == 20 and at_once[-1] == 0
    assert max(one - other for one, other in itertools.pairwise(at_once)) == 3


# --- NOTIFY ---------------------------------------------------------------------------------------------------------


def test_a_newer_notify_replaces_the_one_that_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each holds a socket for more than a minute when the secondary is silent."""
    sent: list[tuple[str, bytes]] = []
    running = most = 0

    async def send_notify(target: UpstreamAddress, packet: bytes, *_: object) -> bool:
        nonlocal running, most
        sent.append((target.address, packet))
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
        return True

    monkeypatch.setattr(zone_keeper, "send_notify", send_notify)
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)), zone=(
        ZoneSettings(name="e.test.", primaries=("192.0.2.1",), notify=("192.0.2.7", "192.0.2.8")),))

    async def main() -> None:
        keeper = ZoneKeeper(settings, served(), None, leads=True, now=lambda: NOW, changed=lambda _: None,
                            flush=lambda _: None, directory=tmp_path)
        status = keeper._zones[ORIGIN]
        for serial in range(5, 12):
            keeper._notify(status, version(serial, 2))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert running == 2 and most <= 4 and len(status.notifying) == 2
        keeper.stop()
        while keeper._tasks:
            await asyncio.sleep(0)
        assert not status.notifying and not running

    asyncio.run(main())
    assert {address for address, _ in sent} == {"192.0.2.7", "192.0.2.8"}
    last = [packet for address, packet in sent if address == "192.0.2.7"][-1]
    assert last[12:] == zone_client.notify_message(version(11, 2), 0, None, NOW)[12:]
