"""The zones of a worker over several configurations, and what workers tell each other about them."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.zone_replies import Direct
from support.zone_versions import ORIGIN, difference, soa, version

from resolver.daemon.zone_sharing import ZoneSharing
from resolver.settings import Settings, ZoneSettings, ZonesSettings
from resolver.wire import consts as c
from resolver.wire.build import Builder, make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, Zone, ZoneTable

NOW = 1_800_000_000
PEER = ("192.0.2.1", 53)


class Links:
    """Records what is sent to the first worker."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send_to_first(self, event: dict[str, Any]) -> None:
        self.told.append(event)


class Host:
    """A worker."""

    is_main = True

    def __init__(self, number: int = 0, channels: Links | None = None) -> None:
        self.number = number
        self.channels: Any = channels

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        work.close()

    async def flush_names(self, name: bytes) -> None:
        """Nothing is cached."""

    def remember(self, statistics: Any) -> None:
        """Nobody asks."""

    def apply_list_change(self, asks_servers: bool) -> None:
        """Nothing is cached."""


class Service(Direct):
    """A service that only sends."""

    zone_server: Any = None


class Sink:
    """Collects the messages of a stream."""

    stream = True
    takes_many = True
    origin = ("tcp", "listener")

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        self.sent.append(packet)

    def send_many(self, packets: Iterator[bytes], peer: tuple[Any, ...]) -> bool:
        self.sent += packets
        return True


def runtime(tmp_path: Path) -> Any:
    """What `ZoneSharing` needs of a configuration with one zone."""
    zone = ZoneSettings(name="e.test.", primaries=("192.0.2.1",), allow_transfer=("192.0.2.1/32",))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    resolver = SimpleNamespace(zones=table, tls_contexts=None, clock=SimpleNamespace(time=lambda: NOW))
    settings = Settings(zone=(zone,), zones=ZonesSettings(directory=str(tmp_path)))
    return SimpleNamespace(settings=settings, resolver=resolver, service=Service(), lists=None)


def ixfr(held: Zone) -> bytes:
    builder = Builder()
    builder.start(7, 0, ORIGIN, c.IXFR)
    owner, rtype, ttl, rdata = soa(held)
    builder.add(c.AUTHORITY, RRset(owner, rtype, ttl, [rdata]))
    return builder.finish()


def test_differences_are_served_after_a_reload(tmp_path: Path) -> None:
    async def main() -> None:
        old, new, newest = version(5, 2), version(6, 2, 3), version(7, 2, 3, 4)
        zones, first = ZoneSharing(Host()), runtime(tmp_path)
        zones.switch(first)
        assert zones.keeper is not None
        first.resolver.zones.put(ORIGIN, new, 0)
        history = zones.keeper.history_of(ORIGIN)
        assert history is not None and zones.keeper.history_of(b"\5other\0") is None
        history.add(difference(old, new))
        for held, serves in ((old, new), (new, newest)):
            current = runtime(tmp_path)
            current.resolver.zones.put(ORIGIN, serves, 0)
            zones.switch(current)
            sink = Sink()
            assert current.service.zone_server.handle(ixfr(held), PEER, sink)
            [reply] = [MessageView.parse(one) for one in sink.sent]
            added = [rrset.name for rrset in reply.answer if rrset.rtype == c.A]
            assert added == [difference(held, serves).added[1][0]], "the difference, and not the whole zone"
            later = zones.keeper.history_of(ORIGIN)
            assert later is not None
            later.add(difference(new, newest))
        zones.stop()

    asyncio.run(main())


def test_a_flood_of_notify_messages_is_one_event_in_each_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue to the first worker has room for some ten messages, and a reload needs it."""

    async def main() -> None:
        channels = Links()
        zones = ZoneSharing(Host(1, channels))
        current = runtime(tmp_path)
        zones.switch(current)
        notify = make_query(7, ORIGIN, c.SOA, flags=c.NOTIFY << 11, edns_payload=None)
        for _ in range(1000):
            assert current.service.zone_server.handle(notify, PEER, Sink())
        assert channels.told == [{"notify": ["e.test."]}]
        zones._send_events()
        zones._send_events()
        assert channels.told == [{"notify": ["e.test."]}] * 2, "the last one is not lost"
        monkeypatch.setattr("resolver.daemon.zone_sharing.EVENT_ROOM", 25)
        for name in (b"\1a\0", b"\1b\0", ORIGIN):
            zones._queue_event("damaged", name)
        sent = len(channels.told)
        while zones._events:
            zones._send_events()
        found = [name for event in channels.told[sent - 1:] for name in event["damaged"]]
        assert found == ["a.", "b.", "e.test."] and len(channels.told) > sent
        zones.stop()

    asyncio.run(main())
