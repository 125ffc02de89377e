"""Queries over UDP to scripted servers: the right reply, loss, refusal, timeouts, ports and descriptors."""

import asyncio
import errno
import logging
import socket
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.observed import Observed
from support.ports import free_port
from support.upstream_peers import QNAME, Collector, UdpPeer, ask_for, echo, play
from support.waiting import until

from resolver import limits
from resolver.effects import Failure, FailureKind, Reply
from resolver.net.clock_random import Entropy
from resolver.net.udp_upstream import UdpUpstream
from resolver.net.upstream_slots import RepliedNetworks, UpstreamSlots, WaitQueue
from resolver.wire import name as names

SHORT = 0.05


def make(**options: object) -> UdpUpstream:
    return UdpUpstream(asyncio.get_running_loop(), entropy=Entropy(), **options)  # type: ignore[arg-type]


def replied(*addresses: str) -> RepliedNetworks:
    """A `RepliedNetworks` with the networks of `addresses`."""
    known = RepliedNetworks()
    for address in addresses:
        known.add_reply(address)
    return known


def test_reply_comes_back_once_and_not_from_inside_start() -> None:
    observed = Observed(None, {})

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        upstream.observer = observed.observer
        ask = ask_for(peer.port)
        upstream.start(ask, got)
        assert got.results == []
        assert upstream.pending == 1
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert reply.server is ask.server
        assert not reply.tcp
        assert 0 < reply.rtt < 5
        assert names.equal(reply.view.qname, ask.qname)
        assert upstream.pending == 0
        [query] = peer.queries  # its letter case is that of the wire
        assert observed.exchanged() == [
            ("RESOLVER_QUERY", "UDP", query), ("RESOLVER_RESPONSE", "UDP", echo(query)[0])
        ]
        upstream.close()
        peer.close()

    play(body)


def test_packets_of_one_iteration_are_sent_together_without_cancelled_ones() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(5)]
        handles[2].cancel()
        assert upstream.sent == 0
        await asyncio.sleep(0)
        assert upstream.sent == 4
        await got.wait(4)
        upstream.close()
        peer.close()

    play(body)


def test_case_is_randomised_unless_the_ask_forbids_it() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        qname = names.from_text("a-rather-long-name-so-that-chance-plays-no-part.example.")
        for allowed in (True, True, False):
            upstream.start(ask_for(peer.port, qname=qname, randomise_case=allowed), got)
            await got.wait(len(got.results) + 1)
        asked = [query[12:12 + len(qname)] for query in peer.queries]
        assert asked[2] == qname
        assert len(set(asked)) == 3
        # The reply has the letter case of the qname, not the random one.
        assert [result.view.qname for result in got.results] == [qname] * 3
        upstream.close()
        peer.close()

    play(body)


def test_silence_is_a_timeout_and_a_late_reply_is_ignored() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(), Collector()
        batches = []
        upstream.after_batch = lambda: batches.append(len(got.results))
        upstream.start(ask_for(peer.port, timeout=SHORT), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.TIMEOUT
        assert batches == [1]
        peer.script = lambda query: [*echo(peer.queries[0]), *echo(query)]
        upstream.start(ask_for(peer.port), got)
        await got.wait(2)
        assert isinstance(got.results[1], Reply)
        assert upstream.timeouts == 1
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("held_up", ["before it is sent", "before its reply is read"])
def test_a_blocked_loop_does_not_count_as_a_silent_server(held_up: str) -> None:
    async def body() -> None:
        upstream, got = make(), Collector()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            upstream.start(ask_for(server.getsockname()[1], timeout=0.001), got)
            if held_up == "before it is sent":
                _let_pass(0.03)
                upstream._expire()
                assert (upstream.pending, upstream.timeouts) == (1, 0)
            else:
                upstream._flush()
                query, client = server.recvfrom(4096)
                for reply in echo(query):
                    server.sendto(reply, client)
                _let_pass(0.03)
                upstream._expire()
                assert [type(result) for result in got.results] == [Reply]
            upstream.close()

    play(body)


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_timeouts_of_many_lengths_all_expire() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(), Collector()
        for n in range(40):
            upstream.start(ask_for(peer.port, timeout=0.002 * (40 - n)), got)
        results = await got.wait(40)
        assert all(isinstance(x, Failure) and x.kind is FailureKind.TIMEOUT for x in results)
        assert upstream.pending == 0
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("port_per_query", [False, True])
def test_closed_port_fails_quickly(port_per_query: bool) -> None:
    async def body() -> None:
        port = free_port()
        upstream, got = make(port_per_query=port_per_query, ports=1), Collector()
        for n in range(3):
            upstream.start(ask_for(port), got)
            failure = (await got.wait(n + 1))[n]
            assert isinstance(failure, Failure)
            assert failure.kind is FailureKind.NETWORK
            assert "refused" in failure.text
        # The pending error of one server must not spoil a query to the next.
        peer = await UdpPeer.start()
        upstream.start(ask_for(port), got)
        upstream.start(ask_for(peer.port), got)
        results = (await got.wait(5))[3:]
        assert sorted(type(x).__name__ for x in results) == ["Failure", "Reply"]
        upstream.close()
        peer.close()

    play(body)


def test_unusable_addresses_are_failures_and_no_exceptions() -> None:
    async def body() -> None:
        upstream, got = make(), Collector()
        upstream.start(ask_for(53, address="not an address"), got)
        upstream.start(ask_for(0), got)
        results = await got.wait(2)
        assert all(isinstance(x, Failure) and x.kind is FailureKind.NO_ROUTE for x in results)
        upstream.close()

    play(body)


def test_cancelled_ask_is_forgotten() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        handle = upstream.start(ask_for(peer.port), got)
        handle.cancel()
        handle.cancel()
        assert upstream.pending == 0
        refused = upstream.start(ask_for(0), got)
        refused.cancel()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        assert len(got.results) == 1
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("port_per_query", [False, True])
def test_equal_questions_in_flight_do_not_collide(port_per_query: bool) -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(port_per_query=port_per_query, ports=2), Collector()
        for _ in range(150):
            upstream.start(ask_for(peer.port), got)
        results = await got.wait(150)
        assert all(isinstance(x, Reply) for x in results)
        asked = {(source, query[:2]) for source, query in zip(peer.sources, peer.queries, strict=True)}
        assert len(asked) == 150
        upstream.close()
        peer.close()

    play(body)


def test_ports_are_replaced_and_spread_over_the_range() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(port_per_query=False, ports=2, port_uses=3), Collector()
        for n in range(60):
            upstream.start(ask_for(peer.port), got)
            await got.wait(n + 1)
        ports = [source[1] for source in peer.sources]
        assert len(set(ports)) >= 20
        assert max(ports) - min(ports) > 20_000
        assert all(port >= 1024 for port in ports)
        assert len(upstream.open_port_numbers) <= 2
        assert upstream.sockets_opened >= 20
        upstream.close()
        peer.close()

    play(body)


def test_old_ports_are_closed() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(port_per_query=False, ports=1, port_age=0.0), Collector()
        for n in range(4):
            upstream.start(ask_for(peer.port), got)
            await got.wait(n + 1)
        assert len({source[1] for source in peer.sources}) == 4
        assert len(upstream.open_port_numbers) == 1
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("source", ["", "own"])
def test_each_query_has_its_own_port_while_it_waits(address: str, source: str) -> None:
    async def body() -> None:
        peer, got = await UdpPeer.start(lambda _: [], address), Collector()
        upstream = make(**{"source_v6" if ":" in address else "source_v4": address if source else ""})
        for _ in range(10):
            upstream.start(ask_for(peer.port, address=address), got)
        async with asyncio.timeout(30):
            while len(peer.queries) < 10:
                await asyncio.sleep(0)
        assert upstream.open_port_numbers == sorted(port for _, port, *_ in peer.sources)
        assert len(set(upstream.open_port_numbers)) == 10
        for query, client in zip(peer.queries, peer.sources, strict=True):
            peer.transport.sendto(echo(query)[0], client)
        assert all(isinstance(x, Reply) for x in await got.wait(10))
        assert upstream.open_port_numbers == [], "with the reply its port is gone"
        assert upstream.sockets_opened == 10
        upstream.start(ask_for(peer.port, address=address), got)
        async with asyncio.timeout(30):
            while len(peer.queries) < 11:
                await asyncio.sleep(0)
        assert upstream.sockets_opened == 10, "the sockets are used again"
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("source", ["", "own"])
def test_fresh_ports_are_spread_evenly_over_the_range_of_the_system(address: str, source: str) -> None:
    """Chi-square of 64 classes over 4,000 asks, and the same for the steps from one port to the next one."""

    async def body() -> None:
        peer, got = await UdpPeer.start(address=address), Collector()
        upstream = make(**{"source_v6" if ":" in address else "source_v4": address if source else ""})
        for _ in range(80):
            for _ in range(50):
                upstream.start(ask_for(peer.port, address=address), got)
            await got.wait(len(got.results) + 50)
        ports = [port for _, port, *_ in peer.sources]
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        assert low <= min(ports) and max(ports) <= high
        size = high - low + 1
        steps = [(after - before) % size for before, after in pairwise(ports)]
        for values, expected in (([port - low for port in ports], 4000 / 64), (steps, 3999 / 64)):
            classes = Counter(value * 64 // size for value in values)
            deviation = sum((classes[n] - expected) ** 2 / expected for n in range(64))
            # 63 degrees of freedom: even ports exceed 130 once in a million runs, pooled ones are in the thousands.
            assert deviation < 130, deviation
        assert upstream.sockets_opened <= 50
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("port_per_query", [False, True])
def test_probing_does_not_distinguish_an_open_port_from_a_closed_one(port_per_query: bool) -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(port_per_query=port_per_query), Collector()
        upstream.start(ask_for(peer.port), got)
        async with asyncio.timeout(30):
            await peer.arrived.wait()
        refused = {}
        for what, port in (("open", peer.sources[0][1]), ("closed", free_port())):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("127.0.0.1", port))
                probe.send(b"anybody there?")
                # Loopback delivers inside send(): its answer is here, or there is none.
                refused[what] = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert refused == {"open": port_per_query, "closed": True}
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("late", [3, 40, 400])
def test_late_packets_of_a_port_are_not_read_for_the_next_query(late: int) -> None:
    """Packets in the socket's queue outlive the port: some read together with the reply, some after it."""

    async def body() -> None:
        def right_and_wrong(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [right, *(bytes([right[0] ^ 1 + n % 200, n % 251]) + right[2:] for n in range(late))]

        peer, got = await UdpPeer.start(right_and_wrong), Collector()
        upstream = make(sockets=1, unwanted_reply_threshold=2)

        def again(result: Reply | Failure) -> None:
            got(result)
            if len(got.results) < 6:
                upstream.start(ask_for(peer.port), again)

        upstream.start(ask_for(peer.port), again)
        assert all(isinstance(x, Reply) for x in await got.wait(6))
        assert (upstream.unwanted_replies, upstream.unknown_replies, upstream.spoofing_suspected) == (0, 0, 0)
        # Each query has a port of its own. The kernel draws them, and two draws of six may be equal.
        assert len(set(peer.sources)) >= 5
        upstream.close()
        peer.close()

    play(body)


def test_a_reply_after_its_timeout_is_not_delivered() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(sockets=1), Collector()
        upstream.start(ask_for(peer.port, timeout=SHORT), got)
        await got.wait()
        upstream.start(ask_for(peer.port), got)
        async with asyncio.timeout(30):
            while len(peer.queries) < 2:
                await asyncio.sleep(0)
        late = peer.queries[1][:2] + echo(peer.queries[0])[0][2:]
        peer.transport.sendto(late, peer.sources[0])  # as if its id had been guessed, but the port is the old one
        peer.transport.sendto(echo(peer.queries[1])[0], peer.sources[1])
        assert isinstance((await got.wait(2))[1], Reply)
        assert upstream.unwanted_replies == 0
        upstream.close()
        peer.close()

    play(body)


def test_asks_wait_for_one_of_a_bounded_number_of_sockets() -> None:
    async def body() -> None:
        peer, got = await UdpPeer.start(lambda _: []), Collector()
        upstream = make(sockets=4, kept=2)
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(40)]
        most = 0
        async with asyncio.timeout(30):
            for n in range(0, 36, 4):
                while len(peer.queries) < n + 4:
                    await asyncio.sleep(0)
                most = max(most, len(upstream.open_port_numbers))
                assert len(peer.queries) == n + 4
                for query, client in zip(peer.queries[n:], peer.sources[n:], strict=True):
                    peer.transport.sendto(echo(query)[0], client)
        await got.wait(36)
        assert most == 4
        for handle in handles:
            handle.cancel()
        assert (upstream.pending, upstream.open_sockets) == (0, 2)
        upstream.close()
        peer.close()

    play(body)


def test_an_ask_that_waits_for_a_socket_can_be_cancelled_and_has_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        peer, got, first = await UdpPeer.start(lambda _: []), Collector(), Collector()
        upstream = make(sockets=1)
        monkeypatch.setattr(limits, "UDP_WAITING", 2)
        upstream.start(ask_for(peer.port), first)
        waiting = [upstream.start(ask_for(peer.port, timeout=SHORT), got) for _ in range(3)]
        waiting[0].cancel()
        failures = await got.wait(2)
        for failure in failures:
            assert isinstance(failure, Failure)
            assert failure.kind is FailureKind.LOCAL_RESOURCE, "nothing was sent"
        assert "in use" in failures[0].text and "in time" in failures[1].text
        assert (len(peer.queries), first.results, upstream.timeouts) == (1, [], 0)
        upstream.start(ask_for(peer.port), got)
        upstream.close()
        assert upstream.pending == 0
        peer.close()

    play(body)


@pytest.mark.parametrize(
    ("silent", "honest"),
    [
        (("127.0.0.1", "silent."), ("127.0.1.1", "honest.")),
        (("127.0.0.1", "same."), ("127.0.1.1", "same.")),
        (("127.0.0.1", "silent."), ("127.0.0.1", "honest.")),
    ],
    ids=["networks", "networks of one zone", "zones of one network"],
)
def test_silent_servers_do_not_take_the_sockets_of_others(silent: tuple[str, str], honest: tuple[str, str]) -> None:
    async def body() -> None:
        mute, peer = await UdpPeer.start(lambda _: [], silent[0]), await UdpPeer.start(echo, honest[0])
        upstream, lost, got = make(sockets=4, kept=0, replied_networks=replied(honest[0])), Collector(), Collector()
        for _ in range(40):
            upstream.start(ask_for(mute.port, address=silent[0], zone=names.from_text(silent[1])), lost)
        await _queries(mute, 4)
        for _ in range(10):
            upstream.start(ask_for(peer.port, address=honest[0], zone=names.from_text(honest[1])), got)
        assert all(isinstance(result, Reply) for result in await got.wait(10))
        assert lost.results == []
        assert 0 < upstream.evicted <= 10
        assert (upstream.pending, upstream.open_sockets) == (40, 4)
        upstream.close()
        mute.close()
        peer.close()

    play(body)


async def _queries(peer: UdpPeer, count: int) -> None:
    async with asyncio.timeout(30):
        while len(peer.queries) < count:
            peer.arrived.clear()
            await peer.arrived.wait()


def test_an_evicted_query_is_sent_again_and_answered() -> None:
    async def body() -> None:
        mute, other = await UdpPeer.start(lambda _: []), await UdpPeer.start(lambda _: [], "127.0.1.1")
        upstream, got, rest = make(sockets=2, kept=1, replied_networks=replied("127.0.1.1")), Collector(), Collector()
        for _ in range(2):
            upstream.start(ask_for(mute.port), got)
        await _queries(mute, 2)
        taken = upstream.start(ask_for(other.port, address="127.0.1.1"), rest)
        also = upstream.start(ask_for(other.port, address="127.0.1.1"), rest)
        await _queries(other, 1)
        assert (upstream.evicted, len(mute.queries), len(other.queries)) == (1, 2, 1), "each network has its half"
        also.cancel()
        taken.cancel()
        await _queries(mute, 3)
        assert mute.queries[2][:2] == mute.queries[0][:2], "the oldest one had made room"
        for query, source in zip(mute.queries[1:], mute.sources[1:], strict=True):
            mute.transport.sendto(echo(query)[0], source)
        assert all(isinstance(result, Reply) for result in await got.wait(2))
        assert (upstream.pending, upstream.open_sockets, upstream.timeouts) == (0, 1, 0)
        upstream.close()
        mute.close()
        other.close()

    play(body)


def test_a_query_evicted_in_its_first_iteration_is_sent_once_or_is_no_timeout() -> None:
    async def body() -> None:
        mute, peer = await UdpPeer.start(lambda _: []), await UdpPeer.start(echo, "127.0.1.1")
        upstream, lost, got = make(sockets=2, replied_networks=replied("127.0.1.1")), Collector(), Collector()
        for _ in range(2):
            upstream.start(ask_for(mute.port, timeout=SHORT), lost)
        handle = upstream.start(ask_for(peer.port, address="127.0.1.1"), got)
        handle.cancel()  # what had made room has its socket again, before anything was sent
        upstream.start(ask_for(peer.port, address="127.0.1.1"), got)
        await got.wait()
        failures = await lost.wait(2)
        assert {failure.kind for failure in failures if isinstance(failure, Failure)} <= {
            FailureKind.TIMEOUT, FailureKind.LOCAL_RESOURCE}
        assert len(mute.queries) <= 2
        assert upstream.timeouts + upstream.network_errors == 2
        assert upstream.pending == 0
        upstream.close()
        mute.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("taken_first", [True, False], ids=["honest first", "silent first"])
def test_silent_servers_each_in_a_network_of_its_own_have_one_share(taken_first: bool) -> None:
    """Glue may contain any address, so all networks that never replied are counted as one."""

    async def body() -> None:
        honest, dark = await UdpPeer.start(echo, "127.0.1.1"), await UdpPeer.start(lambda _: [], "0.0.0.0")
        upstream, got, lost = make(sockets=16), Collector(), Collector()
        upstream.start(ask_for(honest.port, address="127.0.1.1"), got)
        await got.wait()
        honest.script = lambda _: []

        def ask_honest() -> None:
            for number in range(16):
                zone = names.from_text(f"honest{number}.")
                upstream.start(ask_for(honest.port, address="127.0.1.1", zone=zone), got)

        def ask_dark() -> None:
            for number in range(200):
                zone = names.from_text(f"silent{number}.")
                upstream.start(ask_for(dark.port, address=f"127.1.{number}.1", zone=zone), lost)

        for ask in (ask_honest, ask_dark) if taken_first else (ask_dark, ask_honest):
            ask()
        assert upstream.evicted == 8, "half of the sockets are enough for all of them"
        await _queries(honest, 9)
        for query, source in zip(honest.queries[1:], honest.sources[1:], strict=True):
            honest.transport.sendto(echo(query)[0], source)
        assert all(isinstance(result, Reply) for result in await got.wait(9))
        upstream.close()
        honest.close()
        dark.close()

    play(body)


def test_an_ask_leaves_the_queue_though_its_network_replied_in_the_meantime() -> None:
    async def body() -> None:
        peer, got = await UdpPeer.start(lambda _: []), Collector()
        upstream = make(sockets=2, kept=0)
        asks = [upstream.start(ask_for(peer.port), got) for _ in range(4)]
        await _queries(peer, 2)
        peer.transport.sendto(echo(peer.queries[0])[0], peer.sources[0])
        await got.wait()
        asks[3].cancel()
        await _queries(peer, 3)
        for query, source in zip(peer.queries[1:], peer.sources[1:], strict=True):
            peer.transport.sendto(echo(query)[0], source)
        await got.wait(3)
        assert (upstream.pending, upstream.open_sockets, len(peer.queries)) == (0, 0, 3)
        upstream.close()
        peer.close()

    play(body)


def _fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, callback: str = "") -> None:
    """Make the next call of `owner.name` raise MemoryError, with `callback` only a call with that method."""
    real, calls = getattr(owner, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not calls and (not callback or getattr(args[0], "__name__", "") == callback):
            calls.append(args)
            raise MemoryError
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("where", ["shares", "line", "loop"])
def test_lack_of_memory_to_pass_a_socket_on_loses_no_reply_and_no_socket(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def body() -> None:
        loop, faults = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        peer, first, second, third = await UdpPeer.start(lambda _: []), Collector(), Collector(), Collector()
        upstream = make(sockets=1)
        upstream.start(ask_for(peer.port), first)
        upstream.start(ask_for(peer.port, timeout=0.5), second)
        await _queries(peer, 1)
        if where == "loop":
            _fail_once(monkeypatch, loop, "call_soon", "_flush")
        else:
            _fail_once(monkeypatch, *{"shares": (UpstreamSlots, "add"), "line": (WaitQueue, "next")}[where])
        peer.transport.sendto(echo(peer.queries[0])[0], peer.sources[0])
        [result] = await first.wait()
        assert isinstance(result, Reply)
        assert upstream.open_sockets == 0
        [failure] = await second.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "nothing was sent"
        peer.script = echo
        upstream.start(ask_for(peer.port), third)
        assert isinstance((await third.wait())[0], Reply)
        assert (upstream.pending, upstream.open_sockets, upstream.sent, faults) == (0, 1, 2, [])
        upstream.close()
        peer.close()

    play(body)


def test_a_query_that_is_never_sent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        peer, first, lost = await UdpPeer.start(), Collector(), Collector()
        upstream = make()
        loop = asyncio.get_running_loop()
        real = loop.call_soon
        monkeypatch.setattr(loop, "call_soon", lambda callback, *args, **options: None
                            if getattr(callback, "__name__", "") == "_flush" else real(callback, *args, **options))
        upstream.start(ask_for(peer.port, timeout=SHORT), lost)
        [failure] = await lost.wait()
        assert isinstance(failure, Failure)
        assert (failure.kind, upstream.timeouts, upstream.pending) == (FailureKind.LOCAL_RESOURCE, 0, 0)
        monkeypatch.undo()
        _fail_once(monkeypatch, loop, "call_soon", "_flush")
        upstream._flush()
        with pytest.raises(MemoryError):
            upstream.start(ask_for(peer.port), lost)
        assert upstream.pending == 0
        for _ in range(2):
            upstream.start(ask_for(peer.port), first)
        assert all(isinstance(result, Reply) for result in await first.wait(2))
        assert (len(lost.results), upstream.open_sockets) == (1, 2), "a socket was given back once"
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize(
    ("timeout", "waited"), [(0.2, 0.0), (2.0, 1.8)], ids=["sent again at once", "sent again late"]
)
def test_the_timeout_of_an_evicted_query_continues(timeout: float, waited: float) -> None:
    async def body() -> None:
        mute, other = await UdpPeer.start(lambda _: []), await UdpPeer.start(lambda _: [], "127.0.1.1")
        upstream, lost, rest = make(sockets=2, replied_networks=replied("127.0.1.1")), Collector(), Collector()
        upstream.start(ask_for(mute.port, timeout=timeout), lost)
        upstream.start(ask_for(mute.port), rest)
        upstream._flush()
        _let_pass(0.05)
        began = time.monotonic()
        taken = upstream.start(ask_for(other.port, address="127.0.1.1"), rest)
        assert upstream.evicted == 1
        _let_pass(waited)
        taken.cancel()
        upstream._flush()
        # Without a wait: the rest of the timeout, and as long as it had no socket, however slow this machine is.
        without = time.monotonic() - began
        _let_pass(timeout - waited if waited else timeout - 0.03 + without)
        assert lost.results == []
        upstream._expire()
        [failure] = lost.results
        assert isinstance(failure, Failure)
        assert failure.kind is (FailureKind.LOCAL_RESOURCE if waited else FailureKind.TIMEOUT), (
            "was it the server's silence?"
        )
        assert upstream.timeouts == (0 if waited else 1)
        upstream.close()
        mute.close()
        other.close()

    play(body)


def test_one_network_does_not_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        mute, other = await UdpPeer.start(lambda _: []), await UdpPeer.start(lambda _: [], "127.0.1.1")
        upstream, got, rest = make(sockets=2, replied_networks=replied("127.0.1.1")), Collector(), Collector()
        monkeypatch.setattr(limits, "UDP_WAITING", 8)
        upstream.start(ask_for(other.port, address="127.0.1.1"), rest)
        for _ in range(11):
            upstream.start(ask_for(mute.port), got)
        for failure in await got.wait(4):
            assert isinstance(failure, Failure)
            assert (failure.kind, failure.text) == (FailureKind.LOCAL_RESOURCE, "all outgoing ports are in use")
        upstream.start(ask_for(other.port, address="127.0.1.1"), rest)
        for _ in range(3):
            await asyncio.sleep(0)
        assert (rest.results, len(got.results), upstream.pending) == ([], 4, 9)
        upstream.close()
        mute.close()
        other.close()

    play(body)


@pytest.mark.parametrize("cancelled", [False, True], ids=["answered", "cancelled"])
def test_all_sockets_are_closed_after_an_idle_time(
    monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(limits, "UDP_SOCKET_IDLE", 50)

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: [] if cancelled else echo(_)), make(), Collector()
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(20)]
        await _queries(peer, 20)
        if cancelled:
            for handle in handles:
                handle.cancel()
        else:
            await got.wait(20)
        assert (upstream.pending, upstream.open_sockets) == (0, 20), "the next burst finds them"
        await until(lambda: not upstream.open_sockets, "the end of sockets that nobody needs")
        if not cancelled:
            upstream.start(ask_for(peer.port), got)
            assert isinstance((await got.wait(21))[20], Reply)
        upstream.close()
        peer.close()

    play(body)


def test_a_socket_in_occasional_use_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UDP_SOCKET_IDLE", 50)

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        for _ in range(5):
            upstream.start(ask_for(peer.port), got)
        await got.wait(5)
        async with asyncio.timeout(30):
            while upstream.open_sockets > 1:
                upstream.start(ask_for(peer.port), got)
                await got.wait(len(got.results) + 1)
        for _ in range(200):
            upstream.start(ask_for(peer.port), got)
            await got.wait(len(got.results) + 1)
        assert upstream.sockets_opened == 5
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("port_per_query", [False, True])
def test_no_descriptors_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, port_per_query: bool
) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(port_per_query=port_per_query), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        real = socket.socket
        monkeypatch.setattr(socket, "socket", refuse)
        for _ in range(50):
            upstream.start(ask_for(peer.port), got)
        empty, failed = make(port_per_query=port_per_query), Collector()
        empty.start(ask_for(peer.port), failed)
        [failure] = await failed.wait()
        monkeypatch.setattr(socket, "socket", real)
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE
        assert "Too many open files" in failure.text
        # One socket is open: it serves all queries.
        assert all(isinstance(x, Reply) for x in await got.wait(51))
        assert upstream.sockets_opened == 1
        assert (len({source[1] for source in peer.sources}) == 1) != port_per_query
        empty.close()
        upstream.close()
        peer.close()

    with caplog.at_level(logging.WARNING):
        play(body)
    assert len(caplog.records) == 2     # one for each upstream, not one for each query


@pytest.mark.parametrize("uses", [65_536, 100], ids=["one port", "ports that retire"])
def test_a_query_waits_when_every_port_of_the_pool_is_full(monkeypatch: pytest.MonkeyPatch, uses: int) -> None:
    monkeypatch.setattr(limits, "UDP_PORT_PENDING", 200)

    async def body() -> None:
        peer, got, late = await UdpPeer.start(lambda _: []), Collector(), Collector()
        upstream = make(port_per_query=False, ports=1, port_uses=uses)
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(200)]
        waiting = upstream.start(ask_for(peer.port, qname=names.from_text("waiting.")), late)
        upstream.start(ask_for(peer.port, timeout=SHORT), late)
        [failure] = await late.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "nothing was sent"
        await _queries(peer, 200)
        peer.script = echo
        handles[7].cancel()
        assert isinstance((await late.wait(2))[1], Reply)
        for handle in (*handles, waiting):
            handle.cancel()
        assert (upstream.pending, upstream.evicted, got.results) == (0, 0, [])
        again = [upstream.start(ask_for(peer.port), got) for _ in range(200)]
        assert all(isinstance(result, Reply) for result in await got.wait(len(again)))
        assert upstream.open_sockets == 1
        upstream.close()
        peer.close()

    play(body)


def test_no_port_of_the_pool_has_more_queries_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are chosen at random. With more queries on one, a forged reply is more likely to match."""
    monkeypatch.setattr(limits, "UDP_PORT_PENDING", 50)

    async def body() -> None:
        peer, got = await UdpPeer.start(lambda _: []), Collector()
        upstream = make(port_per_query=False, ports=4, port_uses=65_536)
        for _ in range(200):
            upstream.start(ask_for(peer.port), got)
        await _queries(peer, 200)
        assert list(Counter(source[1] for source in peer.sources).values()) == [50] * 4
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("uses", [65_536, 20], ids=["one port", "ports that retire"])
def test_silent_servers_do_not_take_the_pool_of_ports_from_others(monkeypatch: pytest.MonkeyPatch, uses: int) -> None:
    monkeypatch.setattr(limits, "UDP_PORT_PENDING", 32)
    silent_zone, other_zone = names.from_text("silent."), names.from_text("other.")

    async def body() -> None:
        mute, honest = await UdpPeer.start(lambda _: [], "0.0.0.0"), await UdpPeer.start(echo, "127.0.3.1")
        upstream = make(port_per_query=False, ports=1, port_uses=uses, replied_networks=replied("127.0.3.1"))
        lost, got = Collector(), Collector()
        for number in range(100):
            upstream.start(ask_for(mute.port, address=f"127.0.1.{number + 1}", zone=silent_zone), lost)
        for _ in range(20):
            upstream.start(ask_for(honest.port, address="127.0.3.1"), got)
        assert all(isinstance(result, Reply) for result in await got.wait(20))
        upstream.start(ask_for(mute.port, address="127.0.2.1", zone=other_zone), lost)
        await until(lambda: mute.sources, "queries to the silent ones")
        assert 0 < upstream.evicted <= 21
        assert upstream.pending == 101
        assert lost.results == [], "who made room waits as long as it would have waited for a reply"
        upstream.close()
        assert upstream.pending == 0
        mute.close()
        honest.close()

    play(body)


def test_oversized_datagram_is_no_reply() -> None:
    """The first part of a longer datagram is a whole message here: only MSG_TRUNC shows that it was cut."""
    async def body() -> None:
        def too_long_then_right(query: bytes) -> list[bytes]:
            head = query[:2] + b"\x80\0\0\1\0\1" + bytes(4) + query[12 : 12 + len(QNAME) + 4] + b"\xc0\x0c"
            rest = limits.UDP_RECEIVE - len(head) - 10
            whole = head + b"\xff\0\0\1" + bytes(4) + rest.to_bytes(2, "big") + bytes(rest)
            return [whole + b"\0", whole]

        peer, upstream, got = await UdpPeer.start(too_long_then_right), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert len(reply.view.wire) == limits.UDP_RECEIVE
        assert upstream.malformed == 1
        upstream.close()
        peer.close()

    play(body)


def test_trailing_octets_make_a_reply_invalid() -> None:
    async def body() -> None:
        peer = await UdpPeer.start(lambda query: [echo(query)[0] + b"\0", *echo(query)])
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert upstream.malformed == 1
        upstream.close()
        peer.close()

    play(body)


def test_fault_in_a_callback_is_reported_and_the_batch_goes_on() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        reported: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        def faulty(_: object) -> None:
            raise RuntimeError("a bug")

        upstream.start(ask_for(peer.port), faulty)
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        while not reported:
            await asyncio.sleep(0)
        assert str(reported[0]["exception"]) == "a bug"
        upstream.close()
        peer.close()

    play(body)


def test_ipv6_and_a_fixed_source_address() -> None:
    async def body() -> None:
        peer6, peer4 = await UdpPeer.start(address="::1"), await UdpPeer.start()
        upstream, got = make(source_v4="127.0.0.9"), Collector()
        upstream.start(ask_for(peer6.port, address="::1"), got)
        upstream.start(ask_for(peer4.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(2))
        assert peer4.sources[0][0] == "127.0.0.9"
        upstream.close()
        peer6.close()
        peer4.close()

    play(body)


def test_closed_upstream_refuses_and_forgets() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        upstream.close()
        assert upstream.pending == 0
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert "closed" in failure.text
        assert len(got.results) == 1
        peer.close()

    play(body)


def test_ids_on_one_port_of_the_pool_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many random ids some are equal, except with a probability of 1 in 10**29."""
    monkeypatch.setattr(limits, "UDP_PORT_PENDING", 5000)

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(port_per_query=False, ports=1, port_uses=65_536), Collector()
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(3000)]
        for handle in handles[1:]:
            handle.cancel()
        assert upstream.pending == 1
        assert isinstance((await got.wait())[0], Reply)
        upstream.close()
        peer.close()

    play(body)
