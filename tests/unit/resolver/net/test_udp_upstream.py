"""Asks over UDP against scripted servers: the right reply, every wrong one, loss, refusal, ports and descriptors.

Each forgery of the list of attacks has its test: an id, a question, an address or a letter case that is not right
never ends an ask, a flood of them moves it to TCP, and what cannot be parsed is waited out (TuDoor).
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine

import pytest
from support.upstream_peers import Collector, UdpPeer, ask_for, echo, open_descriptors

from resolver.effects import Failure, FailureKind, Reply
from resolver.net.ambient import Entropy
from resolver.net.udp_upstream import UdpUpstream
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

SHORT = 0.05


def play(body: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run one test body; every descriptor it opened must be gone afterwards."""
    async def checked() -> None:
        before = open_descriptors()
        await body()
        await asyncio.sleep(0)
        assert open_descriptors() == before

    asyncio.run(checked())


def make(**options: object) -> UdpUpstream:
    return UdpUpstream(asyncio.get_running_loop(), entropy=Entropy(), **options)  # type: ignore[arg-type]


def test_reply_comes_back_once_and_not_from_inside_start() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
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
        upstream.close()
        peer.close()

    play(body)


def test_packets_of_one_turn_leave_together_and_a_cancelled_one_never() -> None:
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
        # What comes back is spelled as it was asked: the random case ends here.
        assert [result.view.qname for result in got.results] == [qname] * 3
        upstream.close()
        peer.close()

    play(body)


def test_an_error_without_a_question_is_a_reply() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda q: [q[:2] + b"\x84\x01" + bytes(8)]), make(), Collector()
        upstream.start(ask_for(peer.port, qname=names.from_text("a." * 120 + "example.")), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert (reply.view.rcode, reply.view.qname) == (1, None)
        upstream.close()
        peer.close()

    play(body)


FORGERIES = {
    "id": lambda p: bytes([p[0] ^ 1]) + p[1:],
    "query": lambda p: p[:2] + bytes([p[2] & 0x7F]) + p[3:],
    "name": lambda p: p[:13] + bytes([p[13] ^ 2]) + p[14:],
    "short": lambda p: p[:9],
    "empty question": lambda p: p[:4] + bytes(8),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_forgery_is_passed_over_and_the_right_reply_still_counts(forge: Callable[[bytes], bytes]) -> None:
    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [forge(right), forge(right), right]

        peer, upstream, got = await UdpPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert upstream.near_misses == 2
        upstream.close()
        peer.close()

    play(body)


def test_reply_from_another_address_is_nobodys() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(), Collector()
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stranger.bind(("127.0.0.2", 0))
        upstream.start(ask_for(peer.port), got)
        await peer.arrived.wait()
        stranger.sendto(echo(peer.queries[0])[0], peer.sources[0])
        peer.transport.sendto(echo(peer.queries[0])[0], peer.sources[0])
        assert isinstance((await got.wait())[0], Reply)
        assert (upstream.strays, upstream.near_misses) == (1, 0)
        stranger.close()
        upstream.close()
        peer.close()

    play(body)


def test_folded_case_is_a_mismatch_at_once() -> None:
    async def body() -> None:
        def fold(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [right[:12] + right[12:].swapcase()]

        peer, upstream, got = await UdpPeer.start(fold), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.MISMATCH
        upstream.close()
        peer.close()

    play(body)


def test_kaminsky_flood_moves_the_ask_to_tcp() -> None:
    class Handle:
        def cancel(self) -> None:
            raise AssertionError("not cancelled here")

    async def body() -> None:
        moved = []

        def over_stream(ask: object, seconds: float, on_reply: Callable[[object], None]) -> Handle:
            moved.append((ask, seconds))
            asyncio.get_running_loop().call_soon(on_reply, "from tcp")
            return Handle()

        def flood(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [bytes([n, n]) + right[2:] for n in range(250) if bytes([n, n]) != query[:2]]

        peer, got = await UdpPeer.start(flood), Collector()
        upstream = make(over_stream=over_stream, near_miss_limit=5)
        ask = ask_for(peer.port)
        upstream.start(ask, got)
        assert await got.wait() == ["from tcp"]
        assert len(moved) == 1
        assert moved[0][0] is ask
        assert 0 < moved[0][1] <= ask.timeout
        assert upstream.moved_to_stream == 1
        assert upstream.pending == 0
        upstream.close()
        peer.close()

    play(body)


def test_flood_without_tcp_is_a_failure() -> None:
    async def body() -> None:
        peer = await UdpPeer.start(lambda query: [bytes(12)] * 3)
        upstream, got = make(near_miss_limit=3), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.MALFORMED
        upstream.close()
        peer.close()

    play(body)


def test_tudoor_unparsable_reply_is_waited_out() -> None:
    async def body() -> None:
        def broken_then_right(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [right[:7] + b"\x05" + right[8:], right]

        peer, upstream, got = await UdpPeer.start(broken_then_right), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait())[0], Reply)
        assert upstream.malformed == 1
        peer.script = lambda query: broken_then_right(query)[:1]
        upstream.start(ask_for(peer.port, timeout=SHORT), got)
        failure = (await got.wait(2))[1]
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.MALFORMED
        upstream.close()
        peer.close()

    play(body)


def test_reply_cut_inside_a_record_still_says_truncated() -> None:
    async def body() -> None:
        def cut(query: bytes) -> list[bytes]:
            return [query[:2] + b"\x82\0\0\1\0\1\0\0\0\0" + query[12:-11] + b"\xc0\x0c\0"]

        peer, upstream, got = await UdpPeer.start(cut), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert reply.view.tc
        upstream.close()
        peer.close()

    play(body)


def test_silence_is_a_timeout_and_a_late_reply_is_nothing() -> None:
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


def test_timeouts_of_many_lengths_all_come() -> None:
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


@pytest.mark.parametrize("fresh_ports", [False, True])
def test_closed_port_fails_quickly(fresh_ports: bool) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        upstream, got = make(fresh_ports=fresh_ports, ports=1), Collector()
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


def test_unusable_addresses_fail_as_values() -> None:
    async def body() -> None:
        upstream, got = make(), Collector()
        upstream.start(ask_for(53, address="not an address"), got)
        upstream.start(ask_for(0), got)
        results = await got.wait(2)
        assert all(isinstance(x, Failure) and x.kind is FailureKind.NETWORK for x in results)
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


def test_cancel_reaches_an_ask_that_moved_to_tcp() -> None:
    class Handle:
        cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

    async def body() -> None:
        handle = Handle()
        moved = asyncio.Event()

        def over_stream(*_: object) -> Handle:
            moved.set()
            return handle

        peer = await UdpPeer.start(lambda query: [bytes(12)])
        upstream, got = make(over_stream=over_stream, near_miss_limit=1), Collector()
        entry = upstream.start(ask_for(peer.port), got)
        await moved.wait()
        entry.cancel()
        entry.cancel()
        assert handle.cancelled == 1
        assert got.results == []
        upstream.close()
        peer.close()

    play(body)


def test_equal_questions_in_flight_do_not_collide() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(ports=2), Collector()
        for _ in range(150):
            upstream.start(ask_for(peer.port), got)
        results = await got.wait(150)
        assert all(isinstance(x, Reply) for x in results)
        asked = {(source, query[:2]) for source, query in zip(peer.sources, peer.queries, strict=True)}
        assert len(asked) == 150
        upstream.close()
        peer.close()

    play(body)


def test_ports_are_given_up_and_lie_all_over_the_range() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(ports=2, port_uses=3), Collector()
        for n in range(60):
            upstream.start(ask_for(peer.port), got)
            await got.wait(n + 1)
        ports = [source[1] for source in peer.sources]
        assert len(set(ports)) >= 20
        assert max(ports) - min(ports) > 20_000
        assert all(port >= 1024 for port in ports)
        assert len(upstream.open_port_numbers) <= 2
        assert upstream.ports_opened >= 20
        upstream.close()
        peer.close()

    play(body)


def test_old_ports_are_given_up() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(ports=1, port_age=0.0), Collector()
        for n in range(4):
            upstream.start(ask_for(peer.port), got)
            await got.wait(n + 1)
        assert len({source[1] for source in peer.sources}) == 4
        assert len(upstream.open_port_numbers) == 1
        upstream.close()
        peer.close()

    play(body)


def test_strict_mode_takes_a_port_for_each_query_and_closes_it() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(fresh_ports=True), Collector()
        for _ in range(10):
            upstream.start(ask_for(peer.port), got)
        assert len(upstream.open_port_numbers) == 10
        await got.wait(10)
        assert len({source[1] for source in peer.sources}) == 10
        assert upstream.open_port_numbers == []
        upstream.close()
        peer.close()

    play(body)


def test_no_descriptors_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait()
        real = socket.socket
        monkeypatch.setattr(socket, "socket", refuse)
        for _ in range(50):
            upstream.start(ask_for(peer.port), got)
        empty, failed = make(), Collector()
        empty.start(ask_for(peer.port), failed)
        [failure] = await failed.wait()
        monkeypatch.setattr(socket, "socket", real)
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.NETWORK
        assert "Too many open files" in failure.text
        # One port is open: it carries everything.
        assert all(isinstance(x, Reply) for x in await got.wait(51))
        assert len({source[1] for source in peer.sources}) == 1
        empty.close()
        upstream.close()
        peer.close()

    with caplog.at_level(logging.WARNING):
        play(body)
    assert len(caplog.records) == 2     # one for each upstream, not one for each query


def test_every_port_full_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda _: []), make(ports=1, port_uses=65_536), Collector()
        handles = [upstream.start(ask_for(peer.port), got) for _ in range(513)]
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert "full" in failure.text
        for handle in handles:
            handle.cancel()
        assert upstream.pending == 0
        upstream.close()
        peer.close()

    play(body)


def test_oversized_datagram_is_no_reply() -> None:
    async def body() -> None:
        peer = await UdpPeer.start(lambda query: [echo(query)[0] + bytes(5000)])
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port, timeout=SHORT), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
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


# --- what ICMP says (SAD DNS, CVE-2020-25705, and forged "unreachable") ---------------------------------------------


def unreachable(quoted: bytes, port: int, server: int) -> bytes:
    """An ICMP "port unreachable" about a datagram from `port` to `server` on loopback with this payload."""
    udp = struct.pack("!HHHH", port, server, 8 + len(quoted), 0) + quoted
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
    body = struct.pack("!BBHI", 3, 3, 0, 0) + ip + udp
    total = sum(struct.unpack(f"!{len(body) // 2}H", body[: len(body) // 2 * 2])) + (body[-1] << 8) * (len(body) % 2)
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big") + body[4:]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sends ICMP")
@pytest.mark.parametrize("lie", ["another id", "another name", "too short", "nothing"])
def test_icmp_about_a_packet_that_is_not_ours_ends_nothing(lie: str) -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(lambda query: []), make(ports=1), Collector()
        upstream.start(ask_for(peer.port), got)
        async with asyncio.timeout(5):
            await peer.arrived.wait()
        query, (_, port) = peer.queries[0], peer.sources[0]
        quoted = {
            "another id": bytes([query[0] ^ 1]) + query[1:], "another name": query[:14] + b"y" + query[15:],
            "too short": query[:11], "nothing": query,
        }[lie]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
            forger.sendto(unreachable(quoted, port, peer.port), ("127.0.0.1", 0))
        for _ in range(20):
            await asyncio.sleep(0)
        if lie == "nothing":
            [failure] = await got.wait()
            assert isinstance(failure, Failure), "what quotes the query itself is believed"
        else:
            assert got.results == []
            peer.transport.sendto(echo(query)[0], peer.sources[0])
            [reply] = await got.wait()
            assert isinstance(reply, Reply)
        upstream.close()
        peer.close()

    play(body)


# --- cookies --------------------------------------------------------------------------------------------------------


def with_cookie(query: bytes, cookie: bytes) -> bytes:
    """The smallest right reply, with another cookie in the place of the query's, which ends it."""
    sent = MessageView.parse(query).edns
    assert sent is not None
    option = struct.pack("!HH", c.OPTION_COOKIE, len(cookie)) + cookie
    head = echo(query)[0][: len(query) - len(sent.raw_options) - 2]
    return head + len(option).to_bytes(2, "big") + option


def test_a_cookie_of_our_own_is_made_when_none_is_known() -> None:
    async def body() -> None:
        peer, upstream, got = await UdpPeer.start(), make(), Collector()
        for cookie in (b"", b"", b"known-cookie-of-server", None):
            upstream.start(ask_for(peer.port, cookie=cookie), got)
        replies = await got.wait(4)
        sent = []
        for query in peer.queries:
            edns = MessageView.parse(query).edns
            assert edns is not None
            sent.append(edns.get(c.OPTION_COOKIE))
        assert len(sent[0]) == len(sent[1]) == 8
        assert sent[0] != sent[1]
        assert sent[2:] == [b"known-cookie-of-server", None]
        # An option that only comes back is no cookie, unless it holds a part of the server's.
        assert [reply.cookie for reply in replies] == [b"", b"", b"known-cookie-of-server", b""]
        assert upstream.statistics()["cookies"] == 1
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("forged", [b"guessed!", b"guessed!server-part", b"", b"1234567"])
def test_a_reply_with_a_wrong_cookie_never_happened(forged: bytes) -> None:
    async def body() -> None:
        right = b"ours8byt" + b"server-part"

        def script(query: bytes) -> list[bytes]:
            return [with_cookie(query, forged), with_cookie(query, right)]

        peer, upstream, got = await UdpPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port, cookie=b"ours8byt"), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert reply.cookie == right
        found = upstream.statistics()
        assert (found["cookie_mismatches"], found["near_misses"], found["cookies"]) == (1, 1, 1)
        upstream.close()
        peer.close()

    play(body)


def test_a_flood_of_wrong_cookies_moves_the_ask_to_tcp() -> None:
    async def body() -> None:
        moved: list[object] = []

        def over_stream(ask: object, seconds: float, on_reply: Callable[[object], None]) -> object:
            moved.append(ask)
            return Handle()

        class Handle:
            def cancel(self) -> None:
                """Nothing runs."""

        peer = await UdpPeer.start(lambda query: [with_cookie(query, b"guessed!server-part")] * 20)
        upstream, got = make(over_stream=over_stream), Collector()
        upstream.start(ask_for(peer.port, cookie=b"ours8byt"), got)
        async with asyncio.timeout(5):
            while not moved:
                await asyncio.sleep(0)
        assert got.results == []
        upstream.close()
        peer.close()

    play(body)
