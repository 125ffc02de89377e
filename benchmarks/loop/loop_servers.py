"""Echo servers in processes of their own, one per event loop, and the clients that drive them.

The figure is the CPU time of the server process, so the client may be as slow as it likes; both contenders of a pair
get the very same client.
"""

import asyncio
import importlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stream_servers
from ratio import Contender, cpu_of

CONNECTIONS = 10
DATAGRAM_DEPTH = 8
LOOPS = {"corenet": "corenet:new_event_loop", "uvloop": "uvloop:new_event_loop", "asyncio": "asyncio:new_event_loop"}


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """A loop by the name it has in LOOPS."""
    module, _, factory = LOOPS[name].partition(":")
    return getattr(importlib.import_module(module), factory)()


class TcpEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends back each datagram to where it came from."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def serve(kind: str) -> None:
    """Serve until the parent goes away (its end of our standard input closes)."""
    loop = asyncio.get_running_loop()
    server = await stream_servers.start(kind)
    if server is not None:
        port = server.sockets[0].getsockname()[1]
    elif kind == "tcp":
        server = await loop.create_server(TcpEcho, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:
        transport, _ = await loop.create_datagram_endpoint(UdpEcho, ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def server(loop_name: str, kind: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of an echo server on the loop named; it imports this checkout, whatever else is installed."""
    here = Path(__file__).resolve()
    process = subprocess.Popen([sys.executable, __file__, loop_name, kind], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True,
                               env={"PYTHONPATH": f"{here.parents[1]}:{here.parents[2]}", "PATH": "/usr/bin:/bin"})
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait()


@contextmanager
def tcp_echo(loop_name: str, size: int, kind: str = "tcp") -> Iterator[Contender]:
    """A contender: one operation is one message of `size` bytes echoed, on ten connections in turn."""
    with server(loop_name, kind) as (pid, port):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        message = bytes(size)

        def run(count: int) -> None:
            for _ in range(max(1, count // CONNECTIONS)):
                for sock in sockets:
                    sock.sendall(message)
                for sock in sockets:
                    left = size
                    while left:
                        left -= len(sock.recv(left))

        try:
            yield Contender(loop_name, run, cpu_of(pid))
        finally:
            for sock in sockets:
                sock.close()


@contextmanager
def udp_echo(loop_name: str, size: int) -> Iterator[Contender]:
    """A contender: one operation is one datagram echoed, `DATAGRAM_DEPTH` under way at a time."""
    with server(loop_name, "udp") as (pid, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))
        message = bytes(size)

        def run(count: int) -> None:
            for _ in range(max(1, count // DATAGRAM_DEPTH)):
                for _ in range(DATAGRAM_DEPTH):
                    sock.send(message)
                for _ in range(DATAGRAM_DEPTH):
                    sock.recv(65536)

        yield Contender(loop_name, run, cpu_of(pid))


if __name__ == "__main__":
    running = new_loop(sys.argv[1])
    try:
        running.run_until_complete(serve(sys.argv[2]))
    except KeyboardInterrupt:
        pass
