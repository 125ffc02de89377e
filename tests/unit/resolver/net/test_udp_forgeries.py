"""Forged and malformed replies to queries over UDP: each is ignored, and the right one is still accepted.

Each forgery of the list of attacks has its test. A packet with wrong id, question, address or letter case is no reply.
A flood of them fails the query, so that TCP is tried. After a malformed reply the query keeps waiting (TuDoor). ICMP
errors and cookies of servers can be forged, too.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable

import pytest
from support.ports import free_port
from support.upstream_peers import Collector, StreamPeer, UdpPeer, ask_for, echo, play

from resolver.effects import Failure, FailureKind, Reply
from resolver.net.clock_random import Entropy
from resolver.net.udp_upstream import UdpUpstream
from resolver.net.upstream import Upstream
from resolver.settings import IterationSettings
from resolver.wire import consts as c
from resolver.wire.message import MessageView

SHORT = 0.05


def make(**options: object) -> UdpUpstream:
    return UdpUpstream(asyncio.get_running_loop(), entropy=Entropy(), **options)  # type: ignore[arg-type]


FORGERIES = {
    "id": lambda p: bytes([p[0] ^ 1]) + p[1:],
    "query": lambda p: p[:2] + bytes([p[2] & 0x7F]) + p[3:],
    "name": lambda p: p[:13] + bytes([p[13] ^ 2]) + p[14:],
    "short": lambda p: p[:9],
    "empty question": lambda p: p[:4] + bytes(8),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forgery_is_ignored_and_the_right_reply_accepted(forge: Callable[[bytes], bytes]) -> None:
    async def body() -> None:
        def script(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [forge(right), forge(right), right]

        peer, upstream, got = await UdpPeer.start(script), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert upstream.unwanted_replies == 2
        upstream.close()
        peer.close()

    play(body)


IPV6_FREEBIND = 78


def forger(of: UdpPeer, address: str, differs: str) -> socket.socket:
    """A socket whose address differs from that of the server only in the IP address, or only in the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if differs == "port":
            sock.bind((address, 0))
        elif family == socket.AF_INET:
            sock.bind(("127.0.0.2", of.port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)  # loopback has one IPv6 address only
            sock.bind(("fd00::2:77", of.port))
    except BaseException:
        sock.close()
        raise
    return sock


@pytest.mark.parametrize("port_per_query", [False, True], ids=["pool", "fresh"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("differs", ["address", "port"])
def test_a_reply_from_another_address_or_port_is_ignored(address: str, differs: str, port_per_query: bool) -> None:
    """Everything else is right: id, question, letter case and the port that it is sent to."""

    async def body() -> None:
        peer, got = await UdpPeer.start(lambda _: [], address), Collector()
        upstream = make(port_per_query=port_per_query)
        forging = forger(peer, address, differs)
        assert forging.getsockname()[:2] != (address, peer.port)
        assert (forging.getsockname()[0] == address) is (differs == "port")
        assert (forging.getsockname()[1] == peer.port) is (differs == "address")
        upstream.start(ask_for(peer.port, address=address), got)
        async with asyncio.timeout(30):
            await peer.arrived.wait()
        forged = bytearray(echo(peer.queries[0])[0])
        forged[3] |= c.REFUSED
        for _ in range(20):
            try:
                forging.sendto(forged, peer.sources[0][:2])
            except ConnectionRefusedError:
                assert port_per_query
        peer.transport.sendto(echo(peer.queries[0])[0], peer.sources[0])
        [reply] = await got.wait()
        assert isinstance(reply, Reply)
        assert reply.view.rcode == c.NOERROR, "the forged reply"
        # The kernel drops them when the socket is connected; in no case do they push a query to TCP.
        assert (upstream.unknown_replies, upstream.unwanted_replies) == (0 if port_per_query else 20, 0)
        assert upstream.spoofing_suspected == 0
        forging.close()
        upstream.close()
        peer.close()

    play(body)


def test_a_reply_with_other_letter_case_is_a_mismatch_at_once() -> None:
    async def body() -> None:
        def fold(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [right[:12] + right[12:].swapcase()]

        peer, upstream, got = await UdpPeer.start(fold), make(), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.CASE_MISMATCH
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("port_per_query", [False, True], ids=["pool", "fresh"])
def test_a_kaminsky_flood_ends_the_udp_query(port_per_query: bool) -> None:
    async def body() -> None:
        def flood(query: bytes) -> list[bytes]:
            [right] = echo(query)
            return [bytes([n, n]) + right[2:] for n in range(250) if bytes([n, n]) != query[:2]]

        peer, got = await UdpPeer.start(flood), Collector()
        upstream = make(unwanted_reply_threshold=5, port_per_query=port_per_query)
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SPOOF_SUSPECTED
        assert upstream.statistics()["spoofing_suspected"] == 1
        assert upstream.pending == 0
        upstream.close()
        peer.close()

    play(body)


def bare(query: bytes, rcode: int) -> list[bytes]:
    """A header-only error, which an attacker who guessed the id can send."""
    return [query[:2] + bytes([0x80, rcode]) + bytes(8)]


@pytest.mark.parametrize("port_per_query", [False, True], ids=["pool", "fresh"])
@pytest.mark.parametrize("rcode", [c.FORMERR, c.SERVFAIL, c.NOTIMP, c.REFUSED])
def test_an_error_without_a_question_is_accepted_over_tcp_only(rcode: int, port_per_query: bool) -> None:
    """It does not contain the letter case (0x20), so over UDP it only causes a retry over TCP.

    One ask is one exchange: nothing is sent over TCP before whoever asked says so.
    """

    async def body() -> None:
        port = free_port()
        peer = await UdpPeer.start(lambda query: bare(query, rcode), port=port)
        stream = await StreamPeer.start(lambda query: bare(query, rcode), port=port)
        upstream = Upstream(asyncio.get_running_loop(), IterationSettings(source_port_per_query=port_per_query))
        got = Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SPOOF_SUSPECTED
        found = upstream.statistics()
        assert (found["udp_no_question_errors"], found["udp_spoofing_suspected"]) == (1, 1)
        assert found["tcp_connections_opened"] == 0
        upstream.start(ask_for(peer.port, tcp=True), got)
        reply = (await got.wait(2))[1]
        assert isinstance(reply, Reply)
        assert (reply.tcp, reply.view.rcode, reply.view.qname) == (True, rcode, None)
        stream.script = echo
        upstream.start(ask_for(peer.port, tcp=True), got)
        reply = (await got.wait(3))[2]
        assert isinstance(reply, Reply)
        assert (reply.tcp, reply.view.rcode) == (True, c.NOERROR), "the first one was forged"
        await stream.close()
        upstream.close()
        peer.close()

    play(body)


def test_a_flood_of_header_only_replies_ends_the_udp_query() -> None:
    async def body() -> None:
        peer = await UdpPeer.start(lambda query: [bytes(12)] * 3)
        upstream, got = make(unwanted_reply_threshold=3), Collector()
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SPOOF_SUSPECTED
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


def test_a_reply_cut_inside_a_record_counts_as_truncated() -> None:
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
        async with asyncio.timeout(30):
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


def test_a_client_cookie_is_made_when_none_is_stored() -> None:
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
        assert upstream.statistics()["cookie_replies"] == 1
        upstream.close()
        peer.close()

    play(body)


@pytest.mark.parametrize("forged", [
    b"guessed!", b"guessed!server-part", b"", b"1234567", b"ours8byt" + b"too few",
    b"ours8byt" + b"too many" * 4 + b"x",
])
def test_a_reply_with_a_wrong_cookie_is_ignored(forged: bytes) -> None:
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
        assert (found["cookie_mismatches"], found["unwanted_replies"], found["cookie_replies"]) == (1, 1, 1)
        upstream.close()
        peer.close()

    play(body)


def test_a_flood_of_wrong_cookies_ends_the_udp_query() -> None:
    async def body() -> None:
        peer = await UdpPeer.start(lambda query: [with_cookie(query, b"guessed!server-part")] * 20)
        upstream, got = make(), Collector()
        upstream.start(ask_for(peer.port, cookie=b"ours8byt"), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.SPOOF_SUSPECTED
        upstream.close()
        peer.close()

    play(body)
