"""TLS transports. Tests of behaviour that asyncio documents, too, run on both loops."""

import asyncio
import gc
import math
import shutil
import socket
import ssl
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Leaf
from support.ports import free_port
from support.tls_pair import client_context, finish, leaf, ours, server_context, tls_pair
from support.twin import Recorder, connected_pair, loop_factory, twin
from support.watermarks import check_watermarks

from corenet.limits import POLL_SKIP_ITERATIONS, TLS_SHUTDOWN_TIMEOUT, WRITE_HIGH_WATERMARK
from corenet.tls.engines import make_tls_engine

__all__ = ["client_context", "leaf", "loop_factory", "ours", "server_context", "twin"]

Twin = Callable[[Any], Any]


# --- shape --------------------------------------------------------------------------------------------------------


def test_a_tls_transport_has_the_interface_of_asyncio(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        transport = here.transport
        assert isinstance(transport, asyncio.Transport)
        assert "ssl" in transport.__class__.__name__.lower()
        assert transport.get_protocol() is here
        assert transport.get_extra_info("sslcontext") is client_context
        assert dict(transport.get_extra_info("peercert")["subject"][0])["commonName"] == "localhost"
        assert transport.get_extra_info("cipher")[1] == "TLSv1.3"
        assert transport.get_extra_info("compression") is None
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("socket").family == socket.AF_INET
        assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
        assert transport.get_extra_info("sockname") == there.transport.get_extra_info("peername")
        assert transport.get_extra_info("nothing of the kind", "default") == "default"
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        with pytest.raises(TypeError):
            transport.write("text")
        assert transport.get_write_buffer_limits() == (131_072, 524_288)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError, match="high"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.is_reading()
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
        await finish(server, here, there)
        assert here.events == ["made", "eof", "lost"]
        assert there.events == ["made", "eof", "lost"]
        assert here.lost.result() is None

    twin(main())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_a_timeout_that_is_not_a_number_is_refused(
    ours: Callable[[Any], Any], client_context: ssl.SSLContext, name: str
) -> None:
    async def main() -> None:
        ours_end, theirs, server = await connected_pair()
        options: dict[str, Any] = {name: math.nan}
        with pytest.raises(ValueError, match=name):
            await asyncio.get_running_loop().start_tls(theirs.transport, theirs, client_context, **options)
        await finish(server, ours_end, theirs)

    ours(main())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_timeouts_must_be_positive(twin: Twin, client_context: ssl.SSLContext, name: str) -> None:
    async def main() -> None:
        ours_end, theirs, server = await connected_pair()
        options: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=name):
            await asyncio.get_running_loop().start_tls(theirs.transport, theirs, client_context, **options)
        await finish(server, ours_end, theirs)

    twin(main())


# --- data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 16_384, 16_385, 100_000, 3_000_000])
def test_data_is_sent_in_both_directions(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, size: int
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        data = bytes(range(256)) * (size // 256 + 1)
        here.transport.write(data[:size])
        there.transport.write(memoryview(data)[:size])
        await there.until(lambda: len(there.data) == size)
        await here.until(lambda: len(here.data) == size)
        assert here.data == there.data == data[:size]
        await finish(server, here, there)

    twin(main())


@pytest.mark.parametrize("over", ["stream", "tls"])
def test_data_that_the_kernel_has_not_accepted_counts_as_unsent(
    ours: Callable[[Any], Any], server_context: ssl.SSLContext, client_context: ssl.SSLContext, over: str
) -> None:
    """Even a small amount: the transport below holds it, below its high watermark."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        there, here, server = await tls_pair(server_context, client_context)
        below = here.transport
        if over == "tls":
            # TLS in TLS: the transport below is a TLS transport as well.
            inner_there, inner_here = Recorder(), Recorder()
            there.transport, here.transport = await asyncio.gather(
                loop.start_tls(there.transport, inner_there, server_context, server_side=True),
                loop.start_tls(here.transport, inner_here, client_context, server_hostname="localhost"),
            )
        there.transport.pause_reading()
        transport = here.transport
        for _ in range(100_000):
            transport.write(bytes(500))
            if below.get_write_buffer_size():
                break
        # One or more records, before the stream's high watermark is reached.
        most = WRITE_HIGH_WATERMARK
        assert 0 < below.get_write_buffer_size() <= transport.get_write_buffer_size() < most
        transport.abort()
        there.transport.abort()
        server.close()
        await server.wait_closed()

    ours(main())


def test_mutable_data_may_change_after_write(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        buffer = bytearray(b"one")
        here.transport.write(buffer)
        buffer[:] = b"two"
        here.transport.writelines([buffer, b"", memoryview(b"three")])
        buffer[:] = b"xxx"
        here.transport.write(b"")
        await there.until(lambda: len(there.data) == 11)
        assert there.data == b"onetwothree"
        await finish(server, here, there)

    twin(main())


class IntoBuffer(asyncio.BufferedProtocol):
    """Receives into its own small buffer."""

    def __init__(self, size: int = 1000) -> None:
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.eof = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.set_result(error)


def test_a_buffered_protocol_receives_all_data(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context, IntoBuffer)
        there.transport.write(b"abc" * 30_000)
        there.transport.close()
        await here.lost
        assert here.data == b"abc" * 30_000
        assert here.eof
        await finish(server, there)

    twin(main())


def test_the_protocol_may_be_changed_in_its_callback(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        second = Recorder()

        def data_received(data: bytes) -> None:
            here.data += data
            second.transport = here.transport
            here.transport.set_protocol(second)

        here.data_received = data_received
        there.transport.write(b"first")
        await asyncio.wait_for(asyncio.ensure_future(poll(lambda: here.data == b"first")), 30)
        there.transport.write(b"second")
        await second.until(lambda: second.data == b"second")
        second.transport.close()
        await second.lost
        await finish(server, there)

    twin(main())


async def poll(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


# --- flow control -------------------------------------------------------------------------------------------------


def test_paused_reading_delivers_nothing(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        here.transport.pause_reading()
        assert not here.transport.is_reading()
        size = 0
        while "pause" not in there.events:
            there.transport.write(bytes(100_000))
            size += 100_000
            assert size < 50_000_000
            await asyncio.sleep(0)
        assert here.data == b""
        here.transport.resume_reading()
        await here.until(lambda: len(here.data) == size)
        await there.until(lambda: "resume" in there.events)
        assert there.transport.get_write_buffer_size() == 0
        await finish(server, here, there)

    twin(main())


def test_write_watermarks_count_the_transport_below(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Ciphertext in the transport below counts as well: a record of 16 KiB is about 22 bytes longer than its
    content."""

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        here.transport.pause_reading()
        total = await check_watermarks(there, here.transport.resume_reading, over=100_000)
        await here.until(lambda: len(here.data) == total)
        await finish(server, here, there)

    ours(main())


def test_received_before_the_end_is_read_after_resume(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        here.transport.pause_reading()
        there.transport.write(b"last words")
        there.transport.close()
        await poll(lambda: here.transport.get_read_buffer_size() > 40)
        assert here.data == b""
        here.transport.resume_reading()
        await here.lost
        assert here.data == b"last words"
        assert here.events == ["made", "data", "eof", "lost"]
        await finish(server, there)

    twin(main())


def test_the_end_does_not_overtake_data_after_resume_reading(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Reading continues one iteration after `resume_reading`; the stream's end then must not overtake the data.

    The loop decides when it polls while callbacks are ready, so each number of iterations is tried.
    """

    async def attempt(turns: int) -> None:
        there, here, server = await tls_pair(server_context, client_context)
        there.transport.write(b"first, ")
        await here.until(lambda: here.data == b"first, ")
        here.transport.pause_reading()
        there.transport.write(b"last words")
        await poll(lambda: here.transport.get_read_buffer_size() > 0)
        there.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        for _ in range(turns):
            await asyncio.sleep(0)
        here.transport.resume_reading()
        assert await here.lost is None
        assert here.data == b"first, last words", turns
        await finish(server, there)

    async def main() -> None:
        for turns in range(POLL_SKIP_ITERATIONS + 2):
            await attempt(turns)

    twin(main())


def test_small_writes_in_one_iteration_are_sent_together(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        for number in range(2000):
            here.transport.write(b"%06d" % number)
        await there.until(lambda: len(there.data) == 12_000)
        assert there.data == b"".join(b"%06d" % number for number in range(2000))
        await finish(server, here, there)

    twin(main())


def test_small_writes_of_a_task_are_sent_as_one_piece(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        # Unread session tickets would turn the end into a reset.
        there.transport.write(b"hello")
        await here.until(lambda: here.data == b"hello")
        sock = there.transport.get_extra_info("socket")

        def arrived() -> int:
            with socket.fromfd(sock.fileno(), sock.family, sock.type) as same:
                try:
                    return len(same.recv(65536, socket.MSG_PEEK))
                except BlockingIOError:
                    return 0

        before = arrived()
        here.transport.write(b"alone")
        assert arrived() > before
        here.transport.write(b" but not for long, ")
        await there.until(lambda: there.data == b"alone but not for long, ")
        before = arrived()
        for _ in range(5):
            here.transport.write(b"small")
            assert arrived() == before
        await asyncio.sleep(0)
        sent = arrived() - before
        assert sent > 25
        here.transport.write(b"asked")
        assert here.transport.get_write_buffer_size() == 0
        assert arrived() - before > sent
        await asyncio.sleep(0)
        here.transport.write(b"last")
        here.transport.abort()
        await there.lost
        assert there.data == b"alone but not for long, " + b"small" * 5 + b"askedlast"
        await finish(server)

    ours(main())


# --- the end ------------------------------------------------------------------------------------------------------


def test_close_sends_everything_first(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        here.transport.write(b"x" * 5_000_000)
        here.transport.close()
        here.transport.write(b"too late")
        assert await here.lost is None
        await there.lost
        assert len(there.data) == 5_000_000
        assert there.events[-2:] == ["eof", "lost"]
        await finish(server, there)

    twin(main())


def test_written_data_is_sent_after_close_notify_of_a_peer_that_still_reads(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Data written before the peer's close_notify arrived is still sent, however much it is."""
    size = 3_000_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> int:
            sock, _ = listener.accept()
            engine = make_tls_engine(server_context, True)
            with sock:
                # Byte by byte, so that no data has arrived when close_notify is sent.
                while not engine.handshake():
                    sock.sendall(engine.drain())
                    engine.feed(sock.recv(1))
                engine.shutdown()
                sock.sendall(engine.drain())
                count = 0
                while (piece := engine.read()) != b"":
                    if piece is None:
                        data = sock.recv(65536)
                        if not data:
                            break
                        engine.feed(data)
                    else:
                        count += len(piece)
            return count

        class Writing(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.write(bytes(size))

        counted = loop.run_in_executor(None, serve)
        _, here = await loop.create_connection(
            Writing, *listener.getsockname(), ssl=client_context, server_hostname="localhost"
        )
        assert await here.lost is None
        assert await counted == size
        listener.close()

    twin(main())


def test_calls_after_the_end(ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    """Calls that raise AttributeError in asyncio do nothing here."""

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        peer = here.transport.get_extra_info("peername")
        here.transport.close()
        here.transport.close()
        here.transport.write(b"too late")
        await here.lost
        here.transport.close()
        here.transport.abort()
        here.transport.pause_reading()
        here.transport.resume_reading()
        assert here.transport.get_extra_info("peername") == peer
        assert here.transport.get_write_buffer_size() == 0
        assert here.transport.get_protocol() is None
        await finish(server, there)
        assert there.data == b""

    ours(main())


def test_abort(twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        here.transport.write(b"x" * 5_000_000)
        here.transport.abort()
        assert here.transport.is_closing()
        assert await here.lost is None
        assert here.events == ["made", "lost"] or here.events == ["made", "pause", "lost"]
        await there.lost
        assert there.events.count("lost") == 1
        await finish(server, there)

    twin(main())


@pytest.mark.parametrize("end", ["abort", "raise"])
def test_data_written_in_a_callback_that_ends_the_connection_is_sent(
    loop_factory: Any, server_context: ssl.SSLContext, client_context: ssl.SSLContext, end: str
) -> None:
    class Ending(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"last words")
            assert self.transport.get_write_buffer_size() == 0
            if end == "raise":
                raise ZeroDivisionError("on purpose")
            self.transport.abort()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        there, here, server = await tls_pair(server_context, client_context, Ending)
        there.transport.write(b"data")
        await here.lost
        await there.lost
        assert bytes(there.data) == b"last words"
        await finish(server, here, there)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_ciphertext_may_come_in_any_buffer(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A foreign transport may deliver bytearrays and memoryviews."""

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        for kind in (bytearray, memoryview):
            here.transport.data_received(kind(b""))
        there.transport.write(b"data")
        await here.until(lambda: here.data == b"data")
        await finish(server, here, there)

    ours(main())


def test_end_without_close_notify(twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        there.transport.write(b"data")
        await here.until(lambda: here.data == b"data")
        there.transport.abort()
        await here.lost
        assert here.events[-2:] in (["eof", "lost"], ["data", "lost"])
        await finish(server, there)

    twin(main())


def test_exception_in_data_received(
    loop_factory: Any, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts: list[dict[str, Any]] = []

    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("on purpose")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: contexts.append(context))
        there, here, server = await tls_pair(server_context, client_context, Failing)
        there.transport.write(b"data")
        assert isinstance(await here.lost, ZeroDivisionError)
        await there.lost
        await finish(server, here, there)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))
    assert [context["message"] for context in contexts] == ["Fatal error on SSL protocol"]
    assert isinstance(contexts[0]["exception"], ZeroDivisionError)
    assert {"transport", "protocol"} <= contexts[0].keys()


def test_close_of_a_flooded_transport_is_quick_and_quiet(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The peer sends for ever: after close nothing is delivered, and the connection ends long before the timeout."""

    class Flooding(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.resume_writing()

        def pause_writing(self) -> None:
            self.full = True

        def resume_writing(self) -> None:
            self.full = False
            while not self.full and not self.transport.is_closing():
                self.transport.write(bytes(100_000))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Flooding, "127.0.0.1", 0, ssl=server_context)
        _, here = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        await here.until(lambda: len(here.data) > 1_000_000)
        here.transport.close()
        size = len(here.data)
        async with asyncio.timeout(TLS_SHUTDOWN_TIMEOUT / 2):
            assert await here.lost is None
        assert len(here.data) == size
        server.close()
        await server.wait_closed()

    ours(main())


def test_a_silent_peer_is_disconnected_after_the_shutdown_timeout(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context, ssl_shutdown_timeout=0.05)
        there.transport.get_extra_info("socket")
        there.transport._ssl_protocol._transport.pause_reading()
        here.transport.close()
        assert isinstance(await here.lost, TimeoutError)
        there.transport.abort()
        await finish(server, here, there)

    twin(main())


# --- other implementations and memory -----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_client(twin: Twin, server_context: ssl.SSLContext, leaf: tuple[Leaf, Path], version: str) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(100_000))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-quiet", version, "-connect", f"127.0.0.1:{port}", "-verify_return_error",
            "-CAfile", str(leaf[1]), "-servername", "localhost",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"0123456789" * 10_000)
        assert await process.stdout.read() == b"0123456789" * 10_000
        process.stdin.close()
        await process.wait()
        server.close()
        await server.wait_closed()

    twin(main())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_server(twin: Twin, client_context: ssl.SSLContext, leaf: tuple[Leaf, Path], version: str) -> None:
    port = free_port()

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_server", version, "-accept", f"127.0.0.1:{port}", "-cert", str(leaf[0].certificate),
            "-key", str(leaf[0].key), "-rev",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        while b"ACCEPT" not in await process.stdout.readline():
            pass
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        writer.write(b"live not on evil\n")
        assert await reader.readline() == b"live no ton evil\n"
        writer.close()
        await writer.wait_closed()
        process.terminate()
        await process.communicate()

    twin(main())


def test_no_cycle_outlives_a_connection(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Without the garbage collector: a connection is freed with its last reference."""

    async def main() -> list[weakref.ref[Any]]:
        there, here, server = await tls_pair(server_context, client_context)
        found = [weakref.ref(end.transport) for end in (there, here)]
        here.transport.close()
        await here.lost
        await there.lost
        there.transport = here.transport = None
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
        return found

    gc.collect()
    gc.disable()
    try:
        found = ours(main())
        assert [reference() for reference in found] == [None, None]
    finally:
        gc.enable()
