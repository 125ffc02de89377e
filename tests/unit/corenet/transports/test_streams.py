"""Native streams in cases that CPython's tests do not cover: awaitables, tuples of separators, limits, TLS.

tests/conformance/asyncio/test_streams.py tests the general semantics. Each body runs on the standard loop and on ours,
with our streams on both.
"""

import asyncio
import contextlib
import inspect
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from support.bare_tls import tcp_pair
from support.certs import Authority
from support.tls_pair import ours
from support.twin import loop_factory, since, twin
from support.waiting import turns

import corenet

__all__ = ["loop_factory", "ours", "twin"]

Twin = Callable[[Any], Any]


def reader_with(data: bytes = b"", limit: int = 65536, eof: bool = False) -> corenet.StreamReader:
    """A reader that holds `data`."""
    reader = corenet.StreamReader(limit, asyncio.get_running_loop())
    reader.feed_data(data)
    if eof:
        reader.feed_eof()
    return reader


async def echo(reader: Any, writer: Any) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def connected(handler: Any, **options: Any) -> tuple[Any, Any, Any]:
    """A server, and a client's reader and writer."""
    server = await corenet.start_server(handler, "127.0.0.1", 0)
    reader, writer = await corenet.open_connection(*server.sockets[0].getsockname(), **options)
    return server, reader, writer


async def finish(server: Any, writer: Any) -> None:
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_native_streams_are_asyncio_streams(twin: Twin) -> None:
    async def main() -> None:
        server, reader, writer = await connected(echo)
        assert isinstance(reader, asyncio.StreamReader) and isinstance(writer, asyncio.StreamWriter)
        assert isinstance(writer.transport.get_protocol(), asyncio.StreamReaderProtocol)
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        assert writer.can_write_eof() and not writer.is_closing()
        await finish(server, writer)

    twin(main())


def test_a_read_can_be_awaited_by_tasks_and_timeouts(twin: Twin) -> None:
    async def main() -> None:
        reader = reader_with(b"one\ntwo\n12345")
        read = reader.readline()
        assert inspect.isawaitable(read) and asyncio.iscoroutine(read)
        assert await read == b"one\n"
        with pytest.raises(RuntimeError, match="already awaited"):
            await read
        task = asyncio.create_task(reader.readuntil(b"\n"))
        assert "StreamReader.readuntil" in repr(task)
        assert await asyncio.wait_for(task, 30) == b"two\n"
        assert await asyncio.gather(reader.readexactly(2), reader.read(2)) == [b"12", b"34"]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.readexactly(2), 0.001)
        reader.feed_data(b"6")
        assert await reader.readexactly(2) == b"56"

    twin(main())


def test_a_cancelled_read_takes_nothing(twin: Twin) -> None:
    async def main() -> None:
        reader = reader_with()
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
            await reader.read(1)
        reader.feed_data(b"data")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.read(10) == b"data"

    twin(main())


def test_an_error_reaches_present_and_later_readers(twin: Twin) -> None:
    async def main() -> None:
        reader = reader_with()
        task = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        reader.set_exception(ZeroDivisionError())
        for read in (task, reader.read(1), reader.readexactly(1), reader.read()):
            with pytest.raises(ZeroDivisionError):
                await read

    twin(main())


@pytest.mark.parametrize(
    ("separators", "found"),
    [((b"\r\n", b"\n"), b"a\r\n"), ((b"-", b"\n"), b"a\r\n"), ((b"b", b"\nb"), b"a\r\nb"), ((b"xyz", b"a"), b"a")],
)
def test_the_earliest_separator_ends_the_read(twin: Twin, separators: tuple[bytes, ...], found: bytes) -> None:
    async def main() -> None:
        reader = reader_with()
        task = asyncio.ensure_future(reader.readuntil(separators))
        for byte in b"a\r\nb-c":
            await asyncio.sleep(0)
            reader.feed_data(bytes([byte]))
        assert await task == found

    twin(main())


def test_wrong_separators_are_refused(twin: Twin) -> None:
    async def main() -> None:
        reader = reader_with(b"data")
        for separator in (b"", (), (b"a", b"")):
            with pytest.raises(ValueError, match="Separator should"):
                await reader.readuntil(separator)
        for other in ("text", 5, ("text",)):
            with pytest.raises(TypeError):
                await reader.readuntil(other)
        with pytest.raises(ValueError, match="less than zero"):
            await reader.readexactly(-1)

    twin(main())


def test_pieces_are_joined_whatever_is_read_in_between(twin: Twin) -> None:
    async def main() -> None:
        whole = bytes(range(256)) * 40
        for step, taken in ((7, 3), (100, 99), (3, 50), (1000, 1)):
            reader = reader_with(limit=1 << 20)
            got = b""
            for at in range(0, len(whole), step):
                reader.feed_data(whole[at : at + step])
                got += await reader.read(taken)
            reader.feed_eof()
            assert bytes(reader._buffer) == whole[len(got) :]
            assert got + await reader.read() == whole
            assert reader.at_eof()

    twin(main())


def test_a_slow_reader_causes_back_pressure(twin: Twin) -> None:
    total = 8 << 20

    async def flood(reader: Any, writer: Any) -> None:
        for _ in range(total >> 16):
            writer.write(bytes(65536))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server, reader, writer = await connected(flood, limit=1000)
        while writer.transport.is_reading():
            await asyncio.sleep(0)
        assert 2000 < len(reader._buffer) < total
        assert len(await reader.readexactly(total - 5)) == total - 5
        assert await reader.read() == bytes(5)
        await finish(server, writer)

    twin(main())


def test_a_line_over_the_limit_is_an_error(twin: Twin) -> None:
    async def main() -> None:
        reader = reader_with(b"x" * 11 + b"\nnext\n", limit=10)
        with pytest.raises(asyncio.LimitOverrunError) as caught:
            await reader.readuntil(b"\n")
        assert caught.value.consumed == 11
        with pytest.raises(ValueError, match="longer than limit"):
            await reader.readline()
        assert await reader.readline() == b"next\n"

    twin(main())


def test_drain_waits_and_raises_after_the_loss(twin: Twin) -> None:
    async def silent(reader: Any, writer: Any) -> None:
        writer.transport.pause_reading()
        await asked.wait()
        writer.transport.abort()

    asked = asyncio.Event()

    async def main() -> None:
        server, _, writer = await connected(silent)
        writer.write(bytes(32 << 20))
        drain = asyncio.ensure_future(writer.drain())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not drain.done()
        asked.set()
        with pytest.raises(ConnectionError):
            await drain

        async def write_on() -> None:
            while True:
                writer.write(b"x")
                await writer.drain()

        with pytest.raises(ConnectionError):
            await write_on()
        writer.close()
        server.close()
        await server.wait_closed()

    twin(main())


@pytest.mark.parametrize("plain", [False, True])
def test_a_handler_that_fails_is_reported_and_closed(loop_factory: Any, plain: bool) -> None:
    """A coroutine or a plain function, which left the connection open for ever in asyncio before Python 3.14."""
    told: list[Any] = []

    def fails_at_once(reader: Any, writer: Any) -> None:
        raise ZeroDivisionError

    async def fails(reader: Any, writer: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        server, reader, writer = await connected(fails_at_once if plain else fails)
        assert await reader.read() == b""
        await finish(server, writer)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]


def test_an_unclosed_writer_is_warned_about(loop_factory: Any) -> None:
    async def main() -> None:
        server, reader, writer = await connected(echo)
        transport = writer.transport
        with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
            del writer
        assert transport.is_closing()
        await reader.read()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_start_tls(twin: Twin, tmp_path: Any) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)

    async def serve(reader: Any, writer: Any) -> None:
        assert await reader.readline() == b"start\n"
        writer.write(b"go\n")
        await writer.start_tls(context)
        await echo(reader, writer)

    async def main() -> None:
        server, reader, writer = await connected(serve)
        writer.write(b"start\n")
        assert await reader.readline() == b"go\n"
        trusting = ssl.create_default_context(cafile=str(authority.cafile))
        await writer.start_tls(trusting, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object") is not None
        writer.write(b"secret" * 20000)
        assert await reader.readexactly(120000) == b"secret" * 20000
        await finish(server, writer)

    twin(main())


def test_over_unix_sockets(twin: Twin, tmp_path: Any) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        server = await corenet.start_unix_server(echo, path)
        reader, writer = await corenet.open_unix_connection(path)
        writer.writelines([b"by", b"tes"])
        writer.write_eof()
        assert [line async for line in reader] == [b"bytes"]
        await finish(server, writer)

    twin(main())


async def upgraded(open_connection: Any, start_server: Any, authority: Authority) -> list[bytes]:
    """What server and client read after the server began TLS with the client's hello in its reader already."""
    leaf = authority.leaf("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)
    trusting = ssl.create_default_context(cafile=str(authority.cafile))
    served: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(reader: Any, writer: Any) -> None:
        while not reader._buffer:
            await asyncio.sleep(0)
        await writer.start_tls(context)
        served.set_result(await reader.readline())
        writer.write(b"pong\n")
        writer.close()

    server = await start_server(handler, "127.0.0.1", 0)
    reader, writer = await open_connection(*server.sockets[0].getsockname())
    await writer.start_tls(trusting, server_hostname="localhost")
    if isinstance(reader, corenet.StreamReader):
        assert reader._transport is writer.transport
    writer.write(b"ping\n")
    got = [await served, await reader.readline()]
    await finish(server, writer)
    return got


@since(3, 14, 10)
def test_an_early_client_hello_is_passed_to_the_handshake(twin: Twin, tmp_path: Any) -> None:
    assert twin(upgraded(corenet.open_connection, corenet.start_server, Authority(tmp_path))) == [b"ping\n", b"pong\n"]


@since(3, 14, 10)
def test_an_early_client_hello_works_with_asyncio_streams_too(twin: Twin, tmp_path: Any) -> None:
    assert twin(upgraded(asyncio.open_connection, asyncio.start_server, Authority(tmp_path))) == [b"ping\n", b"pong\n"]


def test_plaintext_received_before_tls_is_never_read_as_decrypted_data(ours: Twin, tmp_path: Any) -> None:
    """Plaintext that an attacker injects after the answer to STARTTLS (CVE-2011-0411) makes the handshake fail."""
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=str(authority.cafile))

    ended = asyncio.Event()

    async def handler(reader: Any, writer: Any) -> None:
        writer.write(b"220 go ahead\r\n250 injected\r\n")
        await reader.read()
        writer.close()
        ended.set()

    async def main() -> None:
        server, reader, writer = await connected(handler)
        assert await reader.readline() == b"220 go ahead\r\n"
        with pytest.raises(ssl.SSLError):
            await writer.start_tls(trusting, server_hostname="localhost")
        with pytest.raises(ssl.SSLError):
            await reader.read()
        writer.close()
        await ended.wait()
        server.close()

    ours(main())


# Our client reader passes its buffered plaintext to the handshake, which fails.
@pytest.mark.parametrize(("module", "server_side"), [(asyncio, True), (asyncio, False), (corenet, True)])
def test_after_start_tls_a_reader_that_had_paused_pauses_again(
    ours: Twin, tmp_path: Any, module: Any, server_side: bool
) -> None:
    """Data before TLS had paused it; unread data that its peer sends over TLS is bounded as before."""
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)
    trusting = ssl.create_default_context(cafile=str(authority.cafile))
    # A hello of more than twice the limit of the reader.
    trusting.set_alpn_protocols([f"{number:0200d}" for number in range(40)])
    limit = 1000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        reader, writer = await module.open_connection(sock=here, limit=limit)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = (trusting if server_side else context).wrap_bio(
            incoming, outgoing, server_side=not server_side, server_hostname="localhost" if server_side else None
        )
        if server_side:
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            there.send(outgoing.read())
        else:
            # A line that the program reads, and what keeps the reader paused: asyncio's keeps that for later.
            there.send(b"x" * (2 * limit + 1) + b"\n")
        while not reader._paused:
            await asyncio.sleep(0)
        upgrading = asyncio.ensure_future(
            loop.start_tls(
                writer.transport, writer.transport.get_protocol(), context if server_side else trusting,
                server_side=server_side, server_hostname=None if server_side else "localhost",
            )
        )
        done = False
        while not done:
            try:
                peer.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            await loop.sock_sendall(there, outgoing.read())
            if not done:
                incoming.write(await loop.sock_recv(there, 65536))
        transport = await upgrading
        before = len(reader._buffer)
        sent = 0
        peer_says = bytes(16_000)
        while sent < 20_000_000:
            peer.write(peer_says)
            wire = memoryview(outgoing.read())
            refused = 0
            while wire and refused < 200:
                try:
                    wire = wire[there.send(wire) :]
                    refused = 0
                except BlockingIOError:
                    refused += 1
                    await asyncio.sleep(0)
            if wire:
                break
            sent += len(peer_says)
        assert sent < 20_000_000, "the peer could send as much as it liked"
        assert len(reader._buffer) - before < 1_000_000
        transport.abort()
        there.close()
        await turns()

    ours(main())


def test_clearing_the_buffer_of_a_paused_reader_resumes_reading(twin: Twin) -> None:
    async def main() -> None:
        here, there = tcp_pair()
        reader, writer = await corenet.open_connection(sock=here, limit=10)
        there.send(b"x" * 21)
        while not reader._paused:
            await asyncio.sleep(0)
        reader._buffer.clear()
        there.send(b"more")
        async with asyncio.timeout(30):
            assert await reader.readexactly(4) == b"more"
        there.close()
        writer.close()
        await writer.wait_closed()

    twin(main())


def test_an_error_after_data_ends_the_waiting_read(twin: Twin) -> None:
    """It came in the iteration in which the data had woken the read."""

    async def main() -> None:
        for kind, *arguments in (("readexactly", 100), ("readline",), ("readuntil", b"end")):
            reader = reader_with()
            task = asyncio.ensure_future(getattr(reader, kind)(*arguments))
            await asyncio.sleep(0)
            reader.feed_data(b"some")
            reader.set_exception(ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                async with asyncio.timeout(30):
                    await task

    twin(main())
