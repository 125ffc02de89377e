"""Queries over HTTPS to scripted servers, over HTTP/2 and HTTP/1.1: requests, responses, limits, and failures."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from support.certs import Authority, Leaf
from support.h2_frames import PING, frame
from support.loop_clock import stopped_clock
from support.observed import Observed
from support.upstream_peers import QNAME, Collector, UdpPeer, echo
from support.waiting import spin

import corenet
from corenet.http.events import Data, End, Request, Response
from corenet.http.h1 import SERVER, H1Codec
from corenet.http.h2 import H2Connection
from corenet.http.h2_events import HTTP_1_1_REQUIRED
from resolver import limits
from resolver.cli.encrypted import exchange_encrypted
from resolver.cli.query import Exchange, NoReplyError
from resolver.effects import Ask, Failure, FailureKind, Reply, Server
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.https_upstream import HttpsUpstream, response_problem
from resolver.net.match import make_packet
from resolver.upstream_address import Encryption
from resolver.wire import consts as c
from resolver.wire.message import MessageView

NAME = "dns.example"
MEDIA = (b"content-type", b"application/dns-message")
Script = Callable[["Peer", bytes], "tuple[int, list[tuple[bytes, bytes]], bytes] | None"]
LOOPS = pytest.mark.parametrize("run", [corenet.run, asyncio.run], ids=["corenet", "asyncio"])
BOTH = pytest.mark.parametrize("alpn", ["h2", "http/1.1"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Leaf:
    return authority.leaf(NAME)


def right(peer: "Peer", query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return 200, [MEDIA], echo(query)[0]


class Peer:
    """An HTTPS server that follows a script; None as response: none is sent. `raw`, when set, is sent instead of HTTP.

    `last`, when set, is each response over HTTP/1.1, and the connection ends with it; `REPLY` is the DNS message, and
    `notify` tells whether TLS ends, too.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.raw = b""
        # Sent over HTTP/2 with the first response, in one piece.
        self.behind = b""
        self.last: bytes | None = None
        self.notify = True
        self.goaway_after = 0
        self.writers: list[asyncio.StreamWriter] = []

    @classmethod
    async def start(cls, leaf: Leaf, alpn: str, script: Script = right) -> "Peer":
        peer = cls(script)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        context.set_alpn_protocols(alpn.split(","))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            await (peer.serve_h2 if chosen == "h2" else peer.serve_h1)(reader, writer)

        peer.server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        peer.port = peer.server.sockets[0].getsockname()[1]
        return peer

    async def serve_h2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        codec = H2Connection(SERVER, max_streams=self.max_streams)
        bodies: dict[int, bytes] = {}
        heads: dict[int, Request] = {}
        writer.write(self.raw or codec.data_to_send())
        try:
            while received := await reader.read(65536):
                for stream, event in codec.feed(received):
                    if isinstance(event, Request):
                        heads[stream], bodies[stream] = event, b""
                    elif isinstance(event, Data):
                        bodies[stream] += event.data
                        codec.acknowledge(stream, len(event.data))
                    elif isinstance(event, End):
                        self.respond_h2(codec, stream, heads[stream], bodies[stream])
                writer.write(codec.data_to_send() + (self.behind if self.bodies else b""))
        except ConnectionError:
            pass
        finally:
            writer.close()

    max_streams: int | None = None

    def respond_h2(self, codec: H2Connection, stream: int, head: Request, body: bytes) -> None:
        self.requests.append(head)
        self.bodies.append(body)
        found = self.script(self, body)
        if self.goaway_after and len(self.bodies) >= self.goaway_after and not codec.goaway_sent:
            codec.goaway()
        if found is None:
            return
        status, fields, content = found
        if status < 0:
            codec.reset(stream, 7 if status == -1 else HTTP_1_1_REQUIRED)
            return
        codec.send_response(stream, Response(status, fields))
        codec.send_data(stream, content, True)

    async def serve_h1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        codec = H1Codec(SERVER)
        body = b""
        writer.write(self.raw)
        try:
            while received := await reader.read(65536):
                for event in codec.feed(received):
                    if isinstance(event, Request):
                        self.requests.append(event)
                        body = b""
                    elif isinstance(event, Data):
                        body += event.data
                    elif isinstance(event, End):
                        self.bodies.append(body)
                        if self.last is not None:
                            writer.write(self.last.replace(b"REPLY", echo(body)[0]))
                            if not self.notify:
                                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
                            return
                        found = self.script(self, body)
                        if found is None:
                            continue
                        status, fields, content = found
                        response = Response(status, [*fields, (b"content-length", str(len(content)).encode())])
                        writer.write(codec.send(response) + codec.send(Data(content)) + codec.send(End()))
                        codec.next_cycle()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.sleep(0)


def make(authority: Authority, **options: Any) -> HttpsUpstream:
    contexts = TlsContexts(str(authority.cafile))
    return HttpsUpstream(asyncio.get_running_loop(), entropy=Entropy(), contexts=contexts, **options)


def ask_for(port: int, *, name: str = NAME, **options: Any) -> Ask:
    options.setdefault("timeout", 20.0)
    server = Server("127.0.0.1", port, None, Encryption("https", name, (), "/dns-query"))
    return Ask(server, QNAME, c.A, tcp=True, **options)


async def one_result(
    authority: Authority, peer: Peer, *, observed: Observed | None = None, **options: Any
) -> Reply | Failure:
    upstream, got = make(authority), Collector()
    upstream.observer = None if observed is None else observed.observer
    upstream.start(ask_for(peer.port, **options), got)
    [result] = await got.wait()
    upstream.close()
    await peer.close()
    return result


@BOTH
def test_a_request_follows_rfc_8484(authority: Authority, leaf: Leaf, alpn: str) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, alpn)
        observed = Observed(None, {})
        reply = await one_result(authority, peer, observed=observed)
        assert isinstance(reply, Reply) and reply.connection is not None
        assert reply.connection.describe()["http"] == ("2" if alpn == "h2" else "1.1")
        [request] = peer.requests
        assert (request.method, request.target) == (b"POST", b"/dns-query")
        headers = request.headers
        assert headers["host"] == f"{NAME}:{peer.port}"
        assert headers["content-type"] == headers["accept"] == "application/dns-message"
        [query] = peer.bodies
        assert observed.exchanged() == [
            ("RESOLVER_QUERY", "DOH", query), ("RESOLVER_RESPONSE", "DOH", echo(query)[0])
        ]
        assert query[:2] == b"\0\0" and len(query) % limits.QUERY_PADDING_BLOCK == 0
        edns = MessageView.parse(query).edns
        assert edns is not None and edns.get(c.OPTION_KEEPALIVE) is None and edns.get(c.OPTION_COOKIE) is None

    corenet.run(body())
    asyncio.run(body())


def test_http2_carries_many_queries_on_one_connection(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "h2")
        upstream, got = make(authority, per_server=1), Collector()
        for _ in range(50):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(50))
        assert peer.connections == 1
        upstream.close()
        await peer.close()

    corenet.run(body())


def test_http2_respects_the_servers_stream_limit(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "h2")
        peer.max_streams = 2
        upstream, got = make(authority, per_server=1), Collector()
        for _ in range(20):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(20))
        assert peer.connections == 1
        upstream.close()
        await peer.close()

    corenet.run(body())


def test_http1_carries_one_query_at_a_time(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "http/1.1")
        upstream, got = make(authority), Collector()
        for _ in range(50):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(50))
        assert peer.connections <= limits.HTTPS_UPSTREAMS_PER_SERVER
        upstream.close()
        await peer.close()

    corenet.run(body())


def test_http1_opens_another_connection_while_a_response_is_due(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        def script(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
            return None if len(peer.bodies) == 2 else right(peer, query)

        peer = await Peer.start(leaf, "http/1.1", script)
        upstream, got, due = make(authority), Collector(), Collector()
        upstream.start(ask_for(peer.port), got)
        await got.wait(1)  # the server is known to have HTTP/1.1 only
        pending = upstream.start(ask_for(peer.port), due)
        while len(peer.bodies) < 2:
            await asyncio.sleep(0)
        upstream.start(ask_for(peer.port), got)
        await got.wait(2)
        assert peer.connections == 2 and not due.results
        pending.cancel()
        upstream.close()
        await peer.close()

    corenet.run(body())


WRONG = [
    (302, [(b"location", b"https://192.0.2.1/")], b"", "redirects are not followed"),
    (404, [], b"", "HTTP status 404"),
    (500, [MEDIA], b"right", "HTTP status 500"),
    (200, [(b"content-type", b"text/html")], b"right", "content type 'text/html'"),
    (200, [], b"right", "content type ''"),
    (200, [MEDIA, (b"content-encoding", b"gzip")], b"right", "content coding"),
    (200, [MEDIA], b"", "not the reply"),
    (200, [MEDIA], b"other", "not the reply"),
    (200, [MEDIA], b"id", "not the reply"),
    (200, [MEDIA], bytes(70_000), "larger than 65535 bytes"),
]


@BOTH
@pytest.mark.parametrize(("status", "fields", "content", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_a_wrong_response_is_a_failure_with_its_reason(
    authority: Authority, leaf: Leaf, alpn: str, status: int, fields: list[tuple[bytes, bytes]], content: bytes,
    words: str,
) -> None:
    def script(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        [reply] = echo(query)
        shown = {b"right": reply, b"other": reply[:13] + b"X" + reply[14:], b"id": b"\0\1" + reply[2:]}
        return status, fields, shown.get(content, content)

    async def body() -> None:
        peer = await Peer.start(leaf, alpn, script)
        plain = await UdpPeer.start(port=peer.port)
        failure = await one_result(authority, peer)
        assert isinstance(failure, Failure)
        assert failure.kind in (FailureKind.NETWORK, FailureKind.MALFORMED)
        assert words in failure.text and f"127.0.0.1 ({NAME}) port {peer.port} over HTTPS" in failure.text
        assert not plain.queries and len(peer.requests) == 1
        plain.close()

    corenet.run(body())


@BOTH
def test_the_content_type_may_have_parameters_and_capitals(authority: Authority, leaf: Leaf, alpn: str) -> None:
    async def body() -> None:
        media = (b"content-type", b"Application/DNS-Message; charset=utf-8")
        peer = await Peer.start(leaf, alpn, lambda peer, query: (200, [media], echo(query)[0]))
        assert isinstance(await one_result(authority, peer), Reply)

    corenet.run(body())


@pytest.mark.parametrize("raw", [b"\0\0\0\0garbage that is no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@BOTH
def test_bytes_that_are_not_http_end_the_connection(authority: Authority, leaf: Leaf, alpn: str, raw: bytes) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, alpn, lambda peer, query: None)
        peer.raw = raw
        failure = await one_result(authority, peer, timeout=5.0)
        assert isinstance(failure, Failure)
        assert failure.kind in (FailureKind.MALFORMED, FailureKind.NETWORK)

    corenet.run(body())


def test_a_reply_before_a_broken_rule_counts(authority: Authority, leaf: Leaf) -> None:
    """Also when the same input has both."""

    async def body() -> None:
        peer = await Peer.start(leaf, "h2")
        peer.behind = frame(PING, 0, 1, bytes(8))
        assert isinstance(await one_result(authority, peer), Reply)
        await peer.close()
        peer = await Peer.start(leaf, "h2")
        peer.behind = frame(PING, 0, 1, bytes(8))
        assert (await asked_by_rdig(authority, peer)).view.rcode == c.NOERROR

    corenet.run(body())


@BOTH
def test_a_cancelled_query_does_not_affect_others(authority: Authority, leaf: Leaf, alpn: str) -> None:
    """The response to a cancelled query must never be taken for that of the next one."""

    async def body() -> None:
        silent = True
        peer = await Peer.start(leaf, alpn, lambda peer, query: None if silent else right(peer, query))
        upstream, got = make(authority, per_server=1), Collector()
        first = upstream.start(ask_for(peer.port), got)
        while not peer.bodies:
            await asyncio.sleep(0)
        silent = False
        first.cancel()
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait())[0], Reply)
        assert len(got.results) == 1
        upstream.close()
        await peer.close()

    corenet.run(body())


def test_queries_behind_a_lost_response_go_to_another_connection(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        def script(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
            return None if len(peer.bodies) == 1 else right(peer, query)

        peer = await Peer.start(leaf, "http/1.1", script)
        upstream, got, late = make(authority, per_server=1), Collector(), Collector()
        with stopped_clock():
            upstream.start(ask_for(peer.port, timeout=0.1), late)
            for _ in range(5):
                upstream.start(ask_for(peer.port), got)
            await spin(lambda: peer.bodies, "the first query, after the handshake")
        assert isinstance((await late.wait())[0], Failure)
        assert all(isinstance(x, Reply) for x in await got.wait(5))
        upstream.close()
        await peer.close()

    corenet.run(body())


@BOTH
def test_closing_leaves_no_connection_and_makes_no_callback(authority: Authority, leaf: Leaf, alpn: str) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, alpn, lambda peer, query: None)
        upstream, got = make(authority, per_server=1), Collector()
        for _ in range(5):
            upstream.start(ask_for(peer.port), got)
        while not peer.bodies:
            await asyncio.sleep(0)
        upstream.close()
        assert upstream.connection_count == 0 and not upstream._queues
        await peer.close()
        assert got.results == []

    corenet.run(body())


def test_a_stream_that_was_refused_is_sent_once_more(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        def script(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
            return (-1, [], b"") if len(peer.bodies) == 1 else right(peer, query)

        peer = await Peer.start(leaf, "h2", script)
        assert isinstance(await one_result(authority, peer), Reply)
        peer = await Peer.start(leaf, "h2", lambda peer, query: (-1, [], b""))
        failure = await one_result(authority, peer)
        assert isinstance(failure, Failure) and failure.kind is FailureKind.NETWORK
        assert len(peer.bodies) == 2

    corenet.run(body())


def refusing(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """A server that requires HTTP/1.1."""
    return (-2, [], b"") if peer.requests[-1].version == 20 else right(peer, query)


@LOOPS
def test_a_request_refused_over_http2_is_repeated_over_http1(
    authority: Authority, leaf: Leaf, run: Callable[..., None]
) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "h2,http/1.1", refusing)
        upstream, got = make(authority), Collector()
        for _ in range(5):
            upstream.start(ask_for(peer.port), got)
        for result in await got.wait(5):
            assert isinstance(result, Reply) and result.connection is not None, result
            assert result.connection.describe()["http"] == "1.1"
        refused = sum(request.version == 20 for request in peer.requests)
        assert 1 <= refused <= 5 and len(peer.requests) == 5 + refused
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait(6))[5], Reply)
        assert sum(request.version == 20 for request in peer.requests) == refused, "later queries go there at once"
        upstream.close()
        await peer.close()

    run(body())


def test_a_server_that_refuses_both_versions_gets_the_query_twice(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        def script(peer: Peer, query: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
            return (404, [], b"") if peer.requests[-1].version != 20 else refusing(peer, query)

        peer = await Peer.start(leaf, "h2,http/1.1", script)
        failure = await one_result(authority, peer)
        assert isinstance(failure, Failure) and "HTTP status 404" in failure.text
        assert [request.version for request in peer.requests] == [20, 11]

    corenet.run(body())


def test_after_goaway_a_new_connection_is_used(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "h2")
        peer.goaway_after = 1
        upstream, got = make(authority), Collector()
        for n in range(3):
            upstream.start(ask_for(peer.port), got)
            assert isinstance((await got.wait(n + 1))[n], Reply)
        assert peer.connections >= 2
        upstream.close()
        await peer.close()

    corenet.run(body())


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/dns-message\r\n"
CUT_OFF = [
    (HEAD + b"content-length: 4000\r\n\r\nREPLY", True, "bytes of its Content-Length are missing"),
    (HEAD + b"transfer-encoding: chunked\r\n\r\n3e8\r\nREPLY", True, "its end is missing"),
    (HEAD, True, "its end is missing"),
    (HEAD + b"\r\nREPLY", False, "ended without close_notify"),
    (HEAD + b"\r\n" + bytes(70_000), True, "larger than 65535 bytes"),
    (HEAD + b"\r\n" + bytes(20), True, "not the reply"),
]


async def asked_by_rdig(authority: Authority, peer: Peer) -> "Exchange":
    packet = make_packet(QNAME, c.A, 0)
    encryption = Encryption("https", NAME, (), "/dns-query")
    cafile = str(authority.cafile)
    try:
        return await exchange_encrypted(packet, "127.0.0.1", peer.port, encryption, cafile=cafile, timeout=20.0)
    finally:
        await peer.close()


@LOOPS
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_response_may_end_with_the_connection(
    authority: Authority, leaf: Leaf, run: Callable[..., None], version: bytes
) -> None:
    async def body() -> None:
        for ask in (one_result, asked_by_rdig):
            peer = await Peer.start(leaf, "http/1.1")
            peer.last = HEAD.replace(b"HTTP/1.1", version) + b"\r\nREPLY"
            got = await ask(authority, peer)
            assert isinstance(got, Reply | Exchange) and got.view.rcode == c.NOERROR, got
            assert len(peer.bodies) == 1

    run(body())


@LOOPS
@pytest.mark.parametrize(("last", "notify", "words"), CUT_OFF)
def test_a_truncated_response_is_a_failure_with_its_reason(
    authority: Authority, leaf: Leaf, run: Callable[..., None], last: bytes, notify: bool, words: str
) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "http/1.1")
        peer.last, peer.notify = last, notify
        failure = await one_result(authority, peer)
        assert isinstance(failure, Failure) and words in failure.text
        assert len(peer.bodies) == 1
        peer = await Peer.start(leaf, "http/1.1")
        peer.last, peer.notify = last, notify
        with pytest.raises(NoReplyError, match="are not a DNS message|" + words):
            await asked_by_rdig(authority, peer)

    run(body())


def test_the_queries_behind_a_response_without_a_length_go_to_another_connection(
    authority: Authority, leaf: Leaf
) -> None:
    async def body() -> None:
        peer = await Peer.start(leaf, "http/1.1")
        peer.last = HEAD + b"\r\nREPLY"
        upstream, got = make(authority, per_server=1), Collector()
        for _ in range(5):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(5))
        assert peer.connections == len(peer.bodies) == 5
        upstream.close()
        await peer.close()

    corenet.run(body())


@BOTH
def test_a_server_with_another_name_gets_no_request(authority: Authority, leaf: Leaf, alpn: str) -> None:
    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        peer = await Peer.start(leaf, alpn)
        failure = await one_result(authority, peer, name="other.example")
        assert isinstance(failure, Failure) and "not for this host name" in failure.text
        assert not peer.requests

    corenet.run(body())


def test_identity_is_no_content_coding() -> None:
    from corenet.http.headers import Headers

    assert response_problem(200, Headers([MEDIA, (b"content-encoding", b"identity")])) == ""
