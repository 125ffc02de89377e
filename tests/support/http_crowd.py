"""Requests that are cancelled at random points, over HTTP/1.1 and HTTP/2: the pool of connections stays whole.

A `Crowd` sends requests from one client to two servers that misbehave. Each request has a number; each response
carries the number of its request in a header field and throughout its body. Everything but the timing of the kernel is
drawn from one seed. Checked:

* a response is that of its own request, complete and unchanged, or the request ends with an error of the client;
* a request ends with CancelledError only when it was cancelled;
* at each accepted connection and each request, the servers count the connections that the kernel has as established.
  They are never more than the limits. A connection that the client is closing counts until the kernel has closed it;
* at the end the client is used again: all requests are answered. After it is closed, the counts of the pool are zero,
  and no task, request body, server connection or descriptor is left.

Servers end connections and streams early, send half of a body, do not respond, respond before they have read the
request, refuse and reset streams, and send GOAWAY that covers the request or does not.
"""

import asyncio
import contextlib
import os
import random
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from itertools import pairwise
from typing import Any, cast

from support.h2_frames import GOAWAY, frame
from support.waiting import turns, until

from corenet.http import HttpClient, HttpError, Limits, LocalProtocolError, Timeout
from corenet.http.errors import Http2Error
from corenet.http.events import End, Request, Response
from corenet.http.h2 import SERVER, H2Connection
from corenet.http.h2_events import StreamReset

__all__ = ["Crowd"]

TOGETHER = 24
"""Requests in progress at the same time."""
READ = 0.05
"""seconds: Ends requests that a server does not answer. The clock decides nothing else."""
LONG = 60.0
ESTABLISHED = b"\x01"
RESET = struct.pack("ii", 1, 0)
LAST_STREAM = (1 << 31) - 1
# RFC 9113 section 7.
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 2, 7, 8

COMMON = ("good",) * 20 + ("half", "abort", "half, abort", "half, close", "silent", "early", "close", "large")
WAYS = {
    "http/1.1": (*COMMON, "says close"),
    "h2": (*COMMON, "refused", "reset", "half, reset", "goaway", "goaway, close", "goaway before it", "two goaways"),
}


def body_of(number: int, large: bool = False) -> bytes:
    """The body of the response to a request; those of neighbours differ in size. Large: over the client's windows."""
    return b"%d;" % number * (300_000 if large else 1 + number * 37 % 401)


class Link(asyncio.Protocol):
    """A connection of a server, of HTTP/1.1 or, when ALPN has selected it, of HTTP/2."""

    transport: asyncio.Transport

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.server = server
        self.crowd = server.crowd
        self.chance = random.Random(server.chance.random())
        self.sock = sock
        self.codec: H2Connection | None = None
        self.received = b""
        # Of HTTP/1.1: a response is being sent; how the request in `received` is treated.
        self.busy = False
        self.drawn = ""
        # Of HTTP/2: requests whose end is awaited; the last stream that is processed, once a GOAWAY was sent.
        self.requests: dict[int, tuple[int, str]] = {}
        self.last_stream = LAST_STREAM
        self.goaway_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tls_object = transport.get_extra_info("ssl_object")
        if tls_object is not None and tls_object.selected_alpn_protocol() == "h2":
            self.codec = H2Connection(SERVER, max_streams=self.chance.randrange(1, 20))
            self.flush(self.codec)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.gone(self.sock)

    def data_received(self, data: bytes) -> None:
        if self.codec is not None:
            self.feed(self.codec, data)
        else:
            self.received += data
            self.next_request()

    def way(self, kind: str) -> str:
        """How this server treats a request."""
        self.crowd.count()
        way = "good" if self.crowd.honest else self.chance.choice(WAYS[kind])
        if way == "large" and self.chance.random() < 0.8:
            way = "good"
        self.crowd.ways[f"{kind} {way}"] += 1
        return way

    def abort(self) -> None:
        """End the connection with a reset."""
        if not self.transport.is_closing():
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

    async def pause(self) -> None:
        await turns(0 if self.crowd.honest else self.chance.choice((0, 0, 0, 1, 2, 5, 20)))

    # --- HTTP/1.1 -------------------------------------------------------------------------------------------------

    def next_request(self) -> None:
        """Respond when a whole request was received; with `early` when its head was, and read its body afterwards."""
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if self.busy or not end:
            return
        number = int(head.split(b" ", 2)[1][1:])
        if not self.drawn:
            self.drawn = self.way("http/1.1")
        if self.drawn == "early":
            self.drawn = "early, sent"
            self.busy = True
            self.crowd.start(self.respond(number, "early"))
            return
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is not None:
            if len(rest) < int(length[1]):
                return
            rest = rest[int(length[1]) :]
        elif b"chunked" in head:
            # The bodies are zero octets, so this is not in a chunk.
            _, end, rest = rest.partition(b"0\r\n\r\n")
            if not end:
                return
        self.received = rest
        way, self.drawn = self.drawn, ""
        if way != "early, sent":
            self.busy = True
            self.crowd.start(self.respond(number, way))
        elif rest:
            self.next_request()

    async def respond(self, number: int, way: str) -> None:
        """Send a response over HTTP/1.1, as `way` says."""
        chance = self.chance
        await self.pause()
        if way == "abort":
            self.abort()
        if way in ("silent", "abort"):
            return
        body = body_of(number, way == "large")
        lines = [b"HTTP/1.1 200 OK", b"X-Number: %d" % number]
        if chance.random() < 0.5:
            lines.append(b"Content-Length: %d" % len(body))
        else:
            lines.append(b"Transfer-Encoding: chunked")
            half = len(body) // 2
            body = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (half, body[:half], len(body) - half, body[half:])
            if half == 0:
                body = body.partition(b"\r\n\r\n")[2]
        if way == "says close":
            lines.append(b"Connection: close")
        data = b"\r\n".join((*lines, b"", body))
        if way.startswith("half"):
            data = data[: chance.randrange(1, len(data))]
        for piece in cut(chance, data):
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await self.pause()
        if way == "half, abort":
            self.abort()
        elif way in ("half, close", "close", "says close"):
            self.transport.close()
        elif way != "half":
            self.busy = False
            self.next_request()

    # --- HTTP/2 ---------------------------------------------------------------------------------------------------

    def flush(self, codec: H2Connection) -> None:
        data = codec.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def feed(self, codec: H2Connection, data: bytes) -> None:
        try:
            # Time passes quickly for the codec: its budget for resets would end the connections.
            events = codec.feed(data, asyncio.get_running_loop().time() * 10_000)
        except Http2Error as error:
            self.crowd.faults.append(f"the client broke HTTP/2: {error}")
            self.transport.close()
            return
        for stream, event in events:
            if isinstance(event, Request):
                number = int(event.target[1:])
                way = "good" if self.goaway_sent else self.way("h2")
                self.requests[stream] = number, way
                if way == "early":
                    self.crowd.start(self.respond_on(codec, stream, number, way))
            elif isinstance(event, End):
                number, way = self.requests.pop(stream)
                if way != "early":
                    self.crowd.start(self.respond_on(codec, stream, number, way))
            elif isinstance(event, StreamReset):
                self.requests.pop(stream, None)
            elif stream and hasattr(event, "data"):
                codec.acknowledge(stream, len(event.data))
        self.flush(codec)

    async def respond_on(self, codec: H2Connection, stream: int, number: int, way: str) -> None:
        """Send a response over HTTP/2, as `way` says."""
        await self.pause()
        if "goaway" in way and not self.goaway_sent:
            await self.goaway(codec, stream, way)
        if not codec.is_open(stream) or stream > self.last_stream:
            return
        if way == "abort":
            self.abort()
        elif way in ("refused", "reset"):
            codec.reset(stream, REFUSED_STREAM if way == "refused" else self.chance.choice((INTERNAL_ERROR, CANCEL)))
            self.flush(codec)
        if way in ("silent", "abort", "refused", "reset"):
            return
        body = body_of(number, way == "large")
        fields = [(b"x-number", b"%d" % number)]
        if self.chance.random() < 0.5:
            fields.append((b"content-length", b"%d" % len(body)))
        codec.send_response(stream, Response(200, fields))
        sent = body[: self.chance.randrange(len(body))] if way.startswith("half") else body
        for piece in cut(self.chance, sent):
            codec.send_data(stream, piece)
            self.flush(codec)
            await self.pause()
            if not codec.is_open(stream):
                return
        if way == "half, abort":
            self.abort()
        elif way == "half, reset":
            codec.reset(stream, INTERNAL_ERROR)
        elif way != "half":
            if way != "half, close":
                codec.send_end(stream)
            if way == "early":
                # RFC 9113 section 8.1: the rest of the request is not needed.
                codec.reset(stream, NO_ERROR)
            self.flush(codec)
            if "close" in way:
                self.transport.close()
        self.flush(codec)

    async def goaway(self, codec: H2Connection, stream: int, way: str) -> None:
        """Send GOAWAY (RFC 9113 section 6.8): streams above its last one are not processed."""
        self.goaway_sent = True
        if way == "goaway before it":
            self.last_stream = stream - 2 if stream > 1 else 0
            if not self.transport.is_closing():
                payload = self.last_stream.to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big")
                self.transport.write(frame(GOAWAY, 0, 0, payload))
            return
        if way == "two goaways":
            if not self.transport.is_closing():
                payload = LAST_STREAM.to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big")
                self.transport.write(frame(GOAWAY, 0, 0, payload))
            await self.pause()
        codec.goaway()
        self.flush(codec)


def cut(chance: random.Random, data: bytes) -> Sequence[bytes]:
    """The data in one to four pieces."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 0, 1, 3))))
    ends = [0, *places, len(data)]
    return [data[start:end] for start, end in pairwise(ends) if end > start]


class Server:
    """One origin."""

    def __init__(self, crowd: "Crowd") -> None:
        self.crowd = crowd
        self.chance = random.Random(crowd.chance.random())
        self.up: dict[socket.socket, None] = {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setblocking(False)
        scheme = "http" if None in crowd.contexts else "https"
        self.url = f"{scheme}://127.0.0.1:{self.listener.getsockname()[1]}"
        asyncio.get_running_loop().add_reader(self.listener, self.accept)

    async def stop(self) -> None:
        """Stop listening; wait until every connection is gone."""
        asyncio.get_running_loop().remove_reader(self.listener)
        self.listener.close()
        await until(lambda: not self.up, "the connections of the server to end")

    def accept(self) -> None:
        """Accept all connections that the kernel has, then count."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                self.up[sock] = None
                self.crowd.start(self.serve(sock))
        self.crowd.count()

    async def serve(self, sock: socket.socket) -> None:
        """Do the handshake. From then on the `Link` owns the connection."""
        context = self.chance.choice(self.crowd.contexts)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Link(self, sock), sock, ssl=context)
        except OSError:
            # The client has left during the handshake. (ssl.SSLError is an OSError.)
            self.gone(sock)

    def gone(self, sock: socket.socket) -> None:
        """A connection is closed."""
        self.up.pop(sock, None)

    @property
    def established(self) -> int:
        """How many connections the kernel has as established."""
        return sum(
            sock.fileno() >= 0 and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == ESTABLISHED
            for sock in self.up
        )


class Crowd:
    """One client, two servers and `requests` requests.

    `contexts` are the TLS contexts of the servers, of which each connection draws one; [None] means no TLS.
    """

    def __init__(
        self,
        seed: int,
        requests: int,
        contexts: Sequence[ssl.SSLContext | None],
        client_context: ssl.SSLContext,
    ) -> None:
        self.chance = chance = random.Random(seed)
        self.requests = requests
        self.contexts = contexts
        self.honest = False
        self.closes = chance.random() < 0.2
        self.faults: list[str] = []
        self.ways: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.cancelled: set[int] = set()
        self.bodies = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        connections = chance.randrange(1, 7)
        self.limits = Limits(
            connections=connections,
            per_origin=chance.randrange(1, connections + 1),
            keepalive_timeout=chance.choice((0, 1, 50)),
            streams=chance.choice((1, 3, 10, 100)),
        )
        self.client = HttpClient(
            tls_context=client_context, limits=self.limits, timeout=Timeout(read=READ, connect=LONG, total=LONG)
        )

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of a server."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.exception() is not None:
            self.faults.append(f"a server failed: {task.exception()!r}")

    def count(self) -> None:
        """Count connections as the servers do, and compare with the limits."""
        counts = [server.established for server in self.servers]
        if sum(counts) > self.limits.connections or max(counts) > self.limits.per_origin:
            self.faults.append(f"{counts} connections are established, the limits are {self.limits}")

    async def run(self) -> None:
        """Send all requests, then check.

        Raises:
            AssertionError: when the client did what it must not do.
        """
        before = set(os.listdir("/proc/self/fd"))
        self.servers = [Server(self), Server(self)]
        await self.send_all()
        assert not self.faults, self.faults
        if not self.closes:
            await self.use_again()
        await self.client.close()
        pool = self.client._connections.pool
        assert pool is not None
        assert pool.total == pool.closing_count == 0
        assert not pool.groups and not pool.idle and not pool.waiting_origins and not pool.closing_gracefully
        assert not self.client._connections.open and not self.client._connections.connecting
        assert self.bodies == 0, f"{self.bodies} request bodies were not closed"
        for server in self.servers:
            await server.stop()
        await until(lambda: not self.tasks, "the tasks of the servers to end")
        await turns(5)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        after = set(os.listdir("/proc/self/fd"))
        assert after <= before, f"descriptors are left: {after - before}"
        assert not self.faults, self.faults

    async def send_all(self) -> None:
        """Start the requests and cancel some of them; check each result."""
        chance = self.chance
        running: dict[asyncio.Task[bytes | None], int] = {}
        closing = chance.randrange(self.requests) if self.closes else -1
        for number in range(1, self.requests + 1):
            while len(running) >= TOGETHER:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                self.check_ended(running)
            running[asyncio.ensure_future(self.request(number))] = number
            await turns(chance.choice((0, 0, 0, 1, 2, 5)))
            while chance.random() < 0.3:
                # Sometimes one that was cancelled before and has not ended.
                victim = chance.choice(list(running))
                if victim.cancel():
                    self.cancelled.add(running[victim])
                await turns(chance.choice((0, 1, 2)))
            self.check_ended(running)
            if number == closing:
                await self.client.close()
            if self.faults:
                break
        while running:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            self.check_ended(running)

    async def use_again(self) -> None:
        """Every request to honest servers is answered, whatever happened to the connections before."""
        self.honest = True
        numbers = range(self.requests + 1, self.requests + 2 * TOGETHER + 1)
        urls = [f"{self.servers[number % 2].url}/{number}" for number in numbers]
        timeout = Timeout(read=LONG, total=LONG)
        responses = await asyncio.gather(*(self.client.get(url, timeout=timeout) for url in urls))
        for number, response in zip(numbers, responses, strict=True):
            assert response.body == body_of(number), f"request {number} got {response.body[:50]!r}"

    def check_ended(self, running: dict["asyncio.Task[bytes | None]", int]) -> None:
        """Check the results of requests that have ended."""
        for task in [task for task in running if task.done()]:
            number = running.pop(task)
            if task.cancelled():
                self.results["cancelled"] += 1
                if number not in self.cancelled:
                    self.faults.append(f"request {number} was never cancelled")
                continue
            error = task.exception()
            self.results[type(error).__name__] += 1
            if error is not None:
                if not isinstance(error, HttpError) or (isinstance(error, LocalProtocolError) and not self.closes):
                    self.faults.append(f"request {number}: {error!r}")
            elif task.result() not in (None, body_of(number), body_of(number, True)):
                self.faults.append(f"request {number} got {task.result()[:50]!r}")  # type: ignore[index]

    async def request(self, number: int) -> bytes | None:
        """One request; returns the body of its response, or None when it was not read to its end."""
        chance = random.Random(self.chance.random())
        client, url = self.client, f"{chance.choice(self.servers).url}/{number}"
        body: Any = chance.choice((None, None, None, bytes(1000), bytes(200_000), "iterator"))
        if body == "iterator":
            body = self.body(chance)
        method = "GET" if body is None else "POST"
        timeout = None
        if chance.random() < 0.1:
            short = chance.choice((0.0005, 0.002, 0.01))
            timeout = chance.choice((Timeout(total=short), Timeout(connect=short, read=READ), Timeout(read=short)))
        if chance.random() < 0.6:
            response = await client.request(method, url, body=body, timeout=timeout)
            self.check_number(number, response.headers["x-number"])
            return response.body
        async with client.stream(method, url, body=body, timeout=timeout) as streamed:
            self.check_number(number, streamed.headers["x-number"])
            if chance.random() < 0.3:
                return None
            got = b""
            async for piece in streamed:
                got += piece
                if chance.random() < 0.1:
                    return None
                await turns(chance.choice((0, 0, 1, 10)))
            return got

    def check_number(self, number: int, field: str) -> None:
        if field != str(number):
            self.faults.append(f"request {number} got the response to {field}")

    async def body(self, chance: random.Random) -> AsyncIterator[bytes]:
        self.bodies += 1
        try:
            for _ in range(chance.randrange(1, 6)):
                yield bytes(chance.choice((1, 500, 50_000)))
                await turns(chance.choice((0, 1, 5)))
            if chance.random() < 0.05:
                await asyncio.Event().wait()
        finally:
            self.bodies -= 1
