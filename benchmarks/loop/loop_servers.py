"""Servers in their own processes, one for each event loop, and the clients that load them.

The figure is the CPU time of the server process, so the speed of the client does not matter; both contenders of a pair
get the same client. Client and server share one core, and the server does not preempt (SCHED_BATCH): the client sends
on all connections before it waits, so the server finds them all ready at once, as a loaded server does. So the figure
contains the work and not the wake-ups.
"""

import asyncio
import importlib
import os
import shlex
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path

import app_servers
import stream_servers
from ratio import Contender, cpu_of

CONNECTIONS = 10
AT_ONCE = 50
DATAGRAM_DEPTH = 8
FRAMES = 64
LOOPS = {"corenet": "corenet:new_event_loop", "uvloop": "uvloop:new_event_loop", "asyncio": "asyncio:new_event_loop"}
BARE = "bare"
LENGTH = struct.Struct(">I")


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Return a loop by its name in LOOPS."""
    module, _, factory = LOOPS[name].partition(":")
    return getattr(importlib.import_module(module), factory)()


# --- servers ----------------------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class EchoBuffered(asyncio.BufferedProtocol):
    """The same with one buffer of its own; slices of it are written."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = memoryview(bytearray(262_144))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, size):
        self.transport.write(self.buffer[:size])


class EchoFrames(asyncio.Protocol):
    """Parses messages with a length prefix of four bytes and writes each back separately, as most programs do."""

    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""

    def data_received(self, data):
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        while end - at >= LENGTH.size:
            stop = at + LENGTH.size + LENGTH.unpack_from(data, at)[0]
            if stop > end:
                break
            message = data[at + LENGTH.size:stop]
            self.transport.write(LENGTH.pack(len(message)) + message)
            at = stop
        self.rest = data[at:]


class EchoDatagrams(asyncio.DatagramProtocol):
    """Sends back each datagram to where it came from."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def echo_sock(loop, listener, tasks):
    """Sends back what it receives, with the loop's sock_recv and sock_sendall."""

    async def serve_one(sock):
        with sock:
            while data := await loop.sock_recv(sock, 262_144):
                await loop.sock_sendall(sock, data)

    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(serve_one(sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


PROTOCOLS = {"protocol": Echo, "buffered": EchoBuffered, "frames": EchoFrames, "tls": Echo}


async def serve(kind: str, place: str) -> None:
    """Serve until standard input closes, because the parent has ended; `place`: path of a socket or of the keys."""
    loop = asyncio.get_running_loop()
    keep: set = set()
    port = 0
    if kind == "udp":
        transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
    elif kind == "sock":
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        keep.add(loop.create_task(echo_sock(loop, listener, keep)))
    elif kind in app_servers.APPS:
        port = await app_servers.start(kind, keep)
    elif kind == "unix":
        await loop.create_unix_server(Echo, place)
    elif kind in PROTOCOLS:
        context = None
        if kind == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(place)
        server = await loop.create_server(PROTOCOLS[kind], "127.0.0.1", 0, backlog=1024, ssl=context)
        port = server.sockets[0].getsockname()[1]
    else:
        server = await stream_servers.start(kind)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    # No thread waits for the end: with a second thread the kernel counts references to descriptors atomically at each
    # system call, and the server in C, whose cost is subtracted, has one thread.
    ended = loop.create_future()
    loop.add_reader(sys.stdin.fileno(), ended.set_result, None)
    await ended
    loop.remove_reader(sys.stdin.fileno())


def share_a_core() -> None:
    """Run on the last permitted core, with lower priority than other processes there."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@cache
def bare_server() -> str:
    """The server in C, compiled once for each run."""
    folder = Path(__file__).parents[2] / "build"
    folder.mkdir(exist_ok=True)
    program = folder / "bare_server"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-O2", "-Wall", "-Werror", "-o", program, Path(__file__).with_name("bare_server.c")],
                   check=True)
    return str(program)


@contextmanager
def server(loop_name: str, kind: str, place: str = "") -> Iterator[tuple[int, int]]:
    """(pid, port) of a server on the named loop, or of the one in C. Until the end this process runs on its core."""
    cores = os.sched_getaffinity(0)
    words = [bare_server(), kind, place] if loop_name == BARE else [sys.executable, __file__, loop_name, kind, place]
    path = os.pathsep.join(str(p) for p in (Path(__file__).parents[2], Path(__file__).parents[1] / "support"))
    process = subprocess.Popen(words, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, preexec_fn=share_a_core,
                               env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"})
    try:
        os.sched_setaffinity(0, {max(cores)})
        yield process.pid, int(process.stdout.readline())
    finally:
        os.sched_setaffinity(0, cores)
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait()


# --- clients ----------------------------------------------------------------------------------------------------------


def receive(sock: socket.socket, size: int) -> None:
    """Receive exactly `size` bytes. A server that closes early fails the benchmark instead of hanging it."""
    while size:
        got = len(sock.recv(min(size, 262_144)))
        if not got:
            raise ConnectionError("the server closed the connection")
        size -= got


def certificate(folder: str) -> str:
    """A file with a fresh key and a self-signed certificate."""
    path = str(Path(folder) / "server.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", path, "-out", path + ".crt", "-days", "30", "-subj", "/CN=localhost"],
                   check=True, capture_output=True)
    with open(path, "ab") as whole:
        whole.write(Path(path + ".crt").read_bytes())
    return path


@contextmanager
def echo(
    loop_name: str, kind: str, message: bytes, messages: int = 1, connections: int = CONNECTIONS
) -> Iterator[Contender]:
    """A contender: one operation is one message echoed, `messages` in flight on each of so many connections.

    The server in C has one echo for all kinds, and no TLS.
    """
    with ExitStack() as stack:
        place = ""
        if kind in ("unix", "tls"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            place = str(Path(folder) / "socket") if kind == "unix" else certificate(folder)
        pid, port = stack.enter_context(server(loop_name, "protocol" if loop_name == BARE else kind, place))
        sockets = []
        for _ in range(connections):
            if kind == "unix":
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(place)
            else:
                sock = socket.create_connection(("127.0.0.1", port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if kind == "tls":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                sock = context.wrap_socket(sock)
            sock.settimeout(30)
            sockets.append(stack.enter_context(sock))
        burst = message * messages
        # A burst larger than the socket buffers would block both sides, so the connections are used one by one.
        turns = [sockets] if len(burst) <= 65_536 else [[sock] for sock in sockets]

        def run(count: int) -> None:
            for _ in range(max(1, count // (connections * messages))):
                for turn in turns:
                    for sock in turn:
                        sock.sendall(burst)
                    for sock in turn:
                        receive(sock, len(burst))

        yield Contender(loop_name, run, cpu_of(pid), connections * messages)


def tcp_echo(loop_name: str, size: int, kind: str = "protocol") -> AbstractContextManager[Contender]:
    """A contender: one operation is one message of `size` bytes echoed, on ten connections."""
    return echo(loop_name, kind, bytes(size))


@contextmanager
def connections(loop_name: str) -> Iterator[Contender]:
    """A contender: one operation is one connection accepted, 64 bytes echoed, and closed; fifty in parallel."""
    with server(loop_name, "protocol") as (pid, port):
        message = bytes(64)

        def run(count: int) -> None:
            for _ in range(max(1, count // AT_ONCE)):
                sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
                for sock in sockets:
                    sock.sendall(message)
                for sock in sockets:
                    receive(sock, len(message))
                for sock in sockets:
                    sock.close()

        yield Contender(loop_name, run, cpu_of(pid), AT_ONCE)


@contextmanager
def datagrams(loop_name: str, size: int) -> Iterator[Contender]:
    """A contender: one operation is one datagram echoed, `DATAGRAM_DEPTH` in flight."""
    with server(loop_name, "udp") as (pid, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))
        message = bytes(size)

        def run(count: int) -> None:
            for _ in range(max(1, count // DATAGRAM_DEPTH)):
                for _ in range(DATAGRAM_DEPTH):
                    sock.send(message)
                for _ in range(DATAGRAM_DEPTH):
                    sock.recv(65_536)

        yield Contender(loop_name, run, cpu_of(pid), DATAGRAM_DEPTH)


if __name__ == "__main__":
    running = new_loop(sys.argv[1])
    try:
        running.run_until_complete(serve(*sys.argv[2:]))
    except KeyboardInterrupt:
        pass
