"""Queued data is sent, whatever changes the transport's state while one of its events is in the batch.

A batch of events is gathered first and dispatched then; the callback of its first event may change the state that a
later one is about. Each test makes such a batch: `between` runs its `change` after the poll and before the transport's
event.
"""

import asyncio
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tls_pair import client_context, leaf, server_context, tls_pair
from support.twin import Recorder, loop_factory, twin

import corenet

__all__ = ["client_context", "leaf", "loop_factory", "server_context", "twin"]

# A debug build and a wheel hold no sources.
SOURCES = Path(__file__).resolve().parents[4]
Twin = Callable[[Any], Any]
Change = Callable[[Any], None]

BIG = bytes(range(256)) * 16384


async def between(change: Callable[[], None], event: Callable[[], None]) -> None:
    """Cause `event`, an event of some transport, and call `change` between the poll that sees it and its delivery."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    called = loop.create_future()

    def first() -> None:
        loop.remove_reader(near)
        change()
        called.set_result(None)

    loop.add_reader(near, first)
    # The two become ready in this order.
    far.send(b"x")
    event()
    await called
    near.close()
    far.close()


async def all_of(sock: socket.socket) -> bytearray:
    """All data received on `sock` until its end."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while data := await loop.sock_recv(sock, 1 << 20):
        got += data
    return got


class Datagrams(Recorder):
    """The same for datagrams."""

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.data_received(data)


async def pair() -> tuple[Any, Recorder, socket.socket]:
    """A transport, its protocol, and the peer's socket."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, sock=ours)
    return transport, protocol, peer


def write_and_close(transport: Any) -> None:
    transport.write(BIG)
    transport.close()


def pause_and_write(transport: Any) -> None:
    transport.pause_reading()
    transport.write(BIG)


def write_and_pause(transport: Any) -> None:
    transport.write(BIG)
    transport.pause_reading()


def pause_and_write_eof(transport: Any) -> None:
    transport.pause_reading()
    transport.write(BIG)
    transport.write_eof()


CHANGES: list[Change] = [write_and_close, pause_and_write, write_and_pause, pause_and_write_eof]


def say(sock: socket.socket) -> None:
    sock.send(b"news")


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("change", "event"),
    # Closed with data unread, a Unix socket reports a reset to its peer before the rest of the data.
    [(change, event) for change in CHANGES for event in (say, half_close) if (change, event) != (write_and_close, say)],
)
def test_an_earlier_event_does_not_lose_queued_data(twin: Twin, change: Change, event: Callable[[Any], None]) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        protocol.keep_open = True
        await between(lambda: change(transport), lambda: event(peer))
        got = bytearray()
        while len(got) < len(BIG):
            got += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
        assert got == BIG
        if change is not write_and_close:
            transport.abort()
        await protocol.lost
        peer.close()

    twin(main())


@pytest.mark.parametrize("event", [say, half_close])
def test_drain_after_pause_reading_ends(twin: Twin, event: Callable[[Any], None]) -> None:
    async def main() -> None:
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)

        def change() -> None:
            writer.transport.pause_reading()
            writer.write(BIG)

        await between(change, lambda: event(peer))
        receiving = asyncio.ensure_future(all_of(peer))
        await writer.drain()
        writer.transport.resume_reading()
        writer.write_eof()
        assert await receiving == BIG
        peer.close()
        await reader.read()
        writer.close()
        await writer.wait_closed()

    twin(main())


@pytest.mark.parametrize("event", [say, half_close])
def test_a_file_is_sent_after_queued_headers(twin: Twin, tmp_path: Path, event: Callable[[Any], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"the file")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await pair()
        protocol.keep_open = True
        with path.open("rb") as file:
            # In one iteration: the next poll gets the event, and then the task begins, which pauses reading.
            transport.write(BIG)
            event(peer)
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            got = bytearray()
            while len(got) < len(BIG) + 8:
                got += await loop.sock_recv(peer, 1 << 20)
            await sending
        assert got == BIG + b"the file"
        transport.close()
        await protocol.lost
        peer.close()

    twin(main())


def test_queued_datagrams_are_sent(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        for sock, name in ((ours, "ours"), (peer, "peer")):
            sock.bind(str(tmp_path / name))
            sock.setblocking(False)
        ours.connect(str(tmp_path / "peer"))
        peer.connect(str(tmp_path / "ours"))
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=ours)  # type: ignore[type-var]
        sent = [b"%d" % number for number in range(600)]

        def change() -> None:
            if hasattr(transport, "pause_reading"):
                # asyncio has this for streams only.
                transport.pause_reading()
            for data in sent:
                transport.sendto(data)

        await between(change, lambda: say(peer))
        assert [await loop.sock_recv(peer, 100) for _ in sent] == sent
        transport.abort()
        await protocol.lost
        peer.close()

    twin(main())


@pytest.mark.parametrize("change", [pause_and_write, write_and_pause])
def test_queued_data_is_sent_over_tls(
    twin: Twin, change: Change, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        protocol, client, server = await tls_pair(server_context, client_context)
        await between(lambda: change(protocol.transport), lambda: client.transport.write(b"news"))
        await client.until(lambda: len(client.data) >= len(BIG))
        assert client.data == BIG
        for end in (protocol, client):
            end.transport.abort()
            await end.lost
        server.close()
        await server.wait_closed()

    twin(main())


# One request a connection, half-closed at once; a whole answer each time.
CLIENT = """
import socket, sys

port, rounds, size = map(int, sys.argv[1:])
for _ in range(rounds):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"request\\n")
        sock.shutdown(socket.SHUT_WR)
        got = 0
        while data := sock.recv(1 << 20):
            got += len(data)
        if got != size:
            sys.exit(f"{got} bytes of {size}")
"""


def test_a_server_answers_clients_that_half_close(twin: Twin) -> None:
    """Its clients are in another process, so that their end may come at any moment."""

    async def main() -> None:
        answer = bytes(12_000_000)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        numbers = [str(number) for number in (server.sockets[0].getsockname()[1], 20, len(answer))]
        client = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", CLIENT, *numbers])
        try:
            # TimeoutExpired: a response was not completed.
            status = await asyncio.to_thread(client.wait, 18)
        finally:
            client.kill()
            client.wait()
        assert status == 0
        server.close()
        await server.wait_closed()

    twin(main())


@pytest.mark.checkout
def test_only_apply_interest_changes_the_registration() -> None:
    """Transports set their state; `apply_interest` derives the interest from it, and `unregister` ends it."""
    found = set()
    for path in sorted(SOURCES.glob("corenet/t*/*.pyx")):
        function = ""
        for line in path.read_text().splitlines():
            if definition := re.match(r" *(?:cdef|cpdef|def) .*?(\w+)\(.*:$", line):
                function = definition[1]
            if re.search(r"poller\.(add|modify|remove|epoll_ctl\w*)\(", line):
                found.add((path.name, function))
    # A listener has no transport's states: it listens or it does not.
    listener = {("listener.pyx", "start"), ("listener.pyx", "unregister")}
    assert found == {("base.pyx", "apply_interest"), ("base.pyx", "unregister")} | listener


async def turns(seconds: float) -> int:
    """How many iterations the loop runs while there is nothing to do."""
    loop = asyncio.get_running_loop()
    before = loop.statistics().iterations  # type: ignore[attr-defined]
    await asyncio.sleep(seconds)
    return loop.statistics().iterations - before  # type: ignore[attr-defined,no-any-return]


class Errors(Datagrams):
    """Records the errors of the network."""

    def error_received(self, error: Exception) -> None:
        self.note(type(error).__name__)


def ours_alone(main: Any) -> None:
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 30))


def test_an_unread_error_queue_does_not_spin() -> None:
    """EPOLLERR persists while the queue is not empty; data that arrives later must still be delivered."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            address = peer.getsockname()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_RECVERR", 11), 1)
        sock.setblocking(False)
        sock.connect(address)
        transport, protocol = await loop.create_datagram_endpoint(Errors, sock=sock)  # type: ignore[type-var]
        transport.sendto(b"to nobody")
        await protocol.until(lambda: "ConnectionRefusedError" in protocol.events)
        assert await turns(0.1) < 20
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(address)
            for number in range(3):
                peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
                await protocol.until(lambda: protocol.data.endswith(b"%d" % number))  # noqa: B023
                assert await turns(0.05) < 20
            # Many at once: more than one call of the kernel's brings.
            for _ in range(200):
                peer.sendto(b"x", transport.get_extra_info("sockname"))
            await protocol.until(lambda: protocol.data.count(b"x") == 200)
        transport.close()
        await protocol.lost

    ours_alone(main())


def test_a_datagram_socket_that_was_shut_down_does_not_spin() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(("127.0.0.1", 9))
        transport, protocol = await loop.create_datagram_endpoint(Errors, sock=sock)  # type: ignore[type-var]
        sock.shutdown(socket.SHUT_RDWR)
        assert await turns(0.1) < 20
        transport.close()
        await protocol.lost

    ours_alone(main())


@pytest.mark.parametrize("blocked", [False, True])
def test_a_stream_with_an_error_queue_does_not_spin(blocked: bool) -> None:
    """Unread time stamps of what was sent; the stream continues in both directions."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        # SO_TIMESTAMPING with SOF_TIMESTAMPING_TX_SOFTWARE, _SOFTWARE and _OPT_TSONLY.
        ours.setsockopt(socket.SOL_SOCKET, 37, 1 << 1 | 1 << 4 | 1 << 11)
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        peer.setblocking(False)
        transport.write(b"hello")
        assert await loop.sock_recv(peer, 100) == b"hello"
        if blocked:
            transport.write(BIG)
            assert transport.get_write_buffer_size()
        assert await turns(0.1) < 20
        await loop.sock_sendall(peer, b"question")
        await protocol.until(lambda: protocol.data == b"question")
        if blocked:
            got = bytearray()
            while len(got) < len(BIG):
                got += await loop.sock_recv(peer, 1 << 20)
            assert got == BIG
        transport.write(b"answer")
        assert await loop.sock_recv(peer, 100) == b"answer"
        assert await turns(0.1) < 20
        peer.close()
        await protocol.lost

    ours_alone(main())
