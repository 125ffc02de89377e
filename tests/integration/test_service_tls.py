"""Listeners with TLS on real sockets, on both loops: DNS over TLS and HTTPS, PROXY headers, hostile clients."""

import asyncio
import base64
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import waiting
from support.certs import Authority
from support.h2_frames import PING, frame
from support.loop_clock import stopped_clock
from support.service_parts import Parts, address, failed, positive, query
from support.tls_engines import ENGINES

import corenet
from corenet.http.events import Data, End, Request, Response
from corenet.http.h2 import CLIENT, H2Connection
from corenet.tls import server_context, use_engine
from corenet.tls.engines import tls_engine
from resolver import limits
from resolver.net.clock_random import Clock
from resolver.net.https_listener import HttpsListener
from resolver.net.stream_listener import StreamListener, open_stream_socket
from resolver.net.tls_listener import TlsListener
from resolver.policy import AccessTable
from resolver.settings import PolicySettings, Settings, replace
from resolver.wire import consts as c
from resolver.wire.message import MessageView

TIMEOUT = 30
Body = Callable[[], Coroutine[None, None, None]]
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TYPE = (b"content-type", b"application/dns-message")


@pytest.fixture(params=[asyncio.new_event_loop, corenet.new_event_loop], ids=["asyncio", "corenet"])
def run(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def limited() -> None:
            async with asyncio.timeout(TIMEOUT):
                await body()

        with asyncio.Runner(loop_factory=request.param) as running:
            running.run(limited())

    return runner


def ours(body: Body) -> None:
    """Run `body` on our own loop."""

    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT):
            await body()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as running:
        running.run(limited())


async def until(condition: Callable[[], object]) -> None:
    """Wait for the server's side."""
    await waiting.until(condition, "the server's side")


class Contexts:
    """The certificates of this module: one authority and one leaf."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.leaf = authority.leaf("dns.example", "127.0.0.1")
        self.cafile = authority.cafile

    def server(self, *alpn: str) -> ssl.SSLContext:
        return server_context(self.leaf.certificate, self.leaf.key, alpn=alpn)

    def client(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.cafile))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture(scope="module")
def contexts() -> Iterator[Contexts]:
    with tempfile.TemporaryDirectory() as folder:
        yield Contexts(Path(folder))


async def serve(parts: Parts, context: ssl.SSLContext, *, https: bool = False, **options: Any) -> Any:
    parts.clock.real = Clock().time()
    given = (parts.service, parts.fast, parts.plan.access, parts.settings.server, context)
    listener = HttpsListener(*given, path="/dns-query", **options) if https else TlsListener(*given, **options)
    await listener.start(open_stream_socket("127.0.0.1", 0))
    return listener


class Client:
    """One connection with TLS that speaks DNS messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def start(cls, listener: StreamListener, context: ssl.SSLContext) -> "Client":
        return cls(*await asyncio.open_connection(*listener.address[:2], ssl=context, server_hostname="dns.example"))

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))

    async def read(self) -> bytes:
        return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(2), "big"))

    async def ask(self, packet: bytes) -> MessageView:
        self.send(packet)
        return MessageView.parse(await self.read())

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bool:
    """True once the server has ended the connection; what it sent before is read."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await reader.read(65536):
            pass
    return True


# --- DNS over TLS -----------------------------------------------------------------------------------------------------


def test_miss_and_hit_over_tls(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(count=100))
        listener = await serve(parts, contexts.server("dot"))
        client = await Client.start(listener, contexts.client("dot"))
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "dot"
        for identity in (1, 2):
            view = await client.ask(query(identity=identity))
            assert (view.id, len(view.answer[0])) == (identity, 100)
        assert parts.service.queries == 1 and parts.fast.statistics()["hits"] == 1
        found = listener.statistics()
        assert (found["accepted"], found["handshakes"], found["handshake_failures"]) == (1, 1, {})
        await client.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


def test_replies_may_overtake_each_other_and_are_padded(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("dot"))
        client = await Client.start(listener, contexts.client())
        pad = [(c.OPTION_PADDING, bytes(80))]
        client.send(query(c.MX, identity=1, options=pad), query(c.TXT, identity=2, options=pad))
        await until(lambda: len(parts.mesh.tickets) == 2)
        parts.mesh.tickets.reverse()
        parts.mesh.finish(positive())
        parts.mesh.finish(positive())
        replies = [await client.read() for _ in range(2)]
        assert [MessageView.parse(reply).id for reply in replies] == [2, 1]
        assert {len(reply) for reply in replies} == {limits.PADDING_BLOCK}
        await client.close()
        listener.close()

    run(body)


def test_a_session_is_resumed(contexts: Contexts) -> None:
    """The client is the standard library's, blocking, in a thread: only it shows and takes sessions."""
    context = contexts.client("dot")

    def ask(place: tuple[str, int], session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with socket.create_connection(place, TIMEOUT) as raw, context.wrap_socket(
            raw, server_hostname="dns.example", session=session
        ) as secured:
            packet = query()
            secured.sendall(len(packet).to_bytes(2, "big") + packet)
            assert len(secured.recv(4096)) > 2
            return secured.session

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"))
        place = listener.address[:2]
        session = await asyncio.to_thread(ask, place, None)
        await asyncio.to_thread(ask, place, session)
        assert (listener.handshakes, listener.resumed) == (2, 1)
        listener.close()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as running:
        running.run(body())


def test_plain_text_is_answered_with_nothing_readable(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"))
        reader, writer = await asyncio.open_connection(*listener.address[:2])
        packet = query()
        writer.write(len(packet).to_bytes(2, "big") + packet)
        assert await ended(reader)
        writer.close()
        await until(lambda: not listener.connections)
        assert sum(listener.handshake_failures.values()) == 1 and parts.service.queries == 0
        listener.close()

    run(body)


def test_a_handshake_begins_with_the_complete_hello_and_when_there_is_time(
    run: Callable[[Body], None], contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a connection holds its slot, and its timeout runs. When too many wait, the newest is closed."""
    monkeypatch.setattr(limits, "HANDSHAKE_BURST", 1)
    monkeypatch.setattr(limits, "HANDSHAKE_IDLE", 1e-9)
    monkeypatch.setattr(limits, "HANDSHAKE_SHARE", 0)
    monkeypatch.setattr(limits, "HANDSHAKES_WAITING", 2)
    monkeypatch.setattr(limits, "HANDSHAKE_ACCEPT_COST", 1e-6)

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("dot"))
        budget = listener.handshake_budget
        outgoing = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            contexts.client("dot").wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="dns.example").do_handshake()
        hello = outgoing.read()
        opened = [await asyncio.open_connection(*listener.address[:2]) for _ in range(5)]
        await until(lambda: listener.connections == 5)
        for _, writer in opened:
            writer.write(hello[:-1])
        opened[0][1].write(hello[-1:])
        assert await opened[0][0].readexactly(1) == b"\x16"  # the first has used up the time
        budget.charge(1.0)  # corenet does not measure the TLS of asyncio's own loop
        for number in (1, 2):
            opened[number][1].write(hello[-1:])
            await until(lambda number=number: budget.waiting == number)
        opened[3][1].write(hello[-1:])
        assert await ended(opened[3][0])
        assert listener.handshake_failures == {"too many handshakes": 1} and listener.connections == 4
        opened[1][1].transport.abort()
        opened[4][1].close()
        await until(lambda: listener.handshake_failures.get("closed by the client"))
        monkeypatch.setattr(limits, "HANDSHAKE_BURST", 10**9)
        monkeypatch.setattr(limits, "HANDSHAKE_IDLE", 10**9)
        assert await opened[2][0].readexactly(1) == b"\x16"
        assert budget.waiting == 0
        for _, writer in opened:
            writer.close()
        listener.close()

    run(body)


def test_a_slow_handshake_ends_and_releases_its_slot(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.1)
        listener = await serve(parts, contexts.server("dot"), handshake_timeout=0.05)
        with stopped_clock():
            opened = [await asyncio.open_connection(*listener.address[:2]) for _ in range(3)]
            opened[0][1].write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a record
            await waiting.spin(lambda: listener.accepted == 3, "three connections")
            assert listener.connections == 3
        for reader, writer in opened:
            assert await ended(reader)
            writer.close()
        await until(lambda: sum(listener.handshake_failures.values()) == 3)
        assert listener.handshake_failures == {"timeout": 3} and listener.timed_out == 3
        assert listener.connections == 0 and listener.handshakes == 0
        listener.close()

    run(body)


def test_idle_connections_are_bounded_before_and_after_the_handshake(
    run: Callable[[Body], None], contexts: Contexts
) -> None:
    async def body() -> None:
        parts = Parts(tcp_connections=8, tcp_connections_per_client=100, tcp_connections_network_percent=100)
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"))
        silent = [await asyncio.open_connection(*listener.address[:2]) for _ in range(40)]
        await until(lambda: listener.accepted == 40)
        assert listener.connections == 8 and listener.evicted == 32
        client = await Client.start(listener, contexts.client())
        assert (await client.ask(query())).rcode == c.NOERROR
        assert listener.connections == 8
        await client.close()
        for _, writer in silent:
            writer.close()
        listener.close()

    run(body)


def test_the_limit_of_one_client_includes_handshakes(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_connections_per_client=3)
        listener = await serve(parts, contexts.server("dot"))
        silent = [await asyncio.open_connection(*listener.address[:2]) for _ in range(5)]
        await until(lambda: listener.accepted + listener.rejected == 5)
        assert (listener.accepted, listener.rejected) == (3, 2)
        for _, writer in silent:
            writer.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


def test_a_new_context_is_for_new_connections(run: Callable[[Body], None], contexts: Contexts, tmp_path: Path) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"))
        before = await Client.start(listener, contexts.client())
        other = Contexts(tmp_path)
        listener.reconfigure(other.server("dot"), "")
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.start(listener, contexts.client())
        after = await Client.start(listener, other.client())
        for client in (before, after):
            assert (await client.ask(query())).rcode == c.NOERROR
            await client.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("https", [False, True], ids=["tls", "https"])
def test_a_client_that_a_reload_drops_is_closed_and_counted(
    run: Callable[[Body], None], contexts: Contexts, https: bool
) -> None:
    """As a new connection of it would be; its query is cancelled, and the reason is in no other counter."""

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("dot", "http/1.1"), https=https)
        if https:
            http = await Http1.start(listener, contexts)
            http.writer.write(get(query()))
            reader, close = http.reader, http.close
        else:
            client = await Client.start(listener, contexts.client())
            client.send(query())
            reader, close = client.reader, client.close
        await until(lambda: parts.mesh.tickets)
        dropping = AccessTable((), (), ("127.0.0.0/8",))
        listener.switch(parts.service, parts.fast, dropping, parts.settings.server, own_access=True)
        assert await ended(reader)
        await close()
        await until(lambda: parts.mesh.cancelled)
        found = listener.statistics()
        assert found["access_closed"] == 1 and not found["connections"] and not found.get("refused")
        assert not (found["evicted"] or found["rejected"] or found["timed_out"] or found["malformed"])
        listener.close()

    run(body)


def test_garbage_ends_the_connection_after_the_replies_before_it(
    run: Callable[[Body], None], contexts: Contexts
) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"))
        client = await Client.start(listener, contexts.client())
        client.send(query(identity=5), b"short")
        assert MessageView.parse(await client.read()).id == 5
        assert await ended(client.reader)
        await client.close()
        await until(lambda: not listener.connections)
        assert listener.malformed == 1
        listener.close()

    run(body)


def test_a_client_that_does_not_read_is_disconnected(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.1)
        parts.mesh.instant = positive(address(count=500))
        listener = await serve(parts, contexts.server("dot"), message_timeout=0.2)
        client = await Client.start(listener, contexts.client())
        client.writer.transport.pause_reading()
        client.send(*(query(identity=n) for n in range(2000)))
        await until(lambda: listener.timed_out == 1 or listener.write_overrun == 1)
        await until(lambda: not listener.connections)
        client.writer.transport.abort()
        listener.close()

    run(body)


# --- half-close: our own loop only, because asyncio's TLS closes both directions together ----------------------------


class Ending(asyncio.Protocol):
    """A client that ends its direction and waits for the server to end the connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = b""
        self.ended = self.stays = False
        self.lost = asyncio.Event()

    @classmethod
    async def start(cls, listener: StreamListener, context: ssl.SSLContext) -> "Ending":
        _, client = await asyncio.get_running_loop().create_connection(
            cls, *listener.address[:2], ssl=context, server_hostname="dns.example"
        )
        return client

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.ended = True
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


def framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(2, "big") + packet


@pytest.mark.parametrize("fin", [False, True])
def test_a_client_that_has_sent_close_notify_gets_its_replies(contexts: Contexts, fin: bool) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("dot"))
        client = await Ending.start(listener, contexts.client())
        client.transport.write(framed(query(identity=1)) + framed(query(identity=2)))
        client.transport.half_close()
        await until(lambda: len(parts.mesh.tickets) == 2)
        if fin:
            client.transport._transport.write_eof()
            await asyncio.sleep(0)
        for _ in range(2):
            parts.mesh.finish(positive())
        await client.lost.wait()
        first = int.from_bytes(client.received[:2], "big") + 2
        assert MessageView.parse(client.received[2:first]).id == 1
        assert MessageView.parse(client.received[first + 2:]).id == 2
        assert client.ended and not listener.connections and not listener.timed_out
        listener.close()

    ours(body)


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_close_notify_of_tls13_the_connection_ends(
    contexts: Contexts, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion, https: bool
) -> None:
    """RFC 5246 section 7.2.1: pending writes are discarded. Over TLS 1.3 TCP ends alone. Nobody can fill the log."""

    async def body() -> None:
        parts = Parts()
        alpn = "http/1.1" if https else "dot"
        listener = await serve(parts, contexts.server(alpn), https=https)
        context = contexts.client(alpn)
        context.maximum_version = version
        client = await Ending.start(listener, context)
        request = b"GET " + target(query()) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        client.transport.write(request if https else framed(query()))
        if version == ssl.TLSVersion.TLSv1_2:
            client.transport.half_close()
        else:
            await until(lambda: parts.mesh.tickets)
            client.transport._transport.write_eof()
        await client.lost.wait()
        await until(lambda: not listener.connections)
        assert not client.received and not listener.timed_out and parts.service.waiting == 0
        assert not caplog.records
        listener.close()

    ours(body)


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_query_and_end_with_the_last_message_of_the_handshake(
    contexts: Contexts, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion, https: bool
) -> None:
    """Over TLS 1.3 they come before the listener has its TLS transport. The query is answered."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        alpn = "http/1.1" if https else "dot"
        listener = await serve(parts, contexts.server(alpn), https=https)
        context = contexts.client(alpn)
        context.maximum_version = version
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, listener.address[:2])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="dns.example")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(sock, outgoing.read())
                incoming.write(await loop.sock_recv(sock, 65536))
        request = b"GET " + target(query()) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        tls.write(request if https else framed(query()))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        await loop.sock_sendall(sock, outgoing.read())
        received = b""
        with contextlib.suppress(ssl.SSLZeroReturnError, ConnectionResetError):
            while True:
                try:
                    received += tls.read(65536)
                except ssl.SSLWantReadError:
                    data = await loop.sock_recv(sock, 65536)
                    if not data:
                        break
                    incoming.write(data)
        sock.close()
        await until(lambda: not listener.connections)
        assert received  # over TLS 1.2 the server sends the last message, so its transport is there already
        assert not caplog.records
        listener.close()

    ours(body)


@pytest.fixture(params=ENGINES)
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the connections of a test use one TLS engine, then the other."""
    former = tls_engine().name
    use_engine(request.param)
    yield
    use_engine(former)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
@pytest.mark.parametrize("fin", [False, True])
def test_over_https_a_client_that_has_sent_close_notify_gets_its_replies(
    contexts: Contexts, alpn: str, fin: bool
) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server(alpn), https=True)
        client = await Ending.start(listener, contexts.client(alpn))
        codec = H2Connection(CLIENT)
        request = Request(b"GET", target(query()), [(b"host", b"x")])
        if alpn == "h2":
            codec.send_request(request, end=True)
        client.transport.write(
            codec.data_to_send() if alpn == "h2" else b"GET " + request.target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        client.transport.half_close()
        await until(lambda: parts.mesh.tickets)
        if fin:
            client.transport._transport.write_eof()
            await asyncio.sleep(0)
        parts.mesh.finish(positive())
        await client.lost.wait()
        if alpn == "h2":
            events = [event for _, event in codec.feed(client.received)]
            assert [event.status for event in events if isinstance(event, Response)] == [200]
            assert any(isinstance(event, End) for event in events)
        else:
            assert client.received.startswith(b"HTTP/1.1 200 ")
        assert client.ended and not listener.connections and not listener.timed_out
        listener.close()

    ours(body)


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("stays", [False, True])
def test_a_refused_client_gets_close_notify(contexts: Contexts, https: bool, stays: bool) -> None:
    """It closes at once, or is cut off after a short time."""

    async def body() -> None:
        alpn, rubbish = ("http/1.1", b"nonsense\r\n\r\n") if https else ("dot", framed(b"hello"))
        listener = await serve(Parts(), contexts.server(alpn), https=https, message_timeout=0.2 if stays else 20)
        client = await Ending.start(listener, contexts.client(alpn))
        client.stays = stays
        client.transport.write(rubbish)
        await until(lambda: client.ended)
        assert client.received.startswith(b"HTTP/1.1 400 ") is https
        await until(lambda: not listener.connections)
        assert listener.timed_out == stays
        client.transport.abort()
        await client.lost.wait()
        listener.close()

    ours(body)


# --- PROXY protocol and access lists ----------------------------------------------------------------------------------


def proxied(client: str, *, command: int = 0x21) -> bytes:
    data = socket.inet_aton(client) + bytes(4) + b"\x12\x34\x03\x55"
    return SIGNATURE + bytes([command, 0x11]) + len(data).to_bytes(2, "big") + data


async def behind_proxy(listener: StreamListener, header: bytes, context: ssl.SSLContext) -> Client:
    """A connection that begins with `header` and continues with TLS. The first octets of both leave in one segment."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, listener.address[:2])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="dns.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    await loop.sock_sendall(sock, header + outgoing.read())
    return _Memory(sock, tls, incoming, outgoing)  # type: ignore[return-value]


class _Memory:
    """TLS by hand on a socket, with the methods of `Client` that the tests use."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO):
        self.sock, self.tls, self.incoming, self.outgoing = sock, tls, incoming, outgoing
        self.ready = False

    async def ask(self, packet: bytes) -> MessageView:
        loop = asyncio.get_running_loop()
        data = b""
        while True:
            try:
                if not self.ready:
                    self.tls.do_handshake()
                    self.ready = True
                    self.tls.write(len(packet).to_bytes(2, "big") + packet)
                    await loop.sock_sendall(self.sock, self.outgoing.read())
                data += self.tls.read(65536)
                if len(data) >= 2 and len(data) == 2 + int.from_bytes(data[:2], "big"):
                    return MessageView.parse(data[2:])
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                received = await loop.sock_recv(self.sock, 65536)
                if not received:
                    raise ConnectionResetError from None
                self.incoming.write(received)

    async def close(self) -> None:
        self.sock.close()


def test_the_client_address_behind_a_proxy_comes_from_the_header(
    run: Callable[[Body], None], contexts: Contexts
) -> None:
    async def body() -> None:
        settings = replace(Settings(), policy=PolicySettings(allow=("192.0.2.0/24",), drop=("198.51.100.0/24",)))
        parts = Parts(settings, tcp_connections_per_client=1)
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("dot"), proxies=["127.0.0.1"])
        first = await behind_proxy(listener, proxied("192.0.2.7"), contexts.client())
        assert (await first.ask(query())).rcode == c.NOERROR
        other = await behind_proxy(listener, proxied("192.0.2.8"), contexts.client())
        assert (await other.ask(query())).rcode == c.NOERROR
        refused = await behind_proxy(listener, proxied("203.0.113.1"), contexts.client())
        assert (await refused.ask(query())).rcode == c.REFUSED
        for name in ("192.0.2.7", "198.51.100.1"):  # one connection too many of a client; one that is dropped
            extra = await behind_proxy(listener, proxied(name), contexts.client())
            with pytest.raises(ConnectionError):
                await extra.ask(query())
            await extra.close()
        assert listener.rejected == 2 and listener.bad_proxy_headers == 0
        own = await behind_proxy(listener, proxied("192.0.2.9", command=0x20), contexts.client())
        assert (await own.ask(query())).rcode == c.REFUSED, "the proxy's own connection: 127.0.0.1 is not allowed"
        for client in (first, other, refused, own):
            await client.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", SIGNATURE + b"\x31\x11\0\0", proxied("1.2.3.4")[:20]])
def test_a_proxy_without_a_good_header_is_closed_and_counted(
    run: Callable[[Body], None], contexts: Contexts, data: bytes
) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.1)
        listener = await serve(parts, contexts.server("dot"), proxies=["127.0.0.1"], handshake_timeout=0.05)
        reader, writer = await asyncio.open_connection(*listener.address[:2])
        writer.write(data)
        assert await ended(reader)
        writer.close()
        assert listener.bad_proxy_headers + listener.timed_out == 1 and listener.connections == 0
        listener.close()

    run(body)


def test_a_proxy_header_from_other_peers_is_not_accepted(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("dot"), proxies=["192.0.2.1"])
        client = await behind_proxy(listener, proxied("192.0.2.7"), contexts.client())
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await client.ask(query())
        await client.close()
        await until(lambda: sum(listener.handshake_failures.values()) == 1)
        listener.close()

    run(body)


def test_a_listener_may_have_its_own_access_list(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        settings = replace(Settings(), policy=PolicySettings(allow=()))
        parts = Parts(settings)
        parts.mesh.instant = positive()
        given = (parts.service, parts.fast, AccessTable(["127.0.0.0/8"], [], []), parts.settings.server)
        own = TlsListener(*given, contexts.server("dot"), own_access=True)
        parts.clock.real = Clock().time()
        await own.start(open_stream_socket("127.0.0.1", 0))
        common = await serve(parts, contexts.server("dot"))
        for listener, rcode in ((own, c.NOERROR), (common, c.REFUSED)):
            client = await Client.start(listener, contexts.client())
            for _ in range(2):  # by the service, then perhaps by the fast path
                assert (await client.ask(query())).rcode == rcode
            await client.close()
            listener.close()

    run(body)


# --- DNS over HTTPS ---------------------------------------------------------------------------------------------------


class Http1:
    """One connection that speaks HTTP/1.1 octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def start(cls, listener: HttpsListener, contexts: Contexts) -> "Http1":
        return cls(
            *await asyncio.open_connection(
                *listener.address[:2], ssl=contexts.client("http/1.1"), server_hostname="dns.example"
            )
        )

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        return int(lines[0].split()[1]), fields, await self.reader.readexactly(int(fields.get("content-length", "0")))

    async def ask(self, *octets: bytes) -> tuple[int, dict[str, str], bytes]:
        for piece in octets:
            self.writer.write(piece)
        return await self.response()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def get(packet: bytes, fields: str = "") -> bytes:
    text = base64.urlsafe_b64encode(packet).rstrip(b"=").decode()
    return f"GET /dns-query?dns={text} HTTP/1.1\r\nHost: dns.example\r\n{fields}\r\n".encode()


def post(packet: bytes, *, head: str = "Content-Type: application/dns-message") -> bytes:
    line = f"POST /dns-query HTTP/1.1\r\nHost: dns.example\r\n{head}\r\nContent-Length: {len(packet)}\r\n\r\n"
    return line.encode() + packet


def test_get_and_post_miss_and_hit(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(300))
        listener = await serve(parts, contexts.server("h2", "http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        for request in (get(query()), post(query()), get(query())):
            status, fields, data = await client.ask(request)
            assert (status, fields["content-type"]) == (200, "application/dns-message")
            assert fields["cache-control"] == "max-age=300" and "connection" not in fields
            assert MessageView.parse(data).id == 77 and len(MessageView.parse(data).answer) == 1
        assert parts.service.queries == 1 and listener.requests == 3
        await client.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


def test_pipelined_requests_are_answered_in_their_order(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        client.writer.write(b"".join(get(query(c.A if n % 2 else c.MX, identity=n)) for n in range(1, 6)))
        for n in range(1, 6):
            if n <= 2:  # later ones are in the cache
                await until(lambda: bool(parts.mesh.tickets))
                assert len(parts.mesh.tickets) == 1, "one query of a connection at a time"
                parts.mesh.finish(positive())
            status, _, data = await client.response()
            assert (status, MessageView.parse(data).id) == (200, n)
        await client.close()
        listener.close()

    run(body)


def test_a_failure_is_not_stored(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = failed()
        listener = await serve(parts, contexts.server("http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        for _ in range(2):  # from the service, then from the cache of failures
            status, fields, data = await client.ask(get(query()))
            assert (status, MessageView.parse(data).rcode) == (200, c.SERVFAIL)
            assert fields["cache-control"] == "no-store"
        await client.close()
        listener.close()

    run(body)


LARGE = b"x" * 65_536
CHUNKED = "Content-Type: application/dns-message\r\nTransfer-Encoding: chunked"
WRONG = [
    (b"GET /dns-query HTTP/1.1\r\nHost: x\r\n\r\n", 400, True),
    (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", 404, True),
    (b"PUT /dns-query HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", 405, True),
    (b"HEAD /dns-query HTTP/1.1\r\nHost: x\r\n\r\n", 405, True),
    (b"BREW /dns-query HTTP/1.1\r\nHost: x\r\n\r\n", 501, True),
    (get(b"not a query"), 400, True),
    (post(b"abc", head="Content-Type: text/plain"), 415, True),
    (post(query(), head="Content-Type: application/dns-message\r\nContent-Encoding: gzip"), 415, True),
    (b"GET /dns-query?dns=" + b"A" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, True),
    (b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * limits.DOH_HEAD + b"\r\n\r\n", 431, False),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (limits.DOH_FIELDS + 1) + b"\r\n", 431, False),
    (post(LARGE)[:-1], 413, False),
    (f"POST /dns-query HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n\r\n10000\r\n".encode() + LARGE, 413, False),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, False),
    (b"GET / HTTP/1.1\r\n\r\n", 400, False),  # no Host
    (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, False),
    # Two readers could frame these differently (request smuggling).
    (post(query(), head="Content-Type: application/dns-message\r\nTransfer-Encoding: chunked"), 400, False),
    (post(query(), head="Content-Type: application/dns-message\r\nContent-Length: 5"), 400, False),
    (b"POST /dns-query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501, False),
    (b"POST /dns-query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n", 400, False),
    (b"GET /dns-query HTTP/1.1\nHost: x\n\n", 400, False),
    (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, False),
]


@pytest.mark.parametrize(("octets", "status", "kept"), WRONG)
def test_each_wrong_request_over_http1(
    run: Callable[[Body], None], contexts: Contexts, octets: bytes, status: int, kept: bool
) -> None:
    """`kept`: the request ended where everybody sees it, so the connection may carry another one."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        client.writer.write(octets + (get(query()) if kept else b""))
        found, fields, _ = await client.response() if not octets.startswith(b"HEAD") else await head_of(client)
        assert (found, fields["cache-control"]) == (status, "no-store")
        assert (fields.get("connection") == "close") is not kept
        if status == 405:
            assert fields["allow"] == "get, post"
        if kept:
            assert (await client.response())[0] == 200
        assert listener.refused == {status: 1} and parts.service.queries == kept
        await client.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


async def head_of(client: Http1) -> tuple[int, dict[str, str], bytes]:
    lines = (await client.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:-2]), b""


def test_octets_after_a_refused_request_are_discarded_and_bounded(
    run: Callable[[Body], None], contexts: Contexts
) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        client.writer.write(b"nonsense\r\n\r\n")
        assert (await client.response())[0] == 400
        client.writer.write(get(query()))
        for _ in range(limits.DOH_WINDOW // 65536 + 1):
            client.writer.write(bytes(65536))
        assert await ended(client.reader)
        assert parts.service.queries == 0 and listener.timed_out == 0
        await client.close()
        listener.close()

    run(body)


def test_an_idle_connection_ends(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.1)
        listener = await serve(parts, contexts.server("h2", "http/1.1"), https=True)
        first, second = await Http1.start(listener, contexts), await Http2.start(listener, contexts)
        for client in (first, second):
            assert await ended(client.reader)
            await client.close()
        assert listener.timed_out == 2
        listener.close()

    run(body)


def test_a_started_request_ends_at_its_timeout(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=600.0)
        listener = await serve(parts, contexts.server("h2", "http/1.1"), https=True, message_timeout=0.1)
        for begun in (b"GET /dns-query?dns=", post(query())[:-5]):
            client = await Http1.start(listener, contexts)
            client.writer.write(begun)
            assert await ended(client.reader)
            await client.close()
        second = await Http2.start(listener, contexts)
        stream = second.codec.send_request(Request(b"POST", b"/dns-query", [(b"host", b"x"), TYPE]))
        second.codec.send_data(stream, b"ab")
        second.flush()
        assert await ended(second.reader)
        await second.close()
        assert listener.timed_out == 3
        listener.close()

    run(body)


def test_continue_is_sent_only_when_the_body_is_wanted(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("http/1.1"), https=True)
        client = await Http1.start(listener, contexts)
        whole = post(query(), head="Content-Type: application/dns-message\r\nExpect: 100-continue")
        cut = whole.index(b"\r\n\r\n") + 4
        status, _, _ = await client.ask(whole[:cut])
        assert status == 100
        assert (await client.ask(whole[cut:]))[0] == 200
        assert (await client.ask(whole[:cut].replace(b"dns-message", b"x")))[0] == 415
        await client.close()
        listener.close()

    run(body)


class Http2:
    """One connection that speaks HTTP/2, by our own codec."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, **windows: int) -> None:
        self.reader, self.writer = reader, writer
        self.codec = H2Connection(CLIENT, **windows)
        self.events: dict[int, list[Any]] = {}
        self.flush()

    @classmethod
    async def start(cls, listener: HttpsListener, contexts: Contexts, **windows: int) -> "Http2":
        return cls(
            *await asyncio.open_connection(
                *listener.address[:2], ssl=contexts.client("h2", "http/1.1"), server_hostname="dns.example"
            ),
            **windows,
        )

    def flush(self) -> None:
        self.writer.write(self.codec.data_to_send())

    def request(self, method: bytes, target: bytes, body: bytes = b"", *fields: tuple[bytes, bytes]) -> int:
        stream = self.codec.send_request(Request(method, target, [(b"host", b"dns.example"), *fields]), end=not body)
        if body:
            self.codec.send_data(stream, body, end=True)
        self.flush()
        return stream

    async def response(self, stream: int) -> tuple[int, dict[str, str], bytes]:
        while not any(isinstance(event, End) for event in self.events.get(stream, ())):
            data = await self.reader.read(65536)
            if not data:
                raise ConnectionResetError
            for number, event in self.codec.feed(data):
                self.events.setdefault(number, []).append(event)
                if isinstance(event, Data):
                    self.codec.acknowledge(number, len(event.data))
            self.flush()
        events = self.events.pop(stream)
        [head] = [event for event in events if isinstance(event, Response)]
        return head.status, dict(head.headers), b"".join(event.data for event in events if isinstance(event, Data))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def target(packet: bytes) -> bytes:
    return b"/dns-query?dns=" + base64.urlsafe_b64encode(packet).rstrip(b"=")


def test_streams_are_answered_in_any_order(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("h2", "http/1.1"), https=True)
        client = await Http2.start(listener, contexts)
        first = client.request(b"GET", target(query(c.MX)))
        second = client.request(b"POST", b"/dns-query", query(c.TXT), TYPE)
        await until(lambda: len(parts.mesh.tickets) == 2)
        parts.mesh.tickets.reverse()
        parts.mesh.finish(positive())
        status, fields, _ = await client.response(second)
        assert (status, fields["content-type"], fields["cache-control"]) == (
            200, "application/dns-message", "max-age=300",
        )
        assert not client.events.get(first)
        parts.mesh.finish(positive())
        assert (await client.response(first))[0] == 200
        third = client.request(b"GET", target(query(c.MX)))
        assert (await client.response(third))[0] == 200
        assert parts.service.queries == 2 and listener.http2_connections == 1
        await client.close()
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


@pytest.mark.parametrize(
    ("method", "path", "data", "fields", "status"),
    [
        (b"GET", b"/dns-query", b"", [], 400),
        (b"GET", b"/other", b"", [], 404),
        (b"GET", target(b"no query"), b"", [], 400),
        (b"DELETE", b"/dns-query", b"", [], 405),
        (b"BREW", b"/dns-query", b"", [], 501),
        (b"POST", b"/dns-query", b"abc", [(b"content-type", b"text/plain")], 415),
        (b"POST", b"/dns-query", b"abc", [], 415),
        (b"POST", b"/dns-query", b"abc", [TYPE, (b"content-encoding", b"gzip")], 415),
        (b"POST", b"/dns-query", LARGE, [TYPE], 413),
        (b"POST", b"/dns-query", LARGE, [TYPE, (b"content-length", b"65536")], 413),
        (b"GET", b"/dns-query?dns=" + b"A" * 9000, b"", [], 414),
    ],
)
def test_each_wrong_request_over_http2(
    run: Callable[[Body], None],
    contexts: Contexts,
    method: bytes,
    path: bytes,
    data: bytes,
    fields: list[tuple[bytes, bytes]],
    status: int,
) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("h2"), https=True)
        client = await Http2.start(listener, contexts)
        wrong = client.request(method, path, data, *fields)
        right = client.request(b"GET", target(query()))
        assert (await client.response(right))[0] == 200, "one wrong request does not cost the others"
        found, got, _ = await client.response(wrong)
        assert (found, got["cache-control"]) == (status, "no-store")
        assert listener.refused == {status: 1}
        await client.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("then", ["reply", "flood", "reset"])
def test_after_a_connection_error_a_query_is_answered_or_cancelled(
    run: Callable[[Body], None], contexts: Contexts, then: str
) -> None:
    """It waits for its reply whatever little the client sends; too much, or a reset, ends the connection."""

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("h2"), https=True)
        client = await Http2.start(listener, contexts)
        stream = client.request(b"GET", target(query()))
        await until(lambda: bool(parts.mesh.tickets))
        client.writer.write(frame(PING, 0, stream, bytes(8)) + bytes(limits.DOH_WINDOW // 2))
        await until(lambda: listener.malformed == 1)
        if then == "reply":
            parts.mesh.finish(positive())
            assert (await client.response(stream))[0] == 200
        elif then == "flood":
            client.writer.write(bytes(limits.DOH_WINDOW))
        else:
            client.writer.transport.abort()
        if then != "reply":
            await until(lambda: bool(parts.mesh.cancelled))
        if then != "reset":
            assert await ended(client.reader)
            await client.close()
        assert parts.service.waiting == listener.timed_out == 0
        listener.close()

    run(body)


def test_a_cancelled_stream_cancels_its_query(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("h2"), https=True)
        client = await Http2.start(listener, contexts)
        stream = client.request(b"GET", target(query()))
        await until(lambda: bool(parts.mesh.tickets))
        client.codec.reset(stream)
        client.flush()
        await until(lambda: bool(parts.mesh.cancelled))
        assert parts.service.waiting == 0
        other = client.request(b"GET", target(query(c.MX)))
        await until(lambda: bool(parts.mesh.tickets))
        client.writer.transport.abort()
        await until(lambda: len(parts.mesh.cancelled) == 2)
        assert parts.service.waiting == 0 and other > stream
        listener.close()

    run(body)


@pytest.mark.parametrize("path", [b"/other", b"/dns-query"])
def test_a_stream_cancelled_at_once_does_not_affect_others(
    run: Callable[[Body], None], contexts: Contexts, path: bytes
) -> None:
    """The request, its end and its cancellation come in one read."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("h2"), https=True)
        client = await Http2.start(listener, contexts)
        for data in (b"", b"abc"):
            head = Request(b"POST", path, [(b"host", b"x"), TYPE])
            cancelled = client.codec.send_request(head, end=not data)
            if data:
                client.codec.send_data(cancelled, data, end=True)
            client.codec.reset(cancelled)
        right = client.request(b"GET", target(query()))
        assert (await client.response(right))[0] == 200
        assert listener.refused == {} and parts.service.waiting == 0
        await client.close()
        listener.close()

    run(body)


def test_streams_beyond_the_pipeline_limit_are_refused_by_the_codec(
    run: Callable[[Body], None], contexts: Contexts
) -> None:
    async def body() -> None:
        parts = Parts(tcp_pipeline=5)
        listener = await serve(parts, contexts.server("h2"), https=True)
        client = await Http2.start(listener, contexts)
        await until_settings(client)
        assert client.codec.stream_limit == 5
        streams = [client.request(b"GET", target(query(c.TXT, identity=n))) for n in range(5)]
        await until(lambda: len(parts.mesh.tickets) == 5)
        assert not client.codec.can_open and len(streams) == 5
        client.writer.transport.abort()
        listener.close()

    run(body)


async def until_settings(client: Http2) -> None:
    while not client.codec.settings_received:
        client.codec.feed(await client.reader.read(65536))
        client.flush()


def test_bodies_that_do_not_end_are_bounded_by_the_window(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.1)
        listener = await serve(parts, contexts.server("h2"), https=True, message_timeout=0.3)
        client = await Http2.start(listener, contexts)
        await until_settings(client)
        streams = [
            client.codec.send_request(Request(b"POST", b"/dns-query", [(b"host", b"x"), TYPE])) for _ in range(20)
        ]
        for stream in streams:
            client.codec.send_data(stream, bytes(60_000))
        client.flush()
        assert client.codec.unsent() == 20 * 60_000 - limits.DOH_WINDOW
        assert await ended(client.reader)
        await client.close()
        assert listener.timed_out == 1
        listener.close()

    run(body)


def test_a_client_that_never_opens_its_windows_is_disconnected(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=600.0)
        parts.mesh.instant = positive(address(count=500))
        listener = await serve(parts, contexts.server("h2"), https=True, message_timeout=0.2)
        client = await Http2.start(listener, contexts, window=65_535, connection_window=65_535)
        await until_settings(client)
        for n in range(60):
            client.codec.send_request(Request(b"GET", target(query(identity=n)), [(b"host", b"x")]), end=True)
        client.flush()
        assert await ended(client.reader)  # read, but never acknowledged
        await client.close()
        assert listener.timed_out + listener.write_overrun == 1
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


def test_octets_that_are_not_http2_end_the_connection(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, contexts.server("h2"), https=True)
        reader, writer = await asyncio.open_connection(
            *listener.address[:2], ssl=contexts.client("h2"), server_hostname="dns.example"
        )
        writer.write(get(query()))
        assert await ended(reader)
        writer.close()
        await until(lambda: not listener.connections)
        assert listener.malformed == 1 and parts.service.queries == 0
        listener.close()

    run(body)


def test_replies_to_padded_queries_are_padded(run: Callable[[Body], None], contexts: Contexts) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, contexts.server("h2", "http/1.1"), https=True)
        packet = query(options=[(c.OPTION_PADDING, bytes(60))])
        first, second = await Http1.start(listener, contexts), await Http2.start(listener, contexts)
        assert len((await first.ask(get(packet)))[2]) == limits.PADDING_BLOCK
        stream = second.request(b"POST", b"/dns-query", packet, TYPE)
        assert len((await second.response(stream))[2]) == limits.PADDING_BLOCK
        await first.close()
        await second.close()
        listener.close()

    run(body)
