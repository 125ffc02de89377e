"""Clients of DNS over TLS and HTTPS: each operation is one query with its answer from the cache.

dnsperf keeps its connections, so it cannot measure handshakes, and how many queries it has in flight depends on the
speed of the server. These clients send the same records to each server, in the same order. They encrypt with the
standard library's TLS, each query in a record of its own, as independent queries come.
"""

import base64
import contextlib
import itertools
import resource
import ssl
from collections.abc import Callable, Iterator

from encrypted_servers import Encrypted, connect
from ratio import Contender, cpu_of
from resolver_servers import NAMES

from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.consts import A

CONNECTIONS = 8
DEPTH = 16
READ = 1 << 16
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS = 1, 4
LARGEST_WINDOW = (1 << 31) - 1
LAST_STREAM = 1 << 30


def messages(count: int) -> list[bytes]:
    """`count` queries for `NAMES` in turn, with ids of their own."""
    return [make_query(n + 1, names.from_text(NAMES[n % len(NAMES)]), A) for n in range(count)]


class Secured:
    """A TLS connection on a blocking socket. `send` encrypts each piece in a record, and sends all of them at once."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.sock = connect(port)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=False, server_hostname="localhost", session=session
        )
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()

    def flush(self) -> None:
        """Send what is encrypted."""
        self.sock.sendall(self.outgoing.read())

    def fill(self) -> None:
        """Receive something.

        Raises:
            ConnectionError: the server has closed.
        """
        data = self.sock.recv(READ)
        if not data:
            raise ConnectionResetError("the server has closed its connection")
        self.incoming.write(data)

    def send(self, pieces: list[bytes]) -> None:
        """Send each of `pieces` in a record of its own."""
        for piece in pieces:
            self.tls.write(piece)
        self.flush()

    def read(self) -> bytes:
        """Receive until something is decrypted."""
        while True:
            try:
                return self.tls.read(READ)
            except ssl.SSLWantReadError:
                self.fill()

    def close(self) -> None:
        """Send close_notify, and close."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self.flush()
        self.sock.close()


class DnsOverTls:
    """A kept connection."""

    def __init__(self, server: Encrypted) -> None:
        self.connection = Secured(server.tls, server.context("dot"))
        self.queries = [len(query).to_bytes(2, "big") + query for query in messages(DEPTH)]
        self.buffer = b""

    def ask(self) -> None:
        """Send `DEPTH` queries."""
        self.connection.send(self.queries)

    def take(self) -> None:
        """Receive as many answers."""
        buffer, wanted = self.buffer, DEPTH
        while wanted:
            buffer += self.connection.read()
            while len(buffer) > 2 and len(buffer) >= 2 + (size := int.from_bytes(buffer[:2], "big")):
                assert buffer[5] & 15 == 0 and buffer[9], "the answer is not from the cache"
                buffer = buffer[2 + size:]
                wanted -= 1
        self.buffer = buffer


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class DnsOverHttp2:
    """A kept connection of DNS over HTTPS with GET requests over HTTP/2, whose fields are sent as literals."""

    def __init__(self, server: Encrypted) -> None:
        self.connection = Secured(server.https, server.context("h2"))
        assert self.connection.tls.selected_alpn_protocol() == "h2"
        self.connection.send([
            HTTP2_PREFACE + frame(SETTINGS, 0, 0, b"")
            + frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - 65_535).to_bytes(4, "big"))
        ])
        self.fields = [self._fields(query) for query in messages(DEPTH)]
        self.streams = itertools.count(1, 2)
        self.buffer = b""
        self.acknowledged = False

    @staticmethod
    def _fields(query: bytes) -> bytes:
        target = b"/dns-query?dns=" + base64.urlsafe_b64encode(query).rstrip(b"=")

        def literal(index: int, value: bytes) -> bytes:
            assert index < 15 and len(value) < 127
            return bytes((index, len(value))) + value

        # :method GET, :scheme https, :authority, :path, accept: RFC 7541 sections 6.1, 6.2.2 and appendix A.
        return b"\x82\x87" + literal(1, b"localhost") + literal(4, target) + b"\x0f\x04\x17application/dns-message"

    def ask(self) -> None:
        """Send `DEPTH` requests."""
        self.connection.send([
            frame(HEADERS, END_STREAM | END_HEADERS, next(self.streams), fields) for fields in self.fields
        ])

    def take(self) -> None:
        """Receive as many responses."""
        buffer, wanted = self.buffer, DEPTH
        while wanted:
            buffer += self.connection.read()
            while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
                kind, flags = buffer[3], buffer[4]
                if kind == DATA and flags & END_STREAM:
                    wanted -= 1
                elif kind == SETTINGS and not flags:
                    self.connection.send([frame(SETTINGS, 1, 0, b"")])
                elif kind == HEADERS:
                    assert buffer[9] in (0x88, 0x20, 0x3f), "the status is not 200"
                else:
                    assert kind in (DATA, SETTINGS, WINDOW_UPDATE), f"frame of type {kind}"
                buffer = buffer[9 + size:]
        self.buffer = buffer


class DnsOverHttp1:
    """A kept connection of DNS over HTTPS with pipelined GET requests over HTTP/1.1."""

    def __init__(self, server: Encrypted) -> None:
        self.connection = Secured(server.https, server.context("http/1.1"))
        self.requests = [
            b"GET /dns-query?dns=%b HTTP/1.1\r\nhost: localhost\r\naccept: application/dns-message\r\n\r\n"
            % base64.urlsafe_b64encode(query).rstrip(b"=") for query in messages(DEPTH)
        ]
        self.buffer = b""

    def ask(self) -> None:
        """Send `DEPTH` requests."""
        self.connection.send(self.requests)

    def take(self) -> None:
        """Receive as many responses."""
        buffer, wanted = self.buffer, DEPTH
        while wanted:
            buffer += self.connection.read()
            while b"\r\n\r\n" in buffer:
                head, _, rest = buffer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                if len(rest) < size:
                    break
                buffer = rest[size:]
                wanted -= 1
        self.buffer = buffer


@contextlib.contextmanager
def kept(
    name: str, server: Encrypted, kind: Callable[[Encrypted], DnsOverTls | DnsOverHttp2 | DnsOverHttp1]
) -> Iterator[Contender]:
    """A contender: one operation is one cached answer, `DEPTH` in flight on each of `CONNECTIONS` connections."""
    clients = [kind(server) for _ in range(CONNECTIONS)]

    def run(count: int) -> None:
        for _ in range(max(1, count // (DEPTH * CONNECTIONS))):
            for client in clients:
                client.ask()
            for client in clients:
                client.take()

    try:
        yield Contender(name, run, cpu_of(server.pid), batch=DEPTH * CONNECTIONS)
    finally:
        for client in clients:
            client.connection.close()


@contextlib.contextmanager
def connections(name: str, server: Encrypted, *, resumed: bool) -> Iterator[Contender]:
    """A contender: one operation is a connection of DNS over TLS with its handshake and one cached answer."""
    context = server.context("dot")
    [query] = messages(1)
    query = len(query).to_bytes(2, "big") + query
    session: ssl.SSLSession | None = None

    def once() -> None:
        nonlocal session
        connection = Secured(server.tls, context, session)
        assert connection.tls.session_reused is (session is not None)
        connection.send([query])
        reply = b""
        while len(reply) < 2 or len(reply) < 2 + int.from_bytes(reply[:2], "big"):
            reply += connection.read()
        assert reply[5] & 15 == 0 and reply[9], "the answer is not from the cache"
        if resumed:
            session = connection.tls.session  # the ticket has come before the answer
        connection.close()

    def run(count: int) -> None:
        for _ in range(count):
            once()

    once()
    yield Contender(name, run, cpu_of(server.pid))


@contextlib.contextmanager
def idle_connections(server: Encrypted, count: int) -> Iterator[None]:
    """`count` connections of DNS over TLS, each of which has had an answer and is idle. The server has closed none."""
    context = server.context("dot")
    [query] = messages(1)
    session: ssl.SSLSession | None = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            connection = Secured(server.tls, context, session)
            socks.append(stack.enter_context(connection.sock))
            connection.send([len(query).to_bytes(2, "big") + query])
            assert connection.read()
            session = session or connection.tls.session
        for sock in socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                assert sock.recv(1), "the server has closed an idle connection"
        yield
