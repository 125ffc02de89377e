"""A server that sends exactly the bytes that a test specifies, and records what it received.

It runs on the loop under test, so that the runs on asyncio's loop and on ours have the same peer. Each connection is
served by a coroutine that reads requests with `Peer.request` and writes raw bytes.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from support.waiting import spin as until

import corenet

__all__ = ["LOOPS", "OK", "Peer", "Server", "run_on", "serving", "until"]

T = TypeVar("T")

# The first octet of struct tcp_info.
_ESTABLISHED = b"\x01"

# Every test of the client passes on the standard library's loop and on ours.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "corenet": corenet.new_event_loop,
}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run_on(name: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new loop of that kind; whatever the loop's exception handler hears is an error."""
    heard: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: heard.append(context))
        result = runner.run(main)
    assert heard == [], heard
    return result


class Peer:
    """One accepted connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    @property
    def is_up(self) -> bool:
        """Whether the connection stands, by the kernel's word on our side of it."""
        sock = self.writer.get_extra_info("socket")
        return (
            sock is not None
            and sock.fileno() >= 0
            and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _ESTABLISHED
        )

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """Read one request: its first line, fields in lower case, and the body as sent on the wire."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        body = b""
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            body = await self.reader.readuntil(b"0\r\n\r\n")
        return line, headers, body

    async def send(self, data: bytes) -> None:
        """Write bytes and wait until the transport took them."""
        self.writer.write(data)
        await self.writer.drain()


class Server:
    """What the test sees of the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.connections = 0
        self.requests: list[str] = []


@asynccontextmanager
async def serving(serve: Callable[[Peer], Awaitable[None]], tls: Any = None) -> AsyncIterator[Server]:
    """Serve each connection with `serve` for the length of the context.

    Each connection is a task from its acceptance to its end, TLS handshake and close_notify included, and ends before
    the context does. `asyncio.start_server` would not tell of one whose handshake goes on: it would stay open in a loop
    that is closed.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def connection(sock: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=tls)
        except OSError:
            # The client ended the handshake, which is an ordinary end here.
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        server.connections += 1
        try:
            # The client may be gone, which is an ordinary end here.
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(Peer(server.connections, reader, writer))
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        except BaseException as error:
            # When the test is over, nothing waits for the client's close_notify.
            transport.abort()
            if not isinstance(error, asyncio.CancelledError):
                raise

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            loop.call_exception_handler({"message": "the peer's coroutine failed", "exception": error, "task": task})

    def accept() -> None:
        # Not by a task with `sock_accept`: a connection that it has accepted when it is cancelled would be lost.
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return  # the client has gone
        sock.setblocking(False)
        task = loop.create_task(connection(sock))
        tasks.add(task)
        task.add_done_callback(ended)

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        # Accepted sockets inherit it. asyncio sets it only on sockets that name their protocol, which these do not.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = Server(listener.getsockname()[1])
        if tls is not None:
            server.url = f"https://localhost:{server.port}"
        loop.add_reader(listener, accept)
        try:
            yield server
        finally:
            loop.remove_reader(listener)
            # A task that is cancelled before it begins would not close its socket.
            await asyncio.sleep(0)
            for task in list(tasks):
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


async def always_ok(peer: Peer) -> None:
    """Answer every request of a connection with `OK`."""
    while True:
        await peer.request()
        await peer.send(OK)
