"""The loop's own interface: any method of a loop or a transport with any argument, in any order.

Each pair of bytes of the input chooses a call and its arguments: descriptors that are closed, negative or huge, regular
files, closed sockets, wrong types, enormous numbers. An exception is permitted; a crash, an abort, a hang or a loop
that can no longer run and be closed is a finding. Calls that would leave the process (signals to others, addresses
outside loopback, programs) are not among them.
"""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import socket
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import corenet

#: Turns of the loop after the last call, and seconds after which a run counts as hung.
TURNS = 6
SIGNAL = int(signal.SIGUSR1)
TIMEOUT = 30

METHODS = [
    "call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_reader", "add_writer", "remove_reader",
    "remove_writer", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall",
    "sock_sendto", "sock_accept", "sock_connect", "sock_sendfile", "create_connection", "create_server",
    "create_unix_server", "create_unix_connection", "connect_accepted_socket", "create_datagram_endpoint",
    "connect_read_pipe", "connect_write_pipe", "start_tls", "sendfile", "getaddrinfo", "getnameinfo", "create_task",
    "watch", "unwatch", "set_debug", "set_exception_handler", "set_task_factory", "call_exception_handler",
    "add_signal_handler", "remove_signal_handler", "statistics", "stop", "is_running", "close", "run_forever",
    "_set_handler", "_clear_handler",
]
TRANSPORT_METHODS = [
    "write", "writelines", "sendto", "send_many", "close", "abort", "write_eof", "pause_reading", "resume_reading",
    "is_reading", "is_closing", "get_extra_info", "set_protocol", "get_protocol", "set_write_buffer_limits",
    "get_write_buffer_size", "get_write_buffer_limits", "can_write_eof", "write_frame", "_make_empty_waiter",
    "_reset_empty_waiter", "_force_close", "_fatal_error", "close_descriptor", "__repr__",
]
ON_DESCRIPTORS = {
    "add_reader", "add_writer", "remove_reader", "remove_writer", "watch", "unwatch", "_set_handler", "_clear_handler"
}
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 4096, 65536, 1 << 31, -(1 << 31), 1 << 63, -(1 << 63), 1 << 70, (1 << 20) + 1]
KEYWORDS = [
    "sock", "ssl", "path", "host", "port", "backlog", "family", "flags", "local_addr", "remote_addr", "context",
    "all_errors", "interleave", "happy_eyeballs_delay", "reuse_port", "keep_alive", "fallback", "offset", "count",
    "server_hostname", "ssl_handshake_timeout", "high", "low", "mode",
]


class Silent(asyncio.Protocol):
    """A protocol that takes everything."""


class Buffered(asyncio.BufferedProtocol):
    """One whose buffer has the size it was made with, none at all for one."""

    def __init__(self, size: int = 0) -> None:
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Nothing to do."""


class Angry(asyncio.Protocol):
    """One that raises wherever it is called."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("data_received", "eof_received", "pause_writing", "connection_lost", "connection_made"):
            raise ZeroDivisionError(name)
        return super().__getattribute__(name)


class Closing(asyncio.Protocol):
    """One that closes or aborts inside its callbacks."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.abort()


class World:
    """What one run plays with; everything in it is closed at the end."""

    def __init__(self, loop: Any, folder: str) -> None:
        self.loop = loop
        self.calls = 0
        self.folder = folder
        self.transports: list[Any] = []
        self.tasks: list[asyncio.Future[Any]] = []
        left, right = socket.socketpair()
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        closed = socket.socket()
        closed.close()
        blocking, other = socket.socketpair()
        listening = socket.create_server(("127.0.0.1", 0))
        for sock in (left, right, datagram, listening):
            sock.setblocking(False)
        self.read, self.write = os.pipe()
        # A file is an iterable, so writelines takes it; one that blocks would block.
        os.set_blocking(self.read, False)
        self.reading = os.fdopen(self.read, "rb", 0)
        self.writing = os.fdopen(self.write, "wb", 0)
        self.file = open(os.path.join(folder, "file"), "w+b", 0)
        self.file.write(b"x" * 70_000)
        # A number that was closed and that nothing here will be given again.
        self.gone = fcntl.fcntl(self.read, fcntl.F_DUPFD, 900)
        os.close(self.gone)
        self.closers: list[Any] = [
            left, right, datagram, blocking, other, listening, self.reading, self.writing, self.file
        ]
        self.values: list[Any] = [
            left, right, datagram, closed, blocking, listening, self.reading, self.writing, self.file,
            left.fileno, right.fileno, datagram.fileno, self.reading.fileno, self.file.fileno,
            ("127.0.0.1", listening.getsockname()[1]), ("127.0.0.1", 0), ("127.0.0.1", -1), ("::1", 1 << 17, 0, 0),
            os.path.join(folder, "socket"), os.path.join(folder, "file"), "\0corenet-fuzz", "", b"", "x" * 300,
            b"data", bytearray(b"mutable"), memoryview(b"view"), memoryview(bytearray(64))[::2], bytes(300_000),
            [b"a", bytearray(b"b"), 3], [], (), None, True, 1.5, float("nan"), float("inf"), -1e300, object(), str,
            Silent, Silent(), Buffered, Buffered(16), Angry, Angry(), Closing, lambda *_: 1 / 0, len, loop,
        ]


def pick(world: World, byte: int) -> Any:
    """The value that a byte stands for."""
    if byte < 40:
        return NUMBERS[byte % len(NUMBERS)]
    if byte < 48:
        return world.gone
    if byte < 72 and world.transports:
        return world.transports[byte % len(world.transports)]
    value = world.values[byte % len(world.values)]
    if getattr(value, "__name__", "") == "fileno":
        with contextlib.suppress(ValueError):
            return value()
    return value


def numbers_of(world: World) -> set[int]:
    """The descriptors that the run opened itself."""
    found = set()
    for closer in world.closers:
        if hasattr(closer, "fileno"):
            with contextlib.suppress(ValueError):
                found.add(closer.fileno())
    return found


def keep(world: World, result: Any) -> None:
    """Remember transports and tasks, so that later calls meet them."""
    if asyncio.iscoroutine(result):
        task = world.loop.create_task(result) if not world.loop.is_closed() else None
        if not isinstance(task, asyncio.Future):
            result.close()
            return
        world.tasks.append(task)
        task.add_done_callback(lambda done: keep_result(world, done))
    elif isinstance(result, asyncio.Future):
        world.tasks.append(result)


def keep_result(world: World, done: "asyncio.Future[Any]") -> None:
    if done.cancelled() or done.exception() is not None:
        return
    result = done.result()
    if isinstance(result, tuple) and result and hasattr(result[0], "get_extra_info"):
        world.transports.append(result[0])
    elif isinstance(result, tuple) and result and isinstance(result[0], socket.socket):
        world.closers.append(result[0])
    elif isinstance(result, asyncio.AbstractServer):
        world.closers.append(result)
        world.values.append(result)


def play(world: World, data: bytes) -> None:
    """One call for every four bytes."""
    for position in range(0, len(data) - 3, 4):
        what, first, second, third = data[position : position + 4]
        subject: Any = world.loop
        names = METHODS
        if what >= 160 and world.transports:
            subject = world.transports[what % len(world.transports)]
            names = TRANSPORT_METHODS
        name = names[what % len(names)]
        method = getattr(subject, name, None)
        if method is None:
            continue
        arguments = [pick(world, byte) for byte in (first, second, third)][: 1 + third % 3]
        keywords = {KEYWORDS[third % len(KEYWORDS)]: pick(world, second)} if third % 5 == 0 else {}
        if name in ("create_connection", "create_server", "create_datagram_endpoint", "getaddrinfo"):
            # Names would leave the machine: only addresses of loopback, and only as literals.
            arguments = [arguments[0] if name != "getaddrinfo" else "127.0.0.1", *NUMBERS[second % 5 : second % 5 + 1]]
            if name == "create_datagram_endpoint":
                arguments = arguments[:1]
                keywords = {"local_addr": ("127.0.0.1", 0)} if third % 2 else keywords
            elif name != "getaddrinfo":
                arguments[1:] = ["127.0.0.1", *NUMBERS[second % 9 : second % 9 + 1]] if third % 3 else []
                keywords.pop("host", None)
            keywords = {key: value for key, value in keywords.items() if not isinstance(value, str)}
        if name in ON_DESCRIPTORS and isinstance(arguments[0], int) and 0 <= arguments[0] < 256:
            # The loop's own descriptors are nobody's business; taking them away is no finding.
            arguments[0] = arguments[0] if arguments[0] in numbers_of(world) else world.gone
        if name == "getnameinfo":
            arguments = [("127.0.0.1", 1) if isinstance(arguments[0], tuple) else arguments[0], 3]
        if name == "add_signal_handler" and isinstance(arguments[0], int):
            arguments[0] = SIGNAL
        try:
            with contextlib.suppress(Exception):
                keep(world, method(*arguments, **keywords))
        finally:
            world.calls += 1


async def main(world: World, data: bytes) -> None:
    """Set up one transport of each kind, play, then let the loop turn."""
    loop = world.loop
    for kind in (Silent, Closing):
        near, far = socket.socketpair()
        far.setblocking(False)
        world.closers.append(far)
        transport, _ = await loop.create_connection(kind, sock=near)
        world.transports.append(transport)
        far.send(b"hello")
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    world.transports.append(transport)
    read, write = os.pipe()
    world.transports.append((await loop.connect_read_pipe(Silent, os.fdopen(read, "rb", 0)))[0])
    world.transports.append((await loop.connect_write_pipe(Silent, os.fdopen(write, "wb", 0)))[0])
    half = len(data) // 8 * 4
    play(world, data[:half])
    for _ in range(2):
        await asyncio.sleep(0)
    play(world, data[half:])
    for _ in range(TURNS):
        await asyncio.sleep(0)


def run(data: bytes) -> None:
    """One input."""
    if len(data) < 4:
        data = struct.pack("<I", len(data)) + data
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")
        loop: Any = corenet.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        world = World(loop, folder)
        try:
            drive(loop, lambda: main(world, data[:400]))
        finally:
            finish(world)
            # asyncio itself drops the socket of a datagram endpoint whose factory raises: not to be warned of later.
            world.tasks.clear()
            world.transports.clear()
            gc.collect()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No log of asyncio for as long as an input plays."""
    logger = logging.getLogger("asyncio")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def drive(loop: Any, make: Callable[[], Any]) -> None:
    """Run `make()` to its end although callbacks may stop the loop."""
    deadline = loop.time() + TIMEOUT
    loop.set_task_factory(None)
    task = loop.create_task(make())
    task.add_done_callback(lambda _task: loop.stop())
    while not task.done():
        if loop.time() > deadline:
            raise TimeoutError(f"hung: {task!r}")
        timer = loop.call_later(0.05, loop.stop)
        loop.run_forever()
        timer.cancel()
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()


def finish(world: World) -> None:
    """Close everything; the loop must still be able to turn and to be closed."""
    loop = world.loop
    loop.set_exception_handler(lambda *_: None)
    loop.set_debug(False)
    loop.remove_signal_handler(SIGNAL)
    for transport in world.transports:
        transport.abort()
    for task in world.tasks:
        task.cancel()
    for closer in world.closers:
        with contextlib.suppress(OSError):
            closer.close()

    async def settle() -> None:
        if world.tasks:
            done, _ = await asyncio.wait(world.tasks, timeout=1)
            for task in done:
                # What a call has made is nobody's but its task's.
                made = None if task.cancelled() or task.exception() else task.result()
                for part in made if isinstance(made, tuple) else (made,):
                    if isinstance(part, asyncio.BaseTransport):
                        part.close()
        for _ in range(3):
            await asyncio.sleep(0)

    drive(loop, settle)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert loop.is_closed()


# A loop, a dozen descriptors and a folder for each input.
run.cost = 40  # type: ignore[attr-defined]
