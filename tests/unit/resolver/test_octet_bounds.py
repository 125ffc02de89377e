"""What remote parties choose the size of stays within a bound in octets."""

import asyncio
import gc
import logging
import random
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from resolver import limits
from resolver.daemon.log import DuplicateFilter
from resolver.effects import Server
from resolver.net.clock_random import Entropy
from resolver.net.tls_upstream import TlsConnection, TlsUpstream
from resolver.net.upstream_connection import ServerQueue
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones.outgoing import History
from resolver.zones.zone import Difference

ZONE = names.from_text("example.com.")
SOA = (ZONE, c.SOA, 60, names.ROOT * 2 + bytes(20))


def records(count: int) -> list[Any]:
    return [(names.prepend(b"%012d" % n, ZONE), c.TXT, 300, b"\xfa" + random.Random(n).randbytes(250))
            for n in range(count)]


def test_differences_are_bounded_in_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A primary that sends few and long records fills no more memory than one with many."""
    monkeypatch.setattr(limits, "ZONE_HISTORY_OCTETS", 1 << 20)
    history = History()
    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            history.add(Difference([SOA, *records(1)], [SOA, *records(40)]))
            assert history.octets <= 1 << 20
        gc.collect()  # freed tuples that CPython keeps are not the history's
        grown = tracemalloc.get_traced_memory()[0] - began
    finally:
        tracemalloc.stop()
    assert 1 << 19 < grown <= history.octets
    history.add(Difference([SOA], [SOA, *records(3000)]))
    assert history.octets == 0, "one that is too large alone is not kept"
    history.add(Difference([SOA], [SOA]))
    history.clear()
    assert history.octets == 0


@pytest.mark.parametrize("held", [False, True])
def test_connections_that_wait_for_close_notify_are_limited(held: bool) -> None:
    async def main() -> None:
        made: Any = TlsUpstream(asyncio.get_running_loop(), contexts=None, entropy=Entropy(), connections=3)  # type: ignore[arg-type]
        ended: list[str] = []
        for _ in range(5):
            connection = TlsConnection(made, ServerQueue(Server("192.0.2.1", 853), b""))
            connection.facts = object()  # type: ignore[assignment]
            transport: Any = SimpleNamespace(abort=lambda: ended.append("abort"), close=lambda: ended.append("close"))
            made.shutting_down = Waiting(made.shutting_down)
            connection.end_transport(transport)
            if not held:
                connection.transport = transport
                made.shutting_down.discard(transport)
        assert ended == (["close"] * 3 + ["abort"] * 2 if held else ["close"] * 5)

    asyncio.run(main())


class Waiting(list[Any]):
    """A set of what cannot be hashed."""

    add = list.append

    def discard(self, one: Any) -> None:
        self.remove(one)


def test_long_warnings_are_remembered_by_their_beginning() -> None:
    suppressed = DuplicateFilter(1000.0, lambda: 1.0)

    def passes(text: str) -> bool:
        return suppressed.filter(logging.LogRecord("resolver.net.x", logging.WARNING, "", 1, text, (), None))

    begin = "x" * limits.LOG_COMPARED
    assert passes(begin + "a") and not passes(begin + "b") and passes("y" + begin)
    [*lines] = suppressed._limit._admitted
    assert all(len(text) == limits.LOG_COMPARED for _, text in lines)
