"""Forks of a process with a TLS connection: it belongs to the parent, and the child never sends on it.

Both have the same keys and record numbers. After one record from the child, the peer ends the parent's connection with
bad_record_mac; after a close_notify from the child, it treats the connection as ended.
"""

import asyncio
import os
import signal
import socket
import ssl
import threading
import traceback
from typing import Any

import pytest
from support.tls_pair import client_context, leaf, ours, server_context
from support.twin import Recorder

import corenet

__all__ = ["client_context", "leaf", "ours", "server_context"]

# Forking with other threads alive is warned of from 3.12 on; the peer's thread holds nothing that the child needs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

MUCH = b"0123456789abcdef" * (1 << 18)
CHILD_SECONDS = 30


class Peer(threading.Thread):
    """The other end, in a thread that no child has: sends one word, then reads to the end."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        super().__init__(daemon=True)
        self.sock, self.context, self.server_side = sock, context, server_side
        self.received = bytearray()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.sock.settimeout(30)
            name = None if self.server_side else "localhost"
            with self.context.wrap_socket(self.sock, self.server_side, server_hostname=name) as tls:
                tls.sendall(b"go")
                while data := tls.recv(65536):
                    self.received += data
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error


class Forking(Recorder):
    """Forks in one callback; the child acts there, and the parent continues when the child has ended."""

    def __init__(self, place: str, child: str) -> None:
        super().__init__()
        self.place, self.child = place, child
        self.pid = -1

    def fork(self, place: str) -> None:
        if place != self.place or self.pid >= 0:
            return
        self.pid = os.fork()
        if self.pid:
            assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0
            return
        signal.alarm(CHILD_SECONDS)
        if self.child == "closes the loop":
            self.transport._loop.close()
        elif self.child == "exits":
            raise SystemExit
        elif self.child == "sends close_notify":
            self.transport.close()
        elif self.child == "writes":
            self.transport.write(b"child's")
        elif self.child == "aborts":
            self.transport.abort()
        else:
            assert self.child == "goes on"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.fork("connection_made")

    def data_received(self, data: bytes) -> None:
        self.fork("data_received")
        if self.place == "pause_writing":
            self.transport.write(MUCH)
        self.transport.write(b"first, ")
        self.fork("between two writes")
        self.transport.write(b"second")
        self.transport.close()

    def pause_writing(self) -> None:
        self.fork("pause_writing")

    def resume_writing(self) -> None:
        pass


@pytest.mark.parametrize("child", ["closes the loop", "exits", "goes on", "sends close_notify", "writes", "aborts"])
@pytest.mark.parametrize("place", ["connection_made", "data_received", "between two writes", "pause_writing"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_the_peer_receives_only_what_the_parent_sends(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, side: str, place: str, child: str
) -> None:
    parent = os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    peer = Peer(there, client_context if side == "server" else server_context, side == "client")
    peer.start()
    loop = corenet.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    reports: list[Any] = []

    async def main() -> None:
        protocol = Forking(place, child)
        # Entered before the fork: in the child no loop counts as running.
        async with asyncio.timeout(2 * CHILD_SECONDS):
            if side == "server":
                await loop.connect_accepted_socket(lambda: protocol, here, ssl=server_context)
            else:
                await loop.create_connection(
                    lambda: protocol, sock=here, ssl=client_context, server_hostname="localhost"
                )
            error = await protocol.lost
        if os.getpid() == parent:
            assert error is None
        else:
            assert isinstance(error, ConnectionAbortedError) or child in ("sends close_notify", "aborts"), error

    code = 1
    try:
        loop.run_until_complete(main())
        assert reports == []
        code = 0
    except BaseException as error:  # noqa: BLE001 - a child of a test must never continue as a second test run
        if os.getpid() != parent and (
            isinstance(error, SystemExit) or (isinstance(error, RuntimeError) and loop.is_closed())
        ):
            code = 0
        else:
            traceback.print_exc()
    finally:
        if os.getpid() != parent:
            os._exit(code)
    loop.close()
    peer.join(30)
    assert code == 0
    assert not peer.is_alive() and peer.failure is None, peer.failure
    expected = (MUCH if place == "pause_writing" else b"") + b"first, second"
    assert len(peer.received) == len(expected) and peer.received == expected
