"""Queries over QUIC to scripted servers: identity, padding, streams, and every way to fail."""

import asyncio
from typing import Any

import pytest
from qh3.quic.connection import QuicConnection
from support import waiting
from support.certs import Authority, Leaf
from support.observed import Observed
from support.quic_server import QuicServer, framed
from support.upstream_peers import QNAME, Collector, StreamPeer, UdpPeer, echo

import corenet
from resolver import limits
from resolver.api import Resolver
from resolver.effects import Ask, Failure, FailureKind, Reply, Server
from resolver.net import doq
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.quic_upstream import QuicConnection as QuicConnectionOfUpstream
from resolver.net.quic_upstream import QuicUpstream
from resolver.net.upstream import Upstream
from resolver.settings import ForwardZone, IterationSettings
from resolver.upstream_address import Encryption, parse_upstream
from resolver.wire import consts as c
from resolver.wire.message import MessageView

NAME = "dns.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Leaf:
    return authority.leaf(NAME, "127.0.0.1")


def make(authority: Authority, **options: Any) -> QuicUpstream:
    return QuicUpstream(
        asyncio.get_running_loop(), entropy=Entropy(), contexts=TlsContexts(str(authority.cafile)), **options
    )


def ask_for(port: int, *, name: str = NAME, pins: tuple[str, ...] = (), **options: Any) -> Ask:
    options.setdefault("timeout", 20.0)
    return Ask(Server("127.0.0.1", port, None, Encryption("quic", name, pins)), QNAME, c.A, tcp=True, **options)


async def one(upstream: QuicUpstream, ask: Ask) -> Reply | Failure:
    got = Collector()
    upstream.start(ask, got)
    result: Reply | Failure = (await got.wait(1))[0]
    return result


def failure(result: Reply | Failure) -> Failure:
    assert isinstance(result, Failure)
    return result


@pytest.mark.parametrize("run", [corenet.run, asyncio.run], ids=["corenet", "asyncio"])
def test_one_connection_serves_queries_and_describes_itself(authority: Authority, leaf: Leaf, run: Any) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf), make(authority)
        observed = Observed(None, {})
        upstream.observer = observed.observer
        for _ in range(5):
            reply = await one(upstream, ask_for(server.port, edns_payload=1232))
            assert isinstance(reply, Reply) and reply.tcp
        assert reply.connection is not None
        facts = reply.connection.describe()
        assert (facts["alpn"], facts["subject"], facts["resumed"]) == ("doq", NAME, False)
        assert len(server.connections) == 1 and upstream.handshakes == 1
        messages = observed.exchanged()
        assert messages[::2] == [("RESOLVER_QUERY", "DOQ", query) for query in server.queries]
        assert [kind[:2] for kind in messages[1::2]] == [("RESOLVER_RESPONSE", "DOQ")] * 5
        for query in server.queries:
            view = MessageView.parse(query)
            assert view.id == 0 and len(query) % limits.QUERY_PADDING_BLOCK == 0 and view.edns is not None
            assert view.edns.get(c.OPTION_KEEPALIVE) is None and view.edns.get(c.OPTION_PADDING) is not None
        upstream.close()
        await waiting.until(lambda: server.ended == [doq.NO_ERROR], "the end of the connection")
        server.close()

    run(body())


def test_many_queries_at_once(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        server, upstream, got = await QuicServer.start(leaf), make(authority), Collector()
        for _ in range(150):
            upstream.start(ask_for(server.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(150))
        for _ in range(3):  # streams come back
            got = Collector()
            for _ in range(100):
                upstream.start(ask_for(server.port), got)
            assert all(isinstance(x, Reply) for x in await got.wait(100))
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_server_that_permits_few_streams(authority: Authority, leaf: Leaf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection takes no new query, and another one is opened once for each query."""

    async def body() -> None:
        server, upstream = await QuicServer.start(leaf), make(authority)

        def refuse(session: object, message: bytes) -> int:
            raise ValueError

        monkeypatch.setattr("resolver.net.quic_upstream._Session.open_stream", refuse)
        found = failure(await one(upstream, ask_for(server.port)))
        assert "permits no stream" in found.text and len(server.connections) == 2
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_server_without_the_right_name_or_pin_is_refused(authority: Authority, leaf: Leaf, tmp_path: Any) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf), make(authority)
        pin = "A" * 43 + "="
        for ask, reason in (
            (ask_for(server.port, name="other.example"), "must be valid for other.example"),
            (ask_for(server.port, pins=(pin,)), "none of the pinned ones"),
            (ask_for(server.port, name="", pins=(pin,)), "none of the pinned ones"),
        ):
            found = failure(await one(upstream, ask))
            assert found.kind is FailureKind.NETWORK and reason in found.text, found.text
        untrusting = QuicUpstream(
            asyncio.get_running_loop(), entropy=Entropy(), contexts=TlsContexts(str(Authority(tmp_path).cafile))
        )
        assert "certificate" in failure(await one(untrusting, ask_for(server.port))).text
        assert server.queries == [] and upstream.refused == 3
        upstream.close()
        untrusting.close()
        server.close()

    corenet.run(body())


def test_a_pin_without_a_name(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf), make(authority)
        reply = await one(upstream, ask_for(server.port))
        assert isinstance(reply, Reply) and reply.connection is not None
        pin = str(reply.connection.describe()["pin"])
        again = await one(upstream, ask_for(server.port, name="", pins=(pin,)))
        assert isinstance(again, Reply) and len(server.connections) == 2
        upstream.close()
        server.close()

    corenet.run(body())


def test_another_alpn(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf, alpn="h3"), make(authority)
        found = failure(await one(upstream, ask_for(server.port)))
        assert found.kind is FailureKind.NETWORK and server.queries == []
        upstream.close()
        server.close()

    corenet.run(body())


def two(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.send_stream_data(stream, framed(echo(query)[0]) * 2, True)


def half(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.send_stream_data(stream, framed(echo(query)[0])[:-1], True)


def reset(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.reset_stream(stream, doq.EXCESSIVE_LOAD)


def other(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.send_stream_data(stream, framed(b"\0\1" + echo(query)[0][2:]), True)


def opens(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.send_stream_data(quic.get_next_available_stream_id(), b"x", False)


def ends(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
    quic.close(doq.EXCESSIVE_LOAD)


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (two, FailureKind.MALFORMED, "more than one message on a stream"),
        (half, FailureKind.MALFORMED, "a stream ended within its message"),
        (reset, FailureKind.NETWORK, "reset the stream: excessive load"),
        (other, FailureKind.MALFORMED, "not the reply to the query of its stream"),
        (opens, FailureKind.MALFORMED, "the server has opened a stream"),
        (ends, FailureKind.NETWORK, "connection lost: excessive load"),
    ],
)
def test_misbehaving_servers_are_failures(
    authority: Authority, leaf: Leaf, script: Any, kind: FailureKind, reason: str
) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf, script), make(authority)
        found = failure(await one(upstream, ask_for(server.port)))
        assert found.kind is kind and reason in found.text, found.text
        assert upstream.connection_count <= 1
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_cancelled_query_cancels_its_stream(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        held: list[bytes] = []
        server = await QuicServer.start(leaf, lambda server, quic, stream, query: held.append(query))
        upstream, got = make(authority), Collector()
        entry = upstream.start(ask_for(server.port), got)
        await waiting.until(lambda: held, "the query")
        entry.cancel()
        await waiting.until(lambda: server.cancelled == [doq.REQUEST_CANCELLED], "the cancellation")
        assert got.results == [] and upstream.connection_count == 1
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_reply_cancels_a_query_whose_reply_came_with_it(authority: Authority, leaf: Leaf) -> None:
    """The library has the whole second reply then, and refuses to stop its stream. That concerns nobody."""

    async def body() -> None:
        held: list[tuple[QuicConnection, int, bytes]] = []
        server = await QuicServer.start(
            leaf, lambda server, quic, stream, query: held.append((quic, stream, query))
        )
        upstream, problems = make(authority), []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        first: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        second = Collector()

        def take(result: Reply | Failure) -> None:
            first.set_result(result)
            entry.cancel()

        upstream.start(ask_for(server.port), take)
        entry = upstream.start(ask_for(server.port), second)
        await waiting.until(lambda: len(held) == 2, "the queries")
        for quic, stream, query in held:
            quic.send_stream_data(stream, framed(echo(query)[0]), True)  # both in one datagram
        server.flush(held[0][0])
        assert isinstance(await first, Reply)
        assert problems == [] and second.results == []
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_query_after_a_reply_that_ends_the_connection(authority: Authority, leaf: Leaf) -> None:
    """The reply and the end of the connection arrive together, and the reply causes the next query."""

    async def body() -> None:
        loop, replied = asyncio.get_running_loop(), list[bytes]()

        def last(server: QuicServer, quic: QuicConnection, stream: int, query: bytes) -> None:
            quic.send_stream_data(stream, framed(echo(query)[0]), True)
            if not replied:
                replied.extend(data for data, _ in quic.datagrams_to_send(loop.time()))
                quic.close(doq.NO_ERROR)
                replied.extend(data for data, _ in quic.datagrams_to_send(loop.time()))

        server, upstream, second = await QuicServer.start(leaf, last), make(authority), Collector()
        problems: list[Any] = []
        loop.set_exception_handler(lambda loop, context: problems.append(context))
        upstream.start(ask_for(server.port), lambda result: upstream.start(ask_for(server.port), second))
        await waiting.until(lambda: replied, "the reply")
        (connection,) = next(iter(upstream._queues.values())).connections
        assert isinstance(connection, QuicConnectionOfUpstream) and connection.session is not None
        for data in replied[:-1]:
            connection.session._quic.receive_datagram(data, ("127.0.0.1", server.port), loop.time())
        connection.session.datagram_received(replied[-1], ("127.0.0.1", server.port))
        assert isinstance((await second.wait(1))[0], Reply)
        assert problems == [] and len(server.connections) == 2
        upstream.close()
        server.close()

    corenet.run(body())


def test_nothing_is_ever_sent_by_another_transport(authority: Authority, leaf: Leaf) -> None:
    """On the port of the server, nothing speaks QUIC; what listens for plain DNS over UDP and TCP sees no query."""

    async def body() -> None:
        stream = await StreamPeer.start()
        udp = await UdpPeer.start(lambda query: [], port=stream.port)
        upstream = Upstream(asyncio.get_running_loop(), IterationSettings(tls_cert_bundle=str(authority.cafile)))
        got = Collector()
        upstream.start(ask_for(stream.port, timeout=0.3), got)
        assert isinstance((await got.wait(1))[0], Failure)
        assert stream.connections == []
        assert all(data[0] & 0xC0 == 0xC0 for data in udp.queries)  # QUIC's own first packets
        assert upstream.statistics()["quic_connections_opened"] == 1
        upstream.close()
        udp.close()
        await stream.close()

    corenet.run(body())


def test_addresses() -> None:
    assert parse_upstream("quic://192.0.2.1#dns.example", 53, "x") == (
        "192.0.2.1", 853, Encryption("quic", "dns.example")
    )
    with pytest.raises(ValueError, match="has a path"):
        parse_upstream("quic://192.0.2.1/dns-query#dns.example", 53, "x")
    with pytest.raises(ValueError, match="no name and no pin"):
        ForwardZone(".", ("quic://192.0.2.1",))


def test_without_the_library_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resolver.net.quic_client.is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"zone '\.': QUIC needs qh3.*corenet-resolver\[quic\]"):
        Resolver(forward=["quic://192.0.2.1#dns.example"])
