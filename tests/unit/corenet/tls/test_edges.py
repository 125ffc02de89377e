"""Edge cases of TLS connections where event loops differ: data just before the end, start_tls, error reporting."""

import asyncio
import ctypes
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Leaf
from support.tls_pair import client_context, finish, leaf, ours, server_context, tls_pair
from support.twin import Recorder, accepting

from corenet.tls.engines import make_tls_engine

__all__ = ["client_context", "leaf", "ours", "server_context"]

Run = Callable[[Any], Any]

SIZE = 300_000


@pytest.mark.parametrize("server_ends", [False, True])
def test_data_written_just_before_close_is_read_after_a_pause(
    server_ends: bool, ours: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A paused reader gets everything that the peer wrote in the callback in which it closed."""

    async def main() -> None:
        here, there, server = await tls_pair(server_context, client_context)
        writer, reader = (here, there) if server_ends else (there, here)
        reader.transport.pause_reading()
        writer.transport.write(b"x" * SIZE)
        writer.transport.write(b"last")
        writer.transport.close()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reader.data
        reader.transport.resume_reading()
        assert await reader.lost is None
        assert bytes(reader.data) == b"x" * SIZE + b"last"
        await finish(server, here, there)

    ours(main())


def test_both_write_and_close_at_once(
    ours: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The last data of one side is no error for the other."""

    async def main() -> None:
        here, there, server = await tls_pair(server_context, client_context)
        for side in (here, there):
            side.transport.write(b"last words")
            side.transport.close()
        assert await here.lost is None
        assert await there.lost is None
        await finish(server, here, there)

    ours(main())


class Filling(asyncio.BufferedProtocol):
    """A BufferedProtocol that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.buffer = bytearray(7)
        self.enough = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        if len(self.data) == 11 and not self.enough.done():
            self.enough.set_result(None)


def test_upgrade_to_a_buffered_protocol_delivers_data_received_with_the_handshake(
    ours: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The client's last flight and its first data arrive together, and no later event wakes the reader."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))

        def client() -> None:
            engine = make_tls_engine(client_context, False, "localhost")
            with socket.create_connection(listener.getsockname()) as sock:
                engine.handshake()
                sock.sendall(engine.drain())
                while True:
                    engine.feed(sock.recv(65536))
                    if engine.handshake():
                        break
                engine.write(b"hello there")
                sock.sendall(engine.drain())
                while sock.recv(65536):
                    pass

        talking = threading.Thread(target=client)
        talking.start()
        listener.setblocking(False)
        accepted, _ = await loop.sock_accept(listener)
        plain, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        protocol = Filling()
        tls = await loop.start_tls(plain, protocol, server_context, server_side=True)
        await protocol.enough
        assert protocol.data == b"hello there"
        tls.abort()
        await loop.run_in_executor(None, talking.join)
        listener.close()

    ours(main())


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "HANDSHAKE_FAILURE"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "PROTOCOL_VERSION"),
    ],
)
def test_a_failed_handshake_names_its_cause(
    said: bytes, cause: str, ours: Run, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Odd(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(said)
                self.transport.close()

        server = await loop.create_server(Odd, "127.0.0.1", 0)
        with pytest.raises(ssl.SSLError, match=cause):
            await loop.create_connection(
                Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
        await finish(server)

    ours(main())


def test_shutdown_timeout_ends_the_connection_and_reports_nothing(
    ours: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The peer never sends close_notify: the protocol gets the error, and the exception handler is not called (in
    `ours` it fails the test)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        engine = make_tls_engine(server_context, True)
        listener.setblocking(False)

        async def serve() -> socket.socket:
            sock, _ = await loop.sock_accept(listener)
            while not engine.established:
                engine.feed(await loop.sock_recv(sock, 65536))
                engine.handshake()
                await loop.sock_sendall(sock, engine.drain())
            return sock

        serving = loop.create_task(serve())
        _, here = await loop.create_connection(
            Recorder,
            *listener.getsockname(),
            ssl=client_context,
            server_hostname="localhost",
            ssl_shutdown_timeout=0.01,
        )
        sock = await serving
        here.transport.close()
        error = await here.lost
        assert isinstance(error, TimeoutError)
        sock.close()
        listener.close()

    ours(main())


def test_a_peer_that_requests_key_updates_and_reads_nothing_is_disconnected(
    ours: Run, server_context: ssl.SSLContext, leaf: tuple[Leaf, Path]
) -> None:
    """Key updates with data between them: the bytes of unsent answers are bounded."""
    library = ctypes.CDLL(ssl._ssl.__file__)  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        factory, accepted = accepting()
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context)
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        engine = make_tls_engine(ssl.create_default_context(cafile=str(leaf[1])), False, "localhost")
        while not engine.handshake():
            await loop.sock_sendall(sock, engine.drain())
            engine.feed(await loop.sock_recv(sock, 65536))
        await loop.sock_sendall(sock, engine.drain())
        here = await accepted
        core = engine.ssl_object._sslobj  # type: ignore[attr-defined]
        connection = ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))

        async def flood() -> None:
            for _ in range(2000):
                for _ in range(50):
                    library.SSL_key_update(connection, 1)
                    library.SSL_do_handshake(connection)
                    engine.write(b"x")
                await loop.sock_sendall(sock, engine.drain())

        with pytest.raises(ConnectionError):
            await flood()
        error = await here.lost
        assert isinstance(error, ssl.SSLError)
        assert "does not read our TLS responses" in str(error)
        sock.close()
        await finish(server)

    ours(main())


def test_ordinary_ends_do_not_call_the_exception_handler(
    ours: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Close, abort, a reset and an end without close_notify: `ours` fails when the exception handler is called."""
    ends: list[Callable[[Any], None]] = [
        lambda transport: transport.close(),
        lambda transport: transport.abort(),
        lambda transport: transport.get_extra_info("socket").shutdown(socket.SHUT_WR),
    ]

    async def main() -> None:
        for end in ends:
            here, there, server = await tls_pair(server_context, client_context)
            end(there.transport)
            await here.lost
            await finish(server, here, there)

    ours(main())
