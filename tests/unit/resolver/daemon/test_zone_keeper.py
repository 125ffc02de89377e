"""The keeper of zones without a network: digests by policy, files after a crash, and damaged copies."""

import asyncio
import errno
import fcntl
import gc
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loop_clock import stopped_clock
from support.waiting import spin, turns
from support.zone_versions import ORIGIN, difference, version

from resolver import limits
from resolver.daemon import zone_files, zone_keeper, zone_status
from resolver.daemon.zone_files import ZoneFiles, file_name, read_memory, write_to_memory
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.net.zone_client import Fetched, ZoneClient
from resolver.settings import Settings, ZoneSettings, ZonesSettings
from resolver.upstream_address import UpstreamAddress
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.zones import Mode, ServedZone, Zone, ZoneTable, outgoing
from resolver.zones.journal import Saved, content_block, difference_block, read_journal
from resolver.zones.load import read_zone
from resolver.zones.outgoing import transfer_messages
from resolver.zones.transfer import Transfer, TransferError

NOW = 1_800_000_000
TEXT = "$TTL 300\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
WRONG = TEXT + "@ ZONEMD 7 1 1 " + "ab" * 48 + "\n"


def keep(tmp_path: Path, zone: ZoneSettings, *, table: ZoneTable | None = None) -> tuple[ZoneTable, dict[str, object]]:
    """Start a keeper that does not lead, so that it queries no primary; returns table and state."""
    table, state, _ = started(tmp_path, zone, table)
    return table, state


def started(
    tmp_path: Path, zone: ZoneSettings, table: ZoneTable | None
) -> tuple[ZoneTable, dict[str, object], list[str]]:
    """As `keep`, with the problems that it reports."""
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)), zone=(zone,))
    table = table or ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)

    async def main() -> tuple[dict[str, object], list[str]]:
        keeper = ZoneKeeper(settings, table, None, leads=False, now=lambda: NOW, changed=lambda _: None,
                            flush=lambda _: None, directory=tmp_path)
        await keeper.start()
        keeper.stop()
        return keeper.describe()[0], keeper.problems()

    return table, *asyncio.run(main())


@pytest.mark.parametrize(("text", "policy", "error"), [
    (TEXT, "if-present", ""),
    (TEXT, "required", "no usable ZONEMD record"),
    (WRONG, "if-present", "differs from its ZONEMD record"),
    (WRONG, "off", ""),
])
def test_the_digest_is_checked_by_policy(tmp_path: Path, text: str, policy: str, error: str) -> None:
    (tmp_path / "file").write_text(text)
    zone = ZoneSettings(name="e.test.", file=str(tmp_path / "file"), zonemd=policy)
    _, state = keep(tmp_path, zone)
    assert state["serial"] == (None if error else 7)
    assert state["state"] == ("failed" if error else "serving")
    assert error in str(state["error"])


NEW = b"\x03new\x04test\x00"
SECONDARY = ZoneSettings(name="e.test.", primaries=("192.0.2.1",))


def test_a_copy_serves_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "e.test.zone"
    for confirmed, expected in ((NOW - 86_399, "serving"), (NOW - 86_400, "expired")):
        path.write_bytes(content_block(version(5, 2), confirmed))
        assert keep(tmp_path, SECONDARY)[1]["state"] == expected


def test_a_partly_written_version_is_dropped(tmp_path: Path) -> None:
    block = difference_block(difference(version(5, 2), version(6, 3)), NOW)
    for size in (0, 1, len(block) // 2, len(block) - 1, len(block)):
        (tmp_path / "e.test.zone").write_bytes(content_block(version(5, 2), NOW) + block[:size])
        assert keep(tmp_path, SECONDARY)[1]["serial"] == (6 if size == len(block) else 5)


def test_a_damaged_copy_changes_nothing(tmp_path: Path) -> None:
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(4, 2), NOW + 9)
    (tmp_path / "e.test.zone").write_bytes(b"nonsense")
    assert keep(tmp_path, SECONDARY, table=table)[1]["serial"] == 4


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    _, state = keep(tmp_path, ZoneSettings(name="e.test.", file=str(tmp_path / "missing")))
    assert state["state"] == "failed"
    assert f"{tmp_path}/missing: No such file" in str(state["error"])


def test_a_zone_file_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(f"{TEXT}$INCLUDE {path}\n")
    before = len(os.listdir("/proc/self/fd"))
    _, state = keep(tmp_path, ZoneSettings(name="e.test.", file=str(path)))
    assert f"{path}:5: $INCLUDE is nested more than 16 times" in str(state["error"])
    assert len(os.listdir("/proc/self/fd")) <= before
    (tmp_path / "part").write_text("b A 192.0.2.7\n")
    path.write_text(f"{TEXT}$INCLUDE {tmp_path}/part sub.e.test.\n$INCLUDE {tmp_path}/part\n")
    assert keep(tmp_path, ZoneSettings(name="e.test.", file=str(path)))[1]["records"] == 5


def test_each_zone_has_a_file_of_its_own() -> None:
    zones = [".", "root.", "a/b.test.", "a_b.test.", "a%2Fb.test.", "a\\\\b.test.", "\\..test.",
             "\\000.test.", ".".join(["\\200" * 60] * 4) + ".", ".".join(["\\200" * 60] * 3 + ["\\201" * 60]) + "."]
    found = [file_name(names.from_text(zone)) for zone in zones]
    assert len(set(found)) == len(found)
    assert all("/" not in one and not one.startswith(".") and len(one) <= 200 for one in found), found
    assert file_name(names.from_text("corp.example.")) == "corp.example"


def test_zones_during_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new process gets what it has no copy of. When it is the main one, it reads what the old one has written, and
    queries the primary, whose NOTIFY the old one may have got."""
    asked: list[tuple[str, int | None]] = []
    changes = asyncio.Queue[bytes]()

    async def fetch(
        self: ZoneClient, origin: bytes, primary: UpstreamAddress, key: object, zone: Zone | None
    ) -> Fetched:
        asked.append((primary.address, None if zone is None else zone.serial))
        return Fetched(7, version(7, 2), [], 100)

    monkeypatch.setattr(ZoneClient, "fetch", fetch)
    settings = Settings(
        zones=ZonesSettings(directory=str(tmp_path)),
        zone=(SECONDARY, ZoneSettings(name="new.test.", primaries=("192.0.2.2",))),
    )
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE), ServedZone(NEW, Mode.AUTHORITATIVE)], lambda: NOW)
    (tmp_path / "e.test.zone").write_bytes(content_block(version(5, 2), NOW - 7200))  # its refresh is due
    is_main = False

    async def main() -> None:
        nonlocal is_main
        keeper = ZoneKeeper(settings, table, None, leads=True, now=lambda: NOW, changed=changes.put_nowait,
                            flush=lambda _: None, directory=tmp_path, main=lambda: is_main)
        await keeper.start()
        keeper.take_notify(ORIGIN)
        async with asyncio.timeout(30):
            assert await changes.get() == NEW
            assert asked == [("192.0.2.2", None)] and keeper.describe()[0]["serial"] == 5
            (tmp_path / "e.test.zone").write_bytes(content_block(version(6, 2), NOW))
            is_main = True
            keeper.catch_up()
            assert {await changes.get(), await changes.get()} == {ORIGIN, NEW}
        assert sorted(asked[1:]) == [("192.0.2.1", 6), ("192.0.2.2", 7)]
        keeper.stop()
        keeper.catch_up()
        assert len(asked) == 3

    asyncio.run(main())


def test_the_next_primary_is_asked_when_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def fetch(self: ZoneClient, origin: bytes, primary: UpstreamAddress, *_: object) -> Fetched:
        asked.append(primary.address)
        if primary.address == "192.0.2.1":
            raise MemoryError
        return Fetched(5, version(5, 2), [], 100)

    monkeypatch.setattr(ZoneClient, "fetch", fetch)
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)),
                        zone=(ZoneSettings(name="e.test.", primaries=("192.0.2.1", "192.0.2.2")),))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    put = asyncio.Event()

    async def main() -> dict[str, object]:
        keeper = ZoneKeeper(settings, table, None, leads=True, now=lambda: NOW, changed=lambda _: put.set(),
                            flush=lambda _: None, directory=tmp_path)
        await keeper.start()
        async with asyncio.timeout(30):
            await put.wait()
        keeper.stop()
        return keeper.describe()[0]

    assert asyncio.run(main())["serial"] == 5
    assert asked == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    ("others", "asked", "serial", "state"),
    [
        ({"192.0.2.1": 5, "192.0.2.2": 7, "192.0.2.3": 8}, 2, 7, "serving"),
        ({"192.0.2.1": 5, "192.0.2.2": 5, "192.0.2.3": 0}, 3, 5, "serving"),
        ({"192.0.2.1": 0, "192.0.2.2": 5, "192.0.2.3": 6}, 3, 6, "serving"),
        ({"192.0.2.1": 0, "192.0.2.2": 0, "192.0.2.3": 0}, 3, 5, "failed"),
    ],
)
def test_all_primaries_are_asked_until_one_has_a_newer_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: dict[str, int],
    asked: int, serial: int, state: str,
) -> None:
    """The first of them may not have the change yet, or never get it. `others` are their serials, 0 without reply."""
    calls: list[str] = []

    async def fetch(origin: bytes, primary: UpstreamAddress, key: object, current: Zone | None) -> Fetched:
        calls.append(primary.address)
        theirs = others[primary.address]
        if not theirs:
            raise TransferError("no reply")
        assert current is not None
        return Fetched(theirs, version(theirs) if theirs > current.serial else None, [], 0)

    (tmp_path / "e.test.zone").write_bytes(content_block(version(5), NOW - 1000))
    monkeypatch.setattr(ZoneClient, "fetch", lambda _, *given: fetch(*given))
    monkeypatch.setattr(ZoneKeeper, "_schedule", lambda *_: None)
    config = Settings(zones=ZonesSettings(directory=str(tmp_path)),
                      zone=(ZoneSettings(name="e.test.", primaries=tuple(others)),))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)

    async def main() -> dict[str, Any]:
        keeper = ZoneKeeper(config, table, None, leads=True, now=lambda: NOW, changed=lambda _: None,
                            flush=lambda _: None, directory=tmp_path)
        await keeper.start()
        await refreshed(keeper)
        keeper.stop()
        return keeper.describe()[0]

    shown = asyncio.run(main())
    assert (shown["serial"], shown["state"], len(calls)) == (serial, state, asked)
    assert shown["age"] == (1000 if state == "failed" else 0)
    saved = read_journal((tmp_path / "e.test.zone").read_bytes(), ORIGIN)
    assert (saved.zone.serial, saved.confirmed) == (serial, NOW - shown["age"])
    silent = sum(not other for other in list(others.values())[:asked])
    assert caplog.text.count(": no reply") == silent
    assert caplog.text.count("refreshed, but not by all primaries") == bool(silent and state == "serving")


async def next_query(reader: asyncio.StreamReader) -> bytes:
    """The next query of a connection over TCP."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def soa_reply(query: bytes, zone: Zone) -> bytes:
    """The reply to a query for the SOA record."""
    builder = Builder()
    builder.start(int.from_bytes(query[:2], "big"), c.QR | c.AA, ORIGIN, c.SOA)
    builder.add(c.ANSWER, zone.soa)
    return builder.finish()


def test_a_primary_with_an_older_version_confirms_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = soa_reply(await next_query(reader), version(5))
        writer.write(len(packet).to_bytes(2, "big") + packet)
        await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            primary = UpstreamAddress("127.0.0.1", server.sockets[0].getsockname()[1], None)
            client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)
            with pytest.raises(TransferError, match=r"serial 5, older than ours \(6\)"):
                await client.fetch(ORIGIN, primary, None, version(6))
            await closed.wait()

    asyncio.run(main())


def test_what_cannot_be_written_is_served_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy that cannot be written: logged once, shown, given to other workers, and written when that is possible."""
    monkeypatch.setattr(limits, "ZONE_WRITE_RETRY", 1)
    caplog.set_level("INFO")

    async def fetch(self: ZoneClient, *_: object) -> Fetched:
        return Fetched(5, version(5, 2), [], 100)

    monkeypatch.setattr(ZoneClient, "fetch", fetch)
    obstacle = tmp_path / "e.test.zone"
    obstacle.mkdir()
    (obstacle / "file").touch()
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)), zone=(SECONDARY,))
    changes = asyncio.Queue[bytes]()

    def keeper(table: ZoneTable, *, leads: bool) -> ZoneKeeper:
        return ZoneKeeper(settings, table, None, leads=leads, now=lambda: NOW, changed=changes.put_nowait,
                          flush=lambda _: None, directory=tmp_path)

    async def main() -> None:
        tables = [ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW) for _ in range(2)]
        first, other = keeper(tables[0], leads=True), keeper(tables[1], leads=False)
        await first.start()
        await other.start()
        assert tables[1].answer(ORIGIN, c.SOA) is not None and other.describe()[0]["serial"] is None
        async with asyncio.timeout(30):
            await changes.get()
            assert first.describe()[0]["serial"] == 5 and first.unwritten == [ORIGIN]
            content = await first.open_content(ORIGIN)
            assert content is not None
            with pytest.raises(ValueError, match=r"'b\.test\.' is not the name of a configured zone"):
                other.take_content("b.test.", open(os.dup(content.fileno()), "rb"))
            for _ in range(2):  # the position in the file is that of all workers
                other.take_content("e.test.", open(os.dup(content.fileno()), "rb"))
                await asyncio.gather(*other._tasks)
            content.close()
            assert other.describe()[0]["serial"] == 5 and other.problems() == []
            while first.counts["write_failures"] < 3:
                await asyncio.sleep(0)
            later = keeper(tables[0], leads=True)  # a reload
            later.carry_over(first)
            first.stop()
            await later.start()
            [problem] = later.problems()
            where = f"cannot write '{obstacle}': Is a directory"
            assert problem.startswith(f"zone e.test.: {where}; it is served from memory")
            assert len([one for one in caplog.messages if where in one]) == 1
            (obstacle / "file").unlink()
            obstacle.rmdir()
            await changes.get()
            assert later.problems() == [] and later.unwritten == [] and await later.open_content(ORIGIN) is None
            assert "zone e.test.: serial 5 is on disk" in caplog.messages
            other.stop()
            later.stop()

    asyncio.run(main())
    assert keep(tmp_path, SECONDARY)[1]["serial"] == 5


def test_what_somebody_must_act_on(tmp_path: Path) -> None:
    path, file = tmp_path / "e.test.zone", tmp_path / "file"
    old = content_block(version(5, 2), NOW - 86_400)

    def found(zone: ZoneSettings, content: Zone | None = None, *, fallback: bool = False) -> list[str]:
        table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE, fallback=fallback)], lambda: NOW)
        if content is not None:
            table.put(ORIGIN, content, 0)
        return started(tmp_path, zone, table)[2]

    path.write_bytes(content_block(version(5, 2), NOW))
    assert found(SECONDARY) == []
    path.write_bytes(old)
    [expired] = found(SECONDARY)
    assert "zone e.test.: it is not served" in expired
    assert found(SECONDARY, fallback=True) == []
    file.write_text(TEXT)
    own = ZoneSettings(name="e.test.", file=str(file))
    assert found(own) == []
    file.write_text(TEXT + "x")
    [unusable] = found(own)
    assert "names get SERVFAIL: the zone file cannot be used" in unusable
    [kept] = found(own, version(4, 2))
    assert "the zone file cannot be used" in kept and "the content before it is served" in kept


def test_the_chain_of_proofs_is_made_before_a_zone_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds for a large zone, so that no query may wait for it."""
    made: list[tuple[int, bool]] = []
    whole = Zone.owners

    def owners(self: Zone, rtype: int) -> list[bytes]:
        if rtype == c.NSEC:
            made.append((self.serial, threading.current_thread() is threading.main_thread()))
        return whole(self, rtype)

    monkeypatch.setattr(Zone, "owners", owners)
    signature = "RRSIG {} 13 2 300 20380101000000 20200101000000 1 e.test. " + "A" * 86 + "=="
    text = f"{TEXT}@ {signature.format('SOA')}\n@ NSEC ns A NS SOA RRSIG NSEC\nns NSEC @ A RRSIG NSEC\n"
    (tmp_path / "file").write_text(text)
    table, _ = keep(tmp_path, ZoneSettings(name="e.test.", file=str(tmp_path / "file")))
    assert made == [(7, False)]
    answer = table.answer(names.from_text("a.e.test."), c.A)
    assert answer is not None and c.NSEC in [rrset.rtype for rrset in answer.authority]
    zone = Zone.from_records(ORIGIN, read_zone(io.StringIO(text.replace("host 7", "host 9")), "zone", ORIGIN))
    (tmp_path / "e.test.zone").write_bytes(content_block(zone, NOW))
    table, _ = keep(tmp_path, SECONDARY)
    assert table.answer(names.from_text("a.e.test."), c.A) is not None
    assert made == [(7, False), (9, False)]


def test_a_slow_primary_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[str] = []
    end = asyncio.Event()

    async def fetch(self: ZoneClient, origin: bytes, primary: UpstreamAddress, *_: object, **__: object) -> Fetched:
        running.append(primary.address)
        if primary.address == "192.0.2.1":
            await end.wait()
        return Fetched(5, None, [], 0)

    monkeypatch.setattr(ZoneClient, "_fetch", fetch)

    async def main() -> None:
        client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)
        slow, quick = (UpstreamAddress(address, 53, None) for address in ("192.0.2.1", "192.0.2.2"))
        waiting = [asyncio.create_task(client.fetch(ORIGIN, slow, None, None)) for _ in range(6)]
        async with asyncio.timeout(30):
            await asyncio.create_task(client.fetch(ORIGIN, quick, None, None))
            assert running == ["192.0.2.1"] * 2 + ["192.0.2.2"]
            end.set()
            await asyncio.gather(*waiting)

    asyncio.run(main())
    assert running.count("192.0.2.1") == 6


@pytest.mark.parametrize(("waits", "first", "minutes", "ends"), [
    (False, 100, 3, []), (True, 100, 3, ["192.0.2.1"]), (True, 100 << 20, 3, []),
    (False, 1 << 30, 12, []), (True, 1 << 30, 12, ["192.0.2.2"]),
])
def test_slow_primaries_together_leave_room_for_others(
    monkeypatch: pytest.MonkeyPatch, waits: bool, first: int, minutes: int, ends: list[str]
) -> None:
    """Two of them hold all slots. While no transfer waits, they may be slow; a fast transfer continues, except for the
    youngest when all are long."""
    octets = {"192.0.2.1": first, "192.0.2.2": 1 << 30}
    ended: list[str] = []

    class Writer:
        transport = mock.Mock()

    async def connect(*_: object) -> tuple[None, Writer]:
        return None, Writer()

    async def exchange(
        _: object, reader: None, writer: Writer, origin: bytes, key: None, current: None, running: Any, **__: object
    ) -> Fetched:
        address = names.to_text(origin)[:-1]
        if address in octets:
            running.octets = octets[address] + len(running_now)
            running_now.append(address)
            await asyncio.Event().wait()
        return Fetched(5, None, [], 0)

    running_now: list[str] = []
    monkeypatch.setattr(ZoneClient, "_connect", connect)
    monkeypatch.setattr(ZoneClient, "_exchange", exchange)

    async def main() -> None:
        client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)

        async def fetch(address: str) -> None:
            try:
                await client.fetch(names.from_text(address + "."), UpstreamAddress(address, 53, None), None, None)
            except TransferError as error:
                ended.append(f"{address}: {error}")

        with stopped_clock() as clock:
            slow: list[asyncio.Task[None]] = []
            for address in octets:
                slow += [asyncio.create_task(fetch(address)) for _ in range(2)]
                await spin(partial(lambda one: running_now.count(one) == 2, address), "two slots to be in use")
                clock.move(1)
            quick = [asyncio.create_task(fetch("192.0.2.3")) for _ in range(waits)]
            for _ in range(minutes):
                await turns()
                clock.move(limits.ZONE_SLOW_AFTER / 1000)
            if ends:
                await spin(lambda: all(task.done() for task in quick), "the other transfer")
            for task in [*slow, *quick]:
                task.cancel()
            await asyncio.gather(*slow, *quick, return_exceptions=True)
        assert not client._running and client._slots._value == limits.ZONE_TRANSFERS

    asyncio.run(main())
    assert ended == [f"{address}: it was slow or long, and transfers of other zones waited" for address in ends]


@pytest.mark.parametrize(("error", "text"), [
    (OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 53)"),
     "Connect call failed ('192.0.2.1', 53): Connection refused"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), os.strerror(errno.EMFILE)),
    (OSError("Multiple exceptions"), "Multiple exceptions"),
])
def test_a_failure_to_connect_has_its_reason(monkeypatch: pytest.MonkeyPatch, error: OSError, text: str) -> None:
    async def connect(*_: object) -> None:
        raise error

    monkeypatch.setattr(ZoneClient, "_connect", connect)
    client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)
    with pytest.raises(TransferError, match=f"^{re.escape(text)}$"):
        asyncio.run(client.fetch(names.from_text("z."), UpstreamAddress("192.0.2.1", 53, None), None, None))


def test_a_large_message_of_a_transfer_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 4,000 records takes several milliseconds."""
    threads: list[bool] = []
    whole = Transfer.feed

    def feed(self: Transfer, message: bytes, now: int) -> bool:
        threads.append(threading.current_thread() is not threading.main_thread())
        return whole(self, message, now)

    monkeypatch.setattr(Transfer, "feed", feed)
    many = [(names.from_text(f"h{number}.e.test."), c.A, 60, b"\xc0\0\2\1") for number in range(600)]
    zone = Zone.from_records(ORIGIN, [*version(5), *many])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for qtype in (c.SOA, c.AXFR):
            query = await next_query(reader)
            packets = list(transfer_messages(zone, ORIGIN, c.AXFR, int.from_bytes(query[:2], "big")))
            if qtype == c.SOA:
                packets = [soa_reply(query, zone)]
            for packet in packets:
                writer.write(len(packet).to_bytes(2, "big") + packet)
        await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()

    async def main() -> Fetched:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            primary = UpstreamAddress("127.0.0.1", server.sockets[0].getsockname()[1], None)
            client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)
            fetched = await client.fetch(ORIGIN, primary, None, None)
            await closed.wait()
            return fetched

    found = asyncio.run(main())
    assert found.zone is not None and found.zone.records == zone.records
    assert threads and all(threads)


class Steps:
    """A primary: the whole zone first, then one difference for each query."""

    def __init__(self) -> None:
        self.serial = 4

    async def fetch(self, origin: bytes, primary: UpstreamAddress, key: object, current: Zone | None) -> Fetched:
        self.serial += 1
        new = version(self.serial, *range(2, self.serial))
        if current is None:
            return Fetched(self.serial, new, [], 0)
        step = difference(current, new)
        return Fetched(self.serial, current.changed([step]), [step], 0)


def leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: ZoneFiles, primary: Steps, *, leads: bool = True,
    wanted: Callable[[bytes], None] = lambda _: None,
) -> tuple[ZoneKeeper, ZoneTable]:
    """A keeper that is refreshed only by the test."""
    monkeypatch.setattr(ZoneClient, "fetch", lambda _, *given: primary.fetch(*given))
    monkeypatch.setattr(ZoneKeeper, "_schedule", lambda *_: None)
    monkeypatch.setattr(ZoneKeeper, "_notify", lambda *_: None)
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)), zone=(SECONDARY,))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    return ZoneKeeper(settings, table, None, leads=leads, now=lambda: NOW, changed=lambda _: None, flush=lambda _: None,
                      directory=tmp_path, files=files, wanted=wanted), table


async def refreshed(keeper: ZoneKeeper) -> None:
    keeper.refresh("e.test.")
    await idle(keeper)


async def idle(keeper: ZoneKeeper) -> None:
    """Wait until it has no task."""
    while keeper._tasks:
        await asyncio.gather(*keeper._tasks)
        await asyncio.sleep(0)  # since Python 3.12 gather does not yield when all are done; their callbacks are due


def serial_of(table: ZoneTable) -> int | None:
    served = table.get(ORIGIN)
    return None if served is None or served.zone is None else served.zone.serial


def test_a_zone_counts_as_failed_while_the_next_try_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape during each try would otherwise restart the time of an alert."""
    seen: list[tuple[str, int]] = []

    class Failing(Steps):
        async def fetch(self, *given: Any) -> Fetched:
            statistics = keeper.statistics()
            seen.append((keeper.describe()[0]["state"], statistics["failed"]["e.test."]))
            if len(seen) == 3:
                return await super().fetch(*given)
            raise TransferError("no answer")

    async def main() -> None:
        nonlocal keeper
        keeper, _ = leader(tmp_path, monkeypatch, ZoneFiles(), Failing())
        for _ in range(3):
            await refreshed(keeper)
        assert keeper.statistics()["failed"] == {"e.test.": 0}
        keeper.stop()

    keeper: ZoneKeeper
    asyncio.run(main())
    assert seen == [("refreshing", 0), ("refreshing", 1), ("refreshing", 1)]


def test_differences_are_counted_and_freed_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a zone with 100,000 records take tens of milliseconds."""
    loop_thread = threading.get_ident()
    done: list[str] = []

    def note(what: str) -> None:
        real = getattr(outgoing, what)

        def noted(given: Any) -> Any:
            assert threading.get_ident() != loop_thread
            done.append(what)
            return real(given)

        monkeypatch.setattr(outgoing, what, noted)

    async def main() -> None:
        files, primary = ZoneFiles(), Steps()
        keeper, table = leader(tmp_path, monkeypatch, files, primary)
        await refreshed(keeper)
        note("_octets_of")
        note("_free_first")
        for _ in range(2):
            await refreshed(keeper)
        assert done == ["_octets_of"] * 2
        history = keeper.history_of(ORIGIN)
        assert history is not None and [len(history.since(serial)) for serial in (5, 6, 7)] == [2, 1, 0]
        keeper.reload("e.test.")  # the copy on disk has both; then the primary has one more
        await idle(keeper)
        assert Counter(done) == {"_octets_of": 5, "_free_first": 2} and serial_of(table) == 8
        keeper.stop()

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError(errno.EAGAIN, "the system gives no thread"), MemoryError()])
def test_without_a_thread_for_the_differences_the_content_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Secondaries then get the whole zone. Neither a copy on disk nor what a primary has sent is refused for that."""
    async def fail(*_: object) -> None:
        raise error

    async def main() -> None:
        keeper, table = leader(tmp_path, monkeypatch, ZoneFiles(), Steps())
        await refreshed(keeper)
        await refreshed(keeper)
        history = keeper.history_of(ORIGIN)
        assert history is not None and len(history.since(5)) == 1
        for again in (keeper.reload, keeper.refresh):
            with monkeypatch.context() as patched:
                patched.setattr(zone_status, "in_thread", fail)
                again("e.test.")
                await idle(keeper)
            [state] = keeper.describe()
            assert state["state"] == "serving" and not state["error"] and not keeper.counts["load_failures"]
            assert "e.test.: secondaries get all of it, because its differences cannot be kept: " in caplog.text
            await refreshed(keeper)
            serial = serial_of(table)
            history = keeper.history_of(ORIGIN)
            assert serial is not None and history is not None
            assert [len(history.since(serial - back)) for back in (1, 2)] == [1, 0]
        saved = read_journal((tmp_path / "e.test.zone").read_bytes(), ORIGIN)
        assert saved.zone.serial == serial and len(saved.differences) == serial - 5, "the file was not written anew"
        keeper.stop()

    asyncio.run(main())


def test_without_memory_to_free_differences_in_steps_they_are_freed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    problems: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        keeper, _ = leader(tmp_path, monkeypatch, ZoneFiles(), Steps())
        for _ in range(3):
            await refreshed(keeper)
        history = keeper.history_of(ORIGIN)
        assert history is not None
        given, real = history._differences, zone_keeper.in_thread

        async def no_call(function: Any, *rest: object) -> Any:
            if function.__name__ == "free":
                raise MemoryError
            return await real(function, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(outgoing, "_free_first", fail)
            keeper.reload("e.test.")  # with a history of its own
            await idle(keeper)
            assert not given
            patched.setattr(zone_keeper, "in_thread", no_call)
            keeper.reload("e.test.")
            await idle(keeper)
        assert keeper.describe()[0]["state"] == "serving"
        keeper.stop()

    asyncio.run(main())
    gc.collect()
    assert not problems


def test_a_reload_and_a_refresh_do_not_use_the_file_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload has read the file before the refresh appends to it, and ends after that."""
    reading, go, whole = threading.Event(), threading.Event(), zone_files._read_copy

    def slow(path: Path, origin: bytes) -> Saved | None:
        saved = whole(path, origin)
        reading.set()
        go.wait(60)
        return saved

    async def main() -> None:
        keeper, table = leader(tmp_path, monkeypatch, ZoneFiles(), Steps())
        await refreshed(keeper)
        monkeypatch.setattr(zone_files, "_read_copy", slow)
        keeper.reload("e.test.")
        await asyncio.to_thread(reading.wait)
        keeper.refresh("e.test.")
        while keeper.counts["refreshes"] < 2:
            await asyncio.sleep(0)
        await asyncio.to_thread(int)  # whatever the refresh does in a thread before it needs the file
        go.set()
        await idle(keeper)
        await refreshed(keeper)
        assert serial_of(table) == read_journal((tmp_path / "e.test.zone").read_bytes(), ORIGIN).zone.serial
        assert serial_of(table) is not None and serial_of(table) > 5
        keeper.stop()

    asyncio.run(main())


def test_a_new_configuration_waits_for_a_save_that_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go, whole = threading.Event(), threading.Event(), zone_files._write_copy

    def slow(*given: object) -> object:
        writing.set()
        go.wait(60)
        return whole(*given)  # type: ignore[arg-type]

    async def main() -> None:
        files, primary = ZoneFiles(), Steps()
        old, before = leader(tmp_path, monkeypatch, files, primary)
        await refreshed(old)
        monkeypatch.setattr(zone_files, "_write_copy", slow)
        old.refresh("e.test.")
        await asyncio.to_thread(writing.wait)
        new, table = leader(tmp_path, monkeypatch, files, primary)
        table.carry_over(before)
        old.stop()
        new.carry_over(old)
        starting = asyncio.ensure_future(new.start())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not starting.done() and serial_of(table) == 5
        go.set()
        await starting
        assert serial_of(table) == 6
        await refreshed(new)
        assert serial_of(table) == 7
        assert read_journal((tmp_path / "e.test.zone").read_bytes(), ORIGIN).zone.serial == 7
        new.stop()

    asyncio.run(main())


def test_a_difference_is_appended_only_to_its_version(tmp_path: Path) -> None:
    async def main() -> None:
        file = ZoneFiles().get(tmp_path, ORIGIN)
        five, six, seven = version(5, 2), version(6, 2, 3), version(7, 2, 3, 4)
        await file.save(five, [], NOW, whole=True)
        await file.save(seven, [difference(six, seven)], NOW, whole=False)
        saved = await file.read()
        assert saved is not None and saved.zone.serial == 7 and saved.differences == []
        await file.save(six, [], NOW, whole=False)
        saved = await file.read()
        assert saved is not None and saved.zone.serial == 6

    asyncio.run(main())


STEPS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["confirm", "next", "read", "whole"])), max_size=12)


@settings(max_examples=60)
@given(STEPS)
def test_two_processes_with_one_copy_leave_one_that_can_be_read(steps: list[tuple[int, str]]) -> None:
    """In an upgrade the old and the new one may write: what the last one has saved is there after a restart."""
    async def main(home: Path) -> None:
        both = [ZoneFiles().get(home, ORIGIN) for _ in range(2)]
        held = [version(5, 2), version(5, 2)]
        await both[0].save(held[0], [], NOW, whole=True)
        await both[1].read()
        for at, (number, step) in enumerate(steps):
            file, old = both[number], held[number]
            if step == "read":
                saved = await file.read()
                assert saved is not None
                held[number] = saved.zone
                continue
            added = []
            if step == "next":
                held[number] = version(old.serial + 1, 2, 3 + at)
                added = [difference(old, held[number])]
            await file.save(held[number], added, NOW + at, whole=step == "whole")
            saved = await ZoneFiles().get(home, ORIGIN).read()
            assert saved is not None and saved.confirmed == NOW + at
            assert sorted(saved.zone) == sorted(held[number])

    with TemporaryDirectory() as home:
        asyncio.run(main(Path(home)))


def test_a_copy_that_another_process_writes_now_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        file = ZoneFiles().get(tmp_path, ORIGIN)
        await file.save(version(5, 2), [], NOW, whole=True)
        with open(tmp_path / "e.test.zone", "r+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            await file.save(version(5, 2), [], NOW + 1, whole=False)
            other.seek(0, os.SEEK_END)
            other.write(b"what it appends")
        saved = await file.read()
        assert saved is not None and saved.confirmed == NOW + 1

    asyncio.run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_the_content_that_came_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """Whichever thread ends first."""
    given = [write_to_memory(version(serial, 2), NOW) for serial in (5, 6)]
    gates, whole = [threading.Event(), threading.Event()], read_memory

    def read(file: BinaryIO, origin: bytes) -> Saved:
        gates[given.index(file)].wait(60)
        return whole(file, origin)

    monkeypatch.setattr("resolver.daemon.zone_keeper.read_memory", read)

    async def main() -> None:
        keeper, table = leader(tmp_path, monkeypatch, ZoneFiles(), Steps(), leads=False)
        for file in given:
            keeper.take_content("e.test.", file)
        for number in (first, 1 - first):
            gates[number].set()
            left = len(keeper._tasks) - 1
            while len(keeper._tasks) > left:
                await asyncio.sleep(0)
        assert serial_of(table) == 6
        keeper.stop()

    asyncio.run(main())


def test_a_worker_that_cannot_use_the_copy_asks_for_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bytes] = []

    async def main() -> None:
        primary = Steps()
        keeper, _ = leader(tmp_path, monkeypatch, ZoneFiles(), primary)
        await refreshed(keeper)
        path = tmp_path / "e.test.zone"
        path.write_bytes(b"nonsense")
        other, table = leader(tmp_path, monkeypatch, ZoneFiles(), primary, leads=False, wanted=asked.append)
        await other.start()
        assert asked == [ORIGIN] and "the first worker is asked for the content" in caplog.text
        assert await keeper.open_content(ORIGIN) is None
        content = await keeper.open_content(ORIGIN, always=True)
        assert content is not None
        other.take_content("e.test.", content)
        await asyncio.gather(*other._tasks)
        assert serial_of(table) == 5
        keeper.replace_copy(ORIGIN)
        await refreshed(keeper)
        assert read_journal(path.read_bytes(), ORIGIN).zone.serial == 6
        for one in (keeper, other):
            one.stop()

    asyncio.run(main())


def test_without_a_thread_the_content_so_far_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def none_left(*_: object) -> Any:
        raise OSError(errno.EAGAIN, "the system gives no thread")

    async def main() -> None:
        keeper, table = leader(tmp_path, monkeypatch, ZoneFiles(), Steps())
        await refreshed(keeper)
        with monkeypatch.context() as patched:
            patched.setattr(zone_files, "in_thread", none_left)
            await refreshed(keeper)
            assert serial_of(table) == 6, "in force, although it cannot be written"
            assert "the system gives no thread; serial 6 is served from memory" in caplog.text
            patched.setattr(zone_keeper, "in_thread", none_left)
            await refreshed(keeper)
            [state] = keeper.describe()
            assert serial_of(table) == 6 and "the system gives no thread" in state["error"]
            given = write_to_memory(version(9, 2), NOW)
            keeper.take_content("e.test.", given)
            await idle(keeper)
            assert given.closed and serial_of(table) == 6
        await refreshed(keeper)
        assert read_journal((tmp_path / "e.test.zone").read_bytes(), ORIGIN).zone.serial == serial_of(table) == 8
        keeper.stop()

    asyncio.run(main())


def test_a_zone_that_is_not_wanted_any_more_is_not_read_to_its_end() -> None:
    read = iter((True, True, False))
    with pytest.raises(ValueError, match="not wanted any more"):
        read_zone(io.StringIO(TEXT + "a A 192.0.2.1\nb A 192.0.2.2\n"), "zone", ORIGIN, lambda: next(read))
    assert next(read, None) is None


@pytest.mark.parametrize("stopped", [True, False])
def test_readings_that_nobody_wants_end(tmp_path: Path, stopped: bool) -> None:
    """Each reload of the configuration begins one, which takes seconds for a large zone. So does each `zone reload`."""
    begun: list[Callable[[bool], bool]] = []
    done = threading.Event()

    def read(_: ZoneSettings, is_wanted: Callable[[bool], bool]) -> Zone:
        begun.append(is_wanted)
        done.wait(30)
        return version(5, 2)

    settings = Settings(zone=(ZoneSettings(name="e.test.", file="zone"),))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)

    async def main() -> None:
        keeper = ZoneKeeper(settings, table, None, leads=True, now=lambda: NOW, changed=lambda _: None,
                            flush=lambda _: None, directory=tmp_path)
        starting = asyncio.ensure_future(keeper.start())
        await spin(lambda: bool(begun), "a reading")
        assert begun[0](False) and begun[0](True)
        if stopped:
            keeper.stop()
            assert not begun[0](True)
        else:
            keeper.reload("e.test.")
            await spin(lambda: len(begun) == 2, "the other reading")
            assert not begun[0](False) and begun[0](True), "it would not begin now, but may end"
            assert begun[1](False) and begun[1](True)
        done.set()
        await starting
        if not stopped:
            await spin(lambda: not begun[1](True), "the end of the other reading")
            assert not begun[0](True)

    with mock.patch.object(zone_keeper, "read_zone_file", read):
        asyncio.run(main())
