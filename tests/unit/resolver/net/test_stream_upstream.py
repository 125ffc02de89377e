"""Queries over TCP to scripted servers: reuse, pipelining, order, limits, and connections that fail."""

import asyncio
import errno
import struct
from collections.abc import Callable
from itertools import count

import pytest
from support.loop_clock import stopped_clock
from support.observed import Observed
from support.upstream_peers import Collector, StreamPeer, ask_for, echo, play
from support.waiting import spin, until

from resolver import limits
from resolver.effects import Budget, Failure, FailureKind, Reply
from resolver.net.clock_random import Entropy
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.upstream import Upstream
from resolver.net.upstream_slots import RepliedNetworks, UpstreamSlots
from resolver.settings import IterationSettings
from resolver.wire import consts as c
from resolver.wire import name as names

SHORT = 0.05


def make(**options: object) -> StreamUpstream:
    return StreamUpstream(asyncio.get_running_loop(), entropy=Entropy(), **options)  # type: ignore[arg-type]


def test_one_connection_serves_query_after_query() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(), Collector()
        observed = Observed(None, {})
        upstream.observer = observed.observer
        for n in range(5):
            ask = ask_for(peer.port, tcp=True)
            upstream.start(ask, got)
            assert len(got.results) == n
            reply = (await got.wait(n + 1))[n]
            assert isinstance(reply, Reply)
            assert reply.tcp
            assert reply.server is ask.server
        assert [len(queries) for queries in peer.connections] == [5]
        assert upstream.connection_count == 1
        messages = observed.exchanged()
        assert messages[::2] == [("RESOLVER_QUERY", "TCP", query) for query in peer.connections[0]]
        assert messages[1::2] == [("RESOLVER_RESPONSE", "TCP", echo(query)[0]) for query in peer.connections[0]]
        upstream.close()
        await peer.close()

    play(body)


def test_pipelined_replies_may_come_in_any_order() -> None:
    async def body() -> None:
        held: list[bytes] = []

        def backwards(query: bytes) -> list[bytes]:
            held.append(query)
            return [echo(x)[0] for x in reversed(held)] if len(held) == 20 else []

        peer, upstream = await StreamPeer.start(backwards), make(per_server=1)
        results: dict[int, object] = {}
        got = Collector()
        for n in range(20):
            def keep(result: object, n: int = n) -> None:
                results[n] = result
                got(result)  # type: ignore[arg-type]

            upstream.start(ask_for(peer.port), keep)
        await got.wait(20)
        assert all(isinstance(x, Reply) for x in results.values())
        assert list(results) == list(reversed(range(20)))
        assert len(peer.connections) == 1
        assert len({query[:2] for query in held}) == 20
        upstream.close()
        await peer.close()

    play(body)


def test_a_busy_server_gets_more_connections_but_not_many() -> None:
    async def body() -> None:
        peer = await StreamPeer.start(lambda _: [])
        upstream, got = make(per_server=2, pipeline=3), Collector()
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(10)]
        assert upstream.connection_count == 2
        for handle in handles:
            handle.cancel()
        assert got.results == []
        upstream.close()
        await peer.close()

    play(body)


def test_waiting_queries_are_sent_when_slots_become_free() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(per_server=1, pipeline=2), Collector()
        for _ in range(30):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(30))
        upstream.close()
        await peer.close()

    play(body)


def test_zones_take_turns_at_one_server() -> None:
    """Many queries of one zone do not delay a query of another one until all are answered."""
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(per_server=1, pipeline=1), Collector()
        asked = [names.from_text(f"n{number}.crowd.") for number in range(5)] + [names.from_text("www.quiet.")]
        for name in asked:
            upstream.start(ask_for(peer.port, qname=name, zone=names.parent(name)), got)
        assert all(isinstance(x, Reply) for x in await got.wait(6))
        order = [next(n for n, name in enumerate(asked) if name in query) for [*queries] in peer.connections
                 for query in queries]
        assert order == [0, 1, 5, 2, 3, 4]
        assert (upstream.query_count, upstream._queues[ask_for(peer.port).server.key].waiting._zones) == (0, {})
        upstream.close()
        await peer.close()

    play(body)


def test_when_too_many_wait_the_zone_with_the_most_loses_its_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_WAITING", 4)

    async def body() -> None:
        peer, upstream = await StreamPeer.start(lambda _query: []), make(per_server=1, pipeline=2)
        refused: list[str] = []

        def start(text: str) -> None:
            def on_reply(result: Reply | Failure) -> None:
                assert isinstance(result, Failure) and "too many queries wait" in result.text
                refused.append(text)

            name = names.from_text(text)
            upstream.start(ask_for(peer.port, qname=name, zone=names.parent(name)), on_reply)

        for number in range(6):  # two are sent, four wait
            start(f"n{number}.crowd.")
        for text in ("a.quiet.", "b.quiet.", "n6.crowd.", "c.quiet.", "d.quiet."):
            start(text)
        await until(lambda: len(refused) == 5, "five queries fail")
        # With three each, neither makes room for the other.
        assert refused == ["n5.crowd.", "n4.crowd.", "n6.crowd.", "n3.crowd.", "d.quiet."]
        assert upstream.query_count == 6
        upstream.close()
        await peer.close()

    play(body)


def test_wrong_replies_are_ignored() -> None:
    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [bytes([right[0] ^ 1]) + right[1:], right[:13] + bytes([right[13] ^ 2]) + right[14:], b"\0", right]

        peer, upstream, got = await StreamPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait())[0], Reply)
        assert upstream.unwanted_replies == 3
        upstream.close()
        await peer.close()

    play(body)


MISFITS = limits.UNWANTED_ON_STREAM


def other_id(query: bytes) -> bytes:
    [right] = echo(query)
    return bytes([right[0] ^ 1]) + right[1:]


def other_name(query: bytes) -> bytes:
    [right] = echo(query)
    return right[:13] + bytes([right[13] ^ 2]) + right[14:]


@pytest.mark.parametrize("misfit", [lambda query: b"", lambda query: b"x" * 11, other_id, other_name, bytes])
def test_a_server_that_sends_unrequested_messages_is_disconnected(misfit: Callable[[bytes], bytes]) -> None:
    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            return [misfit(query)] * (10 * MISFITS) + echo(query)

        peer, upstream, got = await StreamPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        upstream.start(ask_for(peer.port), got)
        results = await got.wait(2)
        assert [getattr(result, "kind", None) for result in results] == [FailureKind.MALFORMED] * 2
        assert MISFITS <= upstream.unwanted_replies <= 2 * MISFITS
        assert upstream.connection_count == 0
        upstream.close()
        await peer.close()

    play(body)


def test_late_replies_are_ignored_while_right_ones_arrive() -> None:
    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            return [other_id(query)] * (MISFITS - 1) + echo(query)

        peer, upstream, got = await StreamPeer.start(script), make(), Collector()
        for n in range(3):
            upstream.start(ask_for(peer.port), got)
            assert isinstance((await got.wait(n + 1))[n], Reply)
        assert upstream.unwanted_replies == 3 * (MISFITS - 1)
        assert len(peer.connections) == 1
        upstream.close()
        await peer.close()

    play(body)


def test_the_number_of_replies_without_our_cookie_is_bounded() -> None:
    async def body() -> None:
        opt = b"\0" + struct.pack("!HHIHHH", c.OPT, 1232, 0, 12, c.OPTION_COOKIE, 8) + b"mismatch"

        def script(query: bytes) -> list[bytes]:
            end = query.index(b"\0", 12) + 5
            return [query[:2] + b"\x80\0\0\1\0\0\0\0\0\1" + query[12:end] + opt] * (10 * MISFITS)

        peer, upstream, got = await StreamPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port, cookie=b""), got)
        [result] = await got.wait(1)
        assert getattr(result, "kind", None) is FailureKind.MALFORMED
        assert upstream.unwanted_replies <= 2 * MISFITS
        upstream.close()
        await peer.close()

    play(body)


def test_malformed_reply_is_a_failure() -> None:
    async def body() -> None:
        peer = await StreamPeer.start(lambda query: [echo(query)[0][:7] + b"\x05" + echo(query)[0][8:]])
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.MALFORMED
        upstream.close()
        await peer.close()

    play(body)


def test_silence_is_a_timeout_and_the_connection_is_not_used_again() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(lambda _: []), make(), Collector()
        upstream.start(ask_for(peer.port, timeout=SHORT), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.TIMEOUT
        assert upstream.connection_count == 0
        peer.script = echo
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait(2))[1], Reply)
        assert len(peer.connections) == 2
        upstream.close()
        await peer.close()

    play(body)


def test_closed_port_is_a_network_failure() -> None:
    async def body() -> None:
        peer = await StreamPeer.start()
        await peer.close()
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.NETWORK
        assert "refused" in failure.text
        assert upstream.connection_count == 0
        upstream.close()

    play(body)


def test_connection_closed_while_idle_is_made_anew() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        # The server closes the connection while the next query is being sent.
        peer.script = lambda _: (peer.writers[0].close(), setattr(peer, "script", echo), [])[2]
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait(2))[1], Reply)
        assert len(peer.connections) == 2
        upstream.close()
        await peer.close()

    play(body)


def test_lost_queries_are_repeated_on_a_new_connection() -> None:
    """A server that stops for a moment closes all its connections, one after another; the next one is open already."""

    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(per_server=2), Collector()
        for _ in range(2):
            upstream.start(ask_for(peer.port), got)
        await got.wait(2)
        assert len(peer.connections) == 2
        peer.script = lambda _: []
        for _ in range(6):
            upstream.start(ask_for(peer.port), got)
        while sum(map(len, peer.connections)) < 8:
            await asyncio.sleep(0)
        for query in peer.connections[1][-2:]:
            [packet] = echo(query)
            peer.writers[1].write(len(packet).to_bytes(2, "big") + packet)
        await got.wait(4)
        peer.script = echo
        lost = []
        upstream.drop, drop = lambda one: (lost.append(one), drop(one)), upstream.drop
        peer.writers[0].close()
        while not lost:
            await asyncio.sleep(0)
        peer.writers[1].close()
        assert all(isinstance(result, Reply) for result in await got.wait(8))
        upstream.close()
        await peer.close()

    play(body)


def test_a_server_that_always_disconnects_is_a_failure() -> None:
    async def body() -> None:
        peer = await StreamPeer.start(lambda _: (peer.writers[-1].close(), [])[1])
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.NETWORK
        assert "closed by the server" in failure.text
        upstream.close()
        await peer.close()

    play(body)


def test_idle_connections_are_closed() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(idle_seconds=0), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        assert upstream.connection_count == 0
        upstream.close()
        await peer.close()

    play(body)


def test_all_connections_are_limited_and_idle_ones_are_evicted() -> None:
    async def body() -> None:
        first, second = await StreamPeer.start(), await StreamPeer.start(lambda _: [])
        upstream, got = make(connections=1), Collector()
        upstream.start(ask_for(first.port), got)
        await got.wait()
        held = upstream.start(ask_for(second.port), got)
        assert upstream.connection_count == 1
        late = upstream.start(ask_for(first.port, timeout=SHORT), got)
        failure = (await got.wait(2))[1]
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "it was never sent, and the server is not to blame"
        assert "no outgoing TCP connection was free" in failure.text
        waits = upstream.start(ask_for(first.port), got)
        upstream.start(ask_for(first.port), got).cancel()
        held.cancel()
        assert isinstance((await got.wait(3))[2], Reply), "it has waited for the place"
        for handle in (late, waits):
            handle.cancel()
        upstream.close()
        assert (upstream._queues, upstream._waiting, len(upstream._slots)) == ({}, {}, 0)
        await first.close()
        await second.close()

    play(body)


@pytest.mark.parametrize("networks", [1, 100], ids=["one network", "many networks"])
def test_servers_that_become_silent_do_not_starve_others(monkeypatch: pytest.MonkeyPatch, networks: int) -> None:
    """300 queries to as many servers that accept and do not reply; queries of another zone succeed meanwhile."""
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 100)

    async def body() -> None:
        silent, honest = await StreamPeer.start(lambda _: [], "0.0.0.0"), await StreamPeer.start()
        upstream, lost, got = make(connections=16), Collector(), Collector()
        addresses = [f"127.1.{n % networks}.{n // networks % 250 + 1}" for n in range(300)]
        for address in addresses:
            upstream.start(ask_for(silent.port, address=address), lost)
        for n in range(10):
            upstream.start(ask_for(honest.port), got)
            assert isinstance((await got.wait(n + 1))[n], Reply)
            assert upstream.connection_count <= 16
        assert lost.results == [], "those who made room wait as long as they would have waited for a reply"
        assert upstream.evicted > 0
        upstream.close()
        await silent.close()
        await honest.close()

    play(body)


def test_a_zone_with_many_slots_yields_one_to_another_of_its_network_at_once() -> None:
    silent_zone, honest_zone = names.from_text("silent."), names.from_text("honest.")

    async def body() -> None:
        silent, honest = await StreamPeer.start(lambda _: [], "0.0.0.0"), await StreamPeer.start(echo, "127.1.1.200")
        upstream, lost, got = make(connections=8), Collector(), Collector()
        for n in range(8):
            upstream.start(ask_for(silent.port, address=f"127.1.1.{n + 1}", zone=silent_zone), lost)
        async with asyncio.timeout(30):
            while sum(map(len, silent.connections)) < 8:
                await asyncio.sleep(0)
        upstream.start(ask_for(honest.port, address="127.1.1.200", zone=honest_zone), got)
        assert upstream.evicted == 1
        assert isinstance((await got.wait())[0], Reply)
        upstream.start(ask_for(silent.port, address="127.1.1.99", zone=silent_zone), lost)
        assert upstream.evicted == 1, "its own zone has most"
        upstream.close()
        await silent.close()
        await honest.close()

    play(body)


def test_the_zone_with_the_most_slots_is_evicted_and_not_an_older_one() -> None:
    zones = [names.from_text(text) for text in ("small.", "large.", "new.")]

    async def body() -> None:
        silent = await StreamPeer.start(lambda _: [], "0.0.0.0")
        small = await StreamPeer.start(lambda _: [], "127.1.1.201")
        new = await StreamPeer.start(echo, "127.1.1.202")
        upstream, lost, slow, got = make(connections=8), Collector(), Collector(), Collector()
        for _ in range(3):
            upstream.start(ask_for(small.port, address="127.1.1.201", zone=zones[0]), slow)
        async with asyncio.timeout(30):
            while sum(map(len, small.connections)) < 3:
                await asyncio.sleep(0)
        for n in range(5):
            upstream.start(ask_for(silent.port, address=f"127.1.1.{n + 1}", zone=zones[1]), lost)
        async with asyncio.timeout(30):
            while sum(map(len, silent.connections)) < 5:
                await asyncio.sleep(0)
        upstream.start(ask_for(new.port, address="127.1.1.202", zone=zones[2]), got)
        assert isinstance((await got.wait())[0], Reply)
        assert upstream.evicted == 1
        for writer, queries in zip(small.writers, small.connections, strict=True):
            reply = echo(queries[0])[0]
            writer.write(len(reply).to_bytes(2, "big") + reply)
        assert all(isinstance(result, Reply) for result in await slow.wait(3))
        upstream.close()
        for peer in (silent, small, new):
            await peer.close()

    play(body)


def test_a_network_with_many_slots_yields_one_to_another_at_once() -> None:
    async def body() -> None:
        silent, honest = await StreamPeer.start(lambda _: [], "0.0.0.0"), await StreamPeer.start()
        known = RepliedNetworks()
        known.add_reply("127.0.0.1")
        upstream, lost, got = make(connections=8, replied_networks=known), Collector(), Collector()
        for n in range(8):
            upstream.start(ask_for(silent.port, address=f"127.1.1.{n + 1}"), lost)
        while sum(map(len, silent.connections)) < 8:
            await asyncio.sleep(0)
        upstream.start(ask_for(honest.port), got)
        assert upstream.evicted == 1
        assert isinstance((await got.wait())[0], Reply)
        upstream.start(ask_for(silent.port, address="127.1.1.99"), lost)
        assert upstream.evicted == 1, "its own network has most"
        upstream.close()
        await silent.close()
        await honest.close()

    play(body)


def test_silent_servers_each_in_a_network_of_its_own_have_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 60_000)

    async def body() -> None:
        honest, silent = await StreamPeer.start(echo, "0.0.0.0"), await StreamPeer.start(lambda _: [], "0.0.0.0")
        upstream, lost, got = make(connections=8, idle_seconds=0), Collector(), Collector()
        upstream.start(ask_for(honest.port, address="127.0.1.100"), got)
        await got.wait()
        honest.script = lambda _: []
        for n in range(8):
            upstream.start(ask_for(honest.port, address=f"127.0.1.{n + 1}", zone=names.from_text(f"a{n}.")), got)
        for n in range(40):
            upstream.start(ask_for(silent.port, address=f"127.1.{n}.1", zone=names.from_text(f"b{n}.")), lost)
        assert (upstream.evicted, upstream.connection_count) == (4, 8)
        upstream.close()
        await honest.close()
        await silent.close()

    play(body)


@pytest.mark.parametrize("replied", [True, False], ids=["replied", "never replied"])
def test_a_slow_server_is_served_while_silent_ones_take_all_slots(
    monkeypatch: pytest.MonkeyPatch, replied: bool
) -> None:
    """Its reply takes much longer than the inactivity after which other connections are evicted."""
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 20)
    async def body() -> None:
        slow, silent = await StreamPeer.start(lambda _: []), await StreamPeer.start(lambda _: [], "0.0.0.0")
        known, got, lost = RepliedNetworks(), Collector(), Collector()
        if replied:
            known.add_reply("127.0.0.1")
        upstream = make(connections=8, replied_networks=known)
        upstream.start(ask_for(slow.port, zone=names.from_text("slow.")), got)
        await until(lambda: any(slow.connections), "the slow server's query")
        fresh = count(1)

        def come() -> None:
            """One more query that anybody can cause: a new zone, and a new address."""
            number = next(fresh)
            address, zone = f"127.1.{number // 200}.{number % 200 + 1}", names.from_text(f"silent{number}.")
            upstream.start(ask_for(silent.port, address=address, zone=zone), lost)

        def evicted(number: int) -> bool:
            if upstream.connection_count == 8:
                come()
            return upstream.evicted >= number

        for _ in range(7):
            come()
        await until(lambda: evicted(20), "evictions")
        connections = 1 if replied else 2
        await until(lambda: sum(map(bool, slow.connections)) == connections, "its turn")
        await until(lambda: evicted(upstream.evicted + 1), "more evictions")
        before = upstream.evicted
        await until(lambda: evicted(before + 30), "many more evictions")
        assert len(slow.connections) == connections, "nobody takes its turn away"
        assert got.results == []
        reply = echo(slow.connections[-1][0])[0]
        slow.writers[-1].write(len(reply).to_bytes(2, "big") + reply)
        assert isinstance((await got.wait())[0], Reply)
        assert upstream.connection_count <= 8
        upstream.close()
        await slow.close()
        await silent.close()

    play(body)


def test_second_attempts_have_a_part_of_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second attempts at unresponsive servers do not keep others from their first attempts."""
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 10)

    async def body() -> None:
        silent = await StreamPeer.start(lambda _: [], "0.0.0.0")
        upstream, lost = make(connections=8), Collector()
        for number in range(60):
            upstream.start(ask_for(silent.port, address=f"127.1.1.{number + 1}"), lost)
        await until(lambda: len([1 for queue in upstream._queues.values() if queue.had_eviction]) >= 50, "first tries")
        assert len(upstream._eviction_exempt) == 2
        upstream.close()
        assert (upstream._eviction_exempt, upstream.connection_count) == ({}, 0)
        await silent.close()

    play(body)


def test_a_timeout_is_attributed_to_the_server_only_after_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        silent, other = await StreamPeer.start(lambda _: []), await StreamPeer.start(lambda _: [])
        upstream, first, second = make(connections=1), Collector(), Collector()
        held = upstream.start(ask_for(silent.port), Collector())
        with stopped_clock():
            upstream.start(ask_for(other.port, timeout=0.2), second)
            await spin(lambda: any(silent.connections), "the first query")
            held.cancel()
            await spin(lambda: any(other.connections), "the second query")
        upstream.start(ask_for(other.port, timeout=0.2), first)
        [failure] = await second.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "it has waited for a place"
        [failure] = await first.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.TIMEOUT
        upstream.close()
        await silent.close()
        await other.close()

    play(body)


def test_a_connection_without_memory_for_its_slot_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    async def body() -> None:
        peer, upstream, lost, got = await StreamPeer.start(), make(connections=1), Collector(), Collector()
        for _ in range(3):
            with monkeypatch.context() as shortage:
                shortage.setattr(UpstreamSlots, "add", fail)
                with pytest.raises(MemoryError):
                    upstream.start(ask_for(peer.port, timeout=0), lost)
            assert (upstream.connection_count, upstream._queues, upstream.opened) == (0, {}, 0)
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait())[0], Reply)
        assert lost.results == [], "who was told of it is not told once more"
        upstream.close()
        await peer.close()

    play(body)


def test_an_evicted_query_is_sent_again_or_times_out_as_a_shortage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 20)

    async def body() -> None:
        slow, honest = await StreamPeer.start(lambda _: []), await StreamPeer.start()
        upstream, late, got, lost = make(connections=1), Collector(), Collector(), Collector()
        upstream.start(ask_for(slow.port), late)
        with stopped_clock() as clock:
            upstream.start(ask_for(slow.port, timeout=0.2), lost)
            await spin(lambda: slow.connections, "the connection to the slow server")
            clock.move(0.05)
            upstream.start(ask_for(honest.port), got)
            assert isinstance((await got.wait())[0], Reply)
        [failure] = await lost.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "it had no time to reply"
        slow.script = echo
        upstream.start(ask_for(honest.port), got)
        upstream.start(ask_for(slow.port), late)
        assert all(isinstance(x, Reply) for x in await late.wait(2))
        assert len(slow.connections) >= 2
        upstream.close()
        await slow.close()
        await honest.close()

    play(body)


def test_sending_again_counts_against_the_budget() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(), Collector()

        def hang_up(_: bytes) -> list[bytes]:
            peer.writers[-1].close()
            peer.script = echo
            return []

        upstream.start(ask_for(peer.port), got)
        await got.wait()
        budget = Budget(3, 0.0)
        for left in (2, 1, 0):
            peer.script = hang_up
            upstream.start(ask_for(peer.port, budget=budget), got)
            assert isinstance((await got.wait(4 - left))[3 - left], Reply)
            assert budget.packets == left
        assert len(peer.connections) == 4
        peer.script = hang_up
        upstream.start(ask_for(peer.port, budget=budget), got)
        failure = (await got.wait(5))[4]
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.BUDGET, "no news about the server"
        assert budget.failure is failure
        assert len(peer.connections) == 4, "nothing more is sent"
        upstream.close()
        await peer.close()

    play(body)


def test_a_query_is_evicted_at_most_as_often_as_the_budget_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_UPSTREAM_UNRESPONSIVE", 10)

    async def body() -> None:
        slow, honest = await StreamPeer.start(lambda _: []), await StreamPeer.start()
        upstream, late, got = make(connections=1), Collector(), Collector()
        budget = Budget(3, 0.0)
        upstream.start(ask_for(slow.port, budget=budget), late)
        for turn in range(1, 5):
            await until(lambda turn=turn: sum(map(len, slow.connections)) == turn, "the query is sent")
            assert budget.packets == 4 - turn
            assert late.results == []
            upstream.start(ask_for(honest.port), got)
            assert isinstance((await got.wait(turn))[turn - 1], Reply)
        [failure] = await late.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.BUDGET
        assert upstream.evicted == 4
        upstream.close()
        assert (upstream._queues, upstream._waiting, upstream._waiting_after_eviction) == ({}, {}, {})
        await slow.close()
        await honest.close()

    play(body)


def test_no_descriptors_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_connection", refuse)
        upstream, got = make(), Collector()
        for n in range(5):
            upstream.start(ask_for(53), got)
            failure = (await got.wait(n + 1))[n]
            assert isinstance(failure, Failure)
            assert failure.kind is FailureKind.LOCAL_RESOURCE
            assert "too many open files" in failure.text
        upstream.close()

    play(body)
    assert len(caplog.records) == 1


def test_source_address() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(source_v4="127.0.0.9"), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        assert peer.writers[0].get_extra_info("peername")[0] == "127.0.0.9"
        upstream.close()
        await peer.close()

    play(body)


def test_close_drops_queries_in_flight() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(lambda _: []), make(), Collector()
        for _ in range(3):
            upstream.start(ask_for(peer.port), got)
        upstream.close()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert "closed" in failure.text
        assert len(got.results) == 1
        await peer.close()

    play(body)


@pytest.mark.parametrize("closes", [False, True])
def test_a_callback_ends_queries_of_the_same_lost_connection(closes: bool) -> None:
    """The first was retried before and fails. Its callback cancels the second or closes all: it is not sent again."""

    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(per_server=1), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        peer.script = lambda _: []
        failed = Collector()

        def on_failure(result: Reply | Failure) -> None:
            if closes:
                upstream.close()
            else:
                second.cancel()
            failed(result)

        first = upstream.start(ask_for(peer.port), on_failure)
        second = upstream.start(ask_for(peer.port), got)
        first.retried = True
        connection = first.connection
        assert connection is not None and connection is second.connection
        connection.connection_failed("lost")
        connection.close()
        assert (len(failed.results), len(got.results)) == (1, 1)
        assert (upstream.connection_count, upstream._queues) == (0, {})
        assert second.timer is None
        upstream.close()
        await peer.close()

    play(body)


def test_a_callback_that_raises_loses_no_other_query_of_the_connection() -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(), make(per_server=1), Collector()
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        peer.script = lambda _: []

        def on_failure(result: Reply | Failure) -> None:
            raise ZeroDivisionError

        first = upstream.start(ask_for(peer.port), on_failure)
        second = upstream.start(ask_for(peer.port), got)
        first.retried = True
        connection = second.connection
        assert connection is not None
        peer.script = echo
        connection.connection_failed("lost")
        connection.close()
        assert isinstance((await got.wait(2))[1], Reply)
        assert len(faults) == 1
        upstream.close()
        await peer.close()

    play(body)


def test_the_facade_sends_each_ask_over_its_transport() -> None:
    async def body() -> None:
        peer = await StreamPeer.start()
        upstream = Upstream(asyncio.get_running_loop(), IterationSettings())
        got, batches = Collector(), Collector()
        upstream.set_after_batch(lambda: batches(None))  # type: ignore[arg-type]
        upstream.start(ask_for(peer.port, tcp=True), got)
        upstream.start(ask_for(peer.port), got)
        results = await got.wait(2)
        await batches.wait(2)
        assert {type(x) for x in results} == {Reply, Failure}
        statistics = upstream.statistics()
        assert (statistics["tcp_replies"], statistics["udp_network_errors"]) == (1, 1)
        upstream.close()
        await peer.close()

    play(body)


def test_an_ask_under_forgery_can_be_made_again_over_tcp() -> None:
    async def body() -> None:
        stream = await StreamPeer.start()
        loop = asyncio.get_running_loop()

        class Forger(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                for n in range(64):
                    self.transport.sendto(bytes([data[0] ^ 0xFF, n]) + data[2:], addr)  # type: ignore[attr-defined]

        transport, _ = await loop.create_datagram_endpoint(Forger, local_addr=("127.0.0.1", stream.port))
        upstream, got = Upstream(loop, IterationSettings()), Collector()
        upstream.start(ask_for(stream.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SPOOF_SUSPECTED
        assert upstream.statistics()["tcp_connections_opened"] == 0, "one exchange more, which nobody has paid for"
        upstream.start(ask_for(stream.port, tcp=True), got)
        reply = (await got.wait(2))[1]
        assert isinstance(reply, Reply)
        assert reply.tcp
        upstream.close()
        transport.close()
        await stream.close()

    play(body)


def test_a_query_from_the_callback_of_a_failed_connection_keeps_its_connection() -> None:
    """The old connection is dropped after the callback, when the same server has a new one."""

    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            return [] if len(peer.connections) > 1 else [b"garbage"] * (limits.UNWANTED_ON_STREAM + 1)

        peer, upstream, got = await StreamPeer.start(script), make(per_server=1), Collector()
        ask = ask_for(peer.port, tcp=True)

        def again(result: Reply | Failure) -> None:
            assert isinstance(result, Failure)
            upstream.start(ask, got)

        upstream.start(ask, again)
        await until(lambda: len(peer.connections) == 2 and bool(peer.connections[1]), "the second query")
        upstream.start(ask, got)
        await until(lambda: len(peer.connections[1]) == 2, "the third query on the same connection")
        assert upstream.connection_count == 1
        upstream.close()
        assert upstream.connection_count == 0
        await peer.close()

    play(body)


def test_what_is_made_later_is_observed_too() -> None:
    """`Upstream` makes the parts of encrypted transports when they are needed."""
    async def body() -> None:
        observed = Observed(None, {})
        peer, got = await StreamPeer.start(), Collector()
        upstream = Upstream(asyncio.get_running_loop(), IterationSettings())
        upstream.set_observer(observed.observer)
        upstream.start(ask_for(peer.port, tcp=True), got)
        await got.wait(1)
        assert [kind[:2] for kind in observed.exchanged()] == [("RESOLVER_QUERY", "TCP"), ("RESOLVER_RESPONSE", "TCP")]
        for protocol in ("tls", "https"):
            assert upstream._encrypted(protocol).observer is observed.observer
        upstream.set_observer(None)
        assert upstream.udp.observer is upstream.stream.observer is upstream.encrypted["tls"].observer is None
        upstream.close()
        await peer.close()

    play(body)
