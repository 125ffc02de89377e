"""Random scenarios for the HTTP client: a server that misbehaves in many ways, and requests cancelled at any point.

Everything is drawn from a seed. Each request carries a number, and each answer contains that number and the connection
on which it was sent, so the model can check what the client returns (`World.check`):

* an answer is that of its own request, complete and unchanged, or the request ends with an error of the client;
* a cancellation is raised as such, an error of a request body as that error;
* the limits hold as counted by the server: connections open in the kernel when another one is accepted;
* in the end the client still works, and after closing no slot, task or descriptor is left.

A server that sends data without a request (`unsolicited`) cannot be distinguished from one that answers: later answers
on that connection may be any of those it sent.
"""

import asyncio
import contextlib
import gzip
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from corenet.http import HttpClient, HttpError, Limits, LocalProtocolError, Timeout

__all__ = ["OwnError", "World"]

REQUESTS = 8
MOST_TURNS = 12
WAIT_SECONDS = 30.0
# The timeout for requests to servers that stall; nothing else depends on the clock.
READ_SECONDS = 0.04


class OwnError(Exception):
    """Raised by a request's body."""


def content(number: int, connection: int) -> bytes:
    """The body of the answer to a request; its size differs from those of the previous and the next request."""
    return b"%d/%d;" % (number, connection) * (1 + number * number * 37 % 4001)


def random_turns(rng: random.Random) -> int:
    return rng.choice((0, 0, 1, 2, rng.randrange(MOST_TURNS)))


async def pass_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Server:
    """One listener; each connection draws its behaviour from the seed and its number."""

    def __init__(self, seed: int, limit: int) -> None:
        self.seed = seed
        self.limit = limit
        self.faultless = False
        self.connections = 0
        self.unsolicited: set[int] = set()
        self.corrupt = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.open_sockets: dict[int, socket.socket] = {}
        self.faults: list[str] = []
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.open_sockets[number] = writer.get_extra_info("socket")
        count = sum(map(is_established, self.open_sockets.values()))
        if count > self.limit:
            self.faults.append(f"{count} connections are open where {self.limit} are allowed")
        rng = random.Random(f"{self.seed} {number}")
        try:
            while await self.exchange(number, rng, reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            # The client hung up, or the scenario ends.
            pass
        finally:
            self.tasks.discard(task)
            del self.open_sockets[number]
            writer.close()

    async def exchange(
        self, number: int, rng: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; False when the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        request = int(head.split(" ", 2)[1].rpartition("/")[2])
        behaviour = "good" if self.faultless else rng.choice(BEHAVIOURS)
        self.corrupt |= behaviour == "broken gzip"
        if behaviour == "early":
            writer.write(answer(rng, request, number, "good"))
            await pass_turns(random_turns(rng))
            if rng.random() < 0.5:
                # Reads no more and keeps the connection open.
                await asyncio.Event().wait()
        await read_body(head, reader)
        if not self.faultless:
            await pass_turns(random_turns(rng))
        if behaviour in ("reset", "reset late"):
            if behaviour == "reset late":
                writer.write(answer(rng, request, number, "good")[: rng.randrange(200)])
                await pass_turns(random_turns(rng))
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if behaviour == "hang up":
            return False
        if behaviour == "stall":
            await asyncio.Event().wait()
        if behaviour != "early":
            await self.send(answer(rng, request, number, behaviour), rng, writer, behaviour)
        if behaviour in ("to end", "gzip to end"):
            return False
        if behaviour in ("cut", "longer"):
            if rng.random() < 0.1:
                await asyncio.Event().wait()
            return False
        if behaviour == "unsolicited":
            self.unsolicited.add(number)
            await pass_turns(random_turns(rng))
            writer.write(answer(rng, 0, number, "good"))
        # A server may keep a connection open after "Connection: close", or close one without having announced it.
        return rng.random() < 0.8 or self.faultless

    async def send(self, data: bytes, rng: random.Random, writer: asyncio.StreamWriter, behaviour: str) -> None:
        if behaviour == "cut":
            data = data[: rng.randrange(len(data))]
        at = 0
        step = len(data) if rng.random() < 0.4 or self.faultless else rng.choice((1, 7, 100, 5000))
        if behaviour == "excess":
            # In one read with the answer, where the client can see it; later it would be `unsolicited`.
            step = len(data)
        if len(data) // step > 300:
            step = len(data) // 300
        while at < len(data):
            if writer.transport.is_closing():
                raise ConnectionError
            writer.write(data[at : at + step])
            at += step
            if at < len(data) and rng.random() < 0.3:
                await pass_turns(1 + random_turns(rng))
        await writer.drain()


BEHAVIOURS = (
    "good", "good", "good", "good", "chunked", "chunked", "trailers", "informational", "gzip", "members", "to end",
    "gzip to end", "early", "excess", "unsolicited", "says close", "cut", "longer", "reset", "reset late", "hang up",
    "garbage", "broken gzip", "both lengths", "stall",
)  # fmt: skip


def is_established(sock: Any) -> bool:
    """Whether the server's side is established, as the kernel counts it."""
    return sock.fileno() >= 0 and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


async def read_body(head: str, reader: asyncio.StreamReader) -> None:
    if "content-length: " in head:
        left = int(head.split("content-length: ")[1].split("\r\n")[0])
        while left:
            data = await reader.read(min(left, 65_536))
            if not data:
                raise ConnectionError
            left -= len(data)
    elif "transfer-encoding: " in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)


def chunks(rng: random.Random, body: bytes) -> bytes:
    out, at = b"", 0
    while at < len(body):
        step = rng.choice((1, 2, 50, 3000))
        step = max(step, len(body) // 200)
        out += b"%x%s\r\n%b\r\n" % (len(body[at : at + step]), rng.choice((b"", b";x=y")), body[at : at + step])
        at += step
    return out + b"0\r\n"


def answer(rng: random.Random, request: int, connection: int, behaviour: str) -> bytes:
    """Return the octets that a server with this behaviour sends for a request."""
    body = content(request, connection)
    lines = [b"HTTP/1.1 200 OK", b"X-Asked: %d" % request]
    if behaviour == "informational":
        lines[:0] = [b"HTTP/1.1 103 Early\r\nLink: x\r\n"] * rng.randrange(1, 4)
    if behaviour == "garbage":
        return rng.choice(
            (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\n\n", rng.randbytes(50), b"HTTP/9.9 200 OK\r\n\r\n")
        )
    if behaviour in ("gzip", "gzip to end", "broken gzip"):
        body = gzip.compress(body, mtime=0)
        lines.append(b"Content-Encoding: gzip")
    if behaviour == "broken gzip":
        # At least 1: an empty body with a content coding is a valid empty body.
        place = rng.randrange(1, len(body))
        body = rng.choice(
            (body[:place], body + b"x", body[:place] + bytes([body[place] ^ 0x55]) + body[place + 1 :])
        )
    if behaviour == "members":
        half = len(body) // 2
        body = gzip.compress(body[:half], mtime=0) + gzip.compress(b"") + gzip.compress(body[half:], mtime=0)
        lines.append(b"Content-Encoding: gzip")
    if behaviour in ("chunked", "trailers"):
        lines.append(b"Transfer-Encoding: chunked")
        end = b"X-Sum: 1\r\nX-Other: 2\r\n\r\n" if behaviour == "trailers" else b"\r\n"
        return b"\r\n".join([*lines, b"", chunks(rng, body) + end])
    if behaviour in ("to end", "gzip to end"):
        return b"\r\n".join([*lines, b"", body])
    if behaviour == "both lengths":
        lines.append(b"Transfer-Encoding: chunked")
    if behaviour == "says close":
        lines.append(b"Connection: close")
    length = len(body) + (rng.randrange(1, 50) if behaviour == "longer" else 0)
    lines.append(b"Content-Length: %d" % length)
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" if behaviour == "excess" else b""
    return b"\r\n".join([*lines, b"", body]) + extra


class World:
    """One server, one client, and `REQUESTS` requests, all drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.limit = self.rng.randrange(1, 4)
        self.server = Server(seed, self.limit)
        self.cancelled: set[int] = set()
        self.closes = self.rng.random() < 0.15

    async def run(self) -> None:
        """Run the scenario.

        Raises:
            AssertionError: the client broke one of the rules above.
        """
        before = set(os.listdir("/proc/self/fd"))
        async with asyncio.timeout(WAIT_SECONDS):
            listener = await asyncio.start_server(self.server.accept, "127.0.0.1", 0, backlog=128)
            self.server.port = listener.sockets[0].getsockname()[1]
            try:
                await self.play()
            finally:
                listener.close()
                for task in list(self.server.tasks):
                    task.cancel()
                if self.server.tasks:
                    await asyncio.wait(self.server.tasks)
                await listener.wait_closed()
            await pass_turns(5)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"
        after = set(os.listdir("/proc/self/fd"))
        assert len(after) <= len(before), f"descriptors are left: {after - before}"
        assert not self.server.faults, self.server.faults

    async def play(self) -> None:
        rng = self.rng
        limits = Limits(connections=self.limit, per_origin=rng.choice((self.limit, 1)))
        client = HttpClient(limits=limits, timeout=Timeout(read=READ_SECONDS, connect=WAIT_SECONDS, total=WAIT_SECONDS))
        tasks = {}
        for number in range(1, REQUESTS + 1):
            tasks[number] = asyncio.ensure_future(self.request(client, number))
            await pass_turns(random_turns(rng))
            if rng.random() < 0.25:
                victim = rng.choice(list(tasks))
                if tasks[victim].cancel():
                    self.cancelled.add(victim)
        if self.closes:
            await pass_turns(random_turns(rng) * 3)
            await client.close()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number, result in zip(tasks, results, strict=True):
            self.check(number, result)
        if not self.closes:
            await self.check_that_it_still_works(client)
        await client.close()
        pool = client._connections.pool
        if pool is not None:
            assert pool.total == pool.closing_count == 0
            assert not pool.groups and not pool.idle and not pool.waiting_origins
        assert not client._connections.open

    async def check_that_it_still_works(self, client: HttpClient) -> None:
        """Check that requests to a faultless server are answered, whatever happened before."""
        self.server.faultless = True
        # The client notices what the former connections sent unsolicited; those that stall are closed here.
        for task in list(self.server.tasks):
            task.cancel()
        await pass_turns(20)
        url = f"http://127.0.0.1:{self.server.port}/"
        requests = (client.get(f"{url}{number}", timeout=WAIT_SECONDS) for number in range(50, 56))
        answers = await asyncio.gather(*requests)
        for number, response in zip(range(50, 56), answers, strict=True):
            assert response.body.startswith(b"%d/" % number)

    def check(self, number: int, result: Any) -> None:
        """Check the result of one request against the model."""
        if isinstance(result, asyncio.CancelledError):
            assert number in self.cancelled, f"request {number} was never cancelled"
        elif isinstance(result, BaseException):
            assert isinstance(result, HttpError | OwnError), f"request {number}: {result!r}"
            if isinstance(result, LocalProtocolError):
                assert self.closes, f"request {number}: {result!r}"
        else:
            status, body, whole = result
            if self.server.corrupt and not whole:
                # The checksum of a gzip body is at its end: what was read before is not known to be right.
                return
            assert b";" in body, f"request {number}: {body!r}"
            numbered, _, connection = body[: body.index(b";")].partition(b"/")
            given = content(int(numbered), int(connection))
            assert status == 200
            assert body == given if whole else given.startswith(body), f"request {number}: a wrong body"
            if int(connection) not in self.server.unsolicited:
                assert int(numbered) == number, f"request {number} has the answer to {numbered!r}"

    async def request(self, client: HttpClient, number: int) -> tuple[int, bytes, bool]:
        rng = random.Random(self.rng.random())
        url = f"http://127.0.0.1:{self.server.port}/{number}"
        body: Any = None
        kind = rng.choice(("get", "get", "get", "bytes", "large", "made"))
        if kind in ("bytes", "large"):
            body = bytes(1000 if kind == "bytes" else 3 << 20)
        elif kind == "made":
            body = self.body(random.Random(rng.random()))
        method = "GET" if body is None else "POST"
        if rng.random() < 0.5:
            response = await client.request(method, url, body=body)
            return response.status, response.body, True
        async with client.stream(method, url, body=body) as streamed:
            got = b""
            for _ in range(rng.randrange(4)):
                await pass_turns(random_turns(rng))
                with contextlib.suppress(StopAsyncIteration):
                    got += await anext(streamed)
            if rng.random() < 0.8 or b";" not in got:
                return streamed.status, got + await streamed.read(), True
            return streamed.status, got, False

    async def body(self, rng: random.Random) -> AsyncIterator[bytes]:
        for _ in range(rng.randrange(1, 6)):
            yield bytes(rng.choice((0, 1, 500, 100_000, 1_000_000)))
            await pass_turns(random_turns(rng))
        if rng.random() < 0.1:
            raise OwnError
        if rng.random() < 0.05:
            await asyncio.Event().wait()
