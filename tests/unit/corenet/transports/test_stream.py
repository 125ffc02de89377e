"""Stream transports compared with asyncio's: data, flow control, half-close, errors, attributes that libraries use."""

import asyncio
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, accepting, connected_pair, loop_factory, twin
from support.waiting import turns
from support.watermarks import check_watermarks, fill

import corenet
from corenet.limits import POLL_SKIP_ITERATIONS

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


async def finish(server: Any, *ends: Recorder) -> None:
    for end in ends:
        end.transport.close()
    for end in ends:
        await end.lost
    server.close()
    await server.wait_closed()


def test_data_in_both_directions_and_close(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        theirs.transport.write(b"hello")
        await ours.until(lambda: ours.data == b"hello")
        ours.transport.writelines([b"wo", bytearray(b"rl"), memoryview(b"d")])
        await theirs.until(lambda: theirs.data == b"world")
        ours.transport.close()
        assert await theirs.lost is None
        assert await ours.lost is None
        assert theirs.events[-2:] == ["eof", "lost"]
        await finish(server)

    twin(main())


def test_a_stream_transport_has_the_interface_of_asyncio(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        for end in (ours, theirs):
            transport = end.transport
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
            assert transport.get_extra_info("socket").gettimeout() == 0
            transport.note = "a dictionary of its own"
            assert transport.get_write_buffer_limits() == (16384, 65536)
            assert transport.can_write_eof()
            assert transport.is_reading()
            assert not transport.is_closing()
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("nothing", 5) == 5
            assert transport.get_protocol() is end
        assert ours.transport.get_extra_info("peername") == theirs.transport.get_extra_info("sockname")
        assert ours.transport.get_extra_info("sockname") == theirs.transport.get_extra_info("peername")
        await finish(server, ours, theirs)
        assert ours.transport.get_extra_info("peername") is not None

    twin(main())


class Caller(asyncio.Protocol):
    """Asks for `calls` callbacks with each piece of data, and notes the order of it all."""

    def __init__(self, name: str, calls: int, seen: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.seen = seen

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen.append(f"{self.name} received")
        for _ in range(self.calls):
            asyncio.get_running_loop().call_soon(self.seen.append, f"{self.name} called")


def order_of_a_batch(size: int, calls: int, one_turn: bool = False) -> list[str]:
    """What happens, in which order, when three connections have `size` bytes each in the same batch."""
    seen: list[str] = []
    pairs = [socket.socketpair() for _ in range(3)]
    loop = corenet.new_event_loop()
    callers = [Caller(name, calls, seen) for name in "abc"]

    async def begin() -> None:
        for caller, (ours, _theirs) in zip(callers, pairs, strict=True):
            await loop.create_unix_connection(lambda caller=caller: caller, sock=ours)

    async def wait() -> None:
        while len(seen) < 3 * (1 + calls):
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    for _ours, theirs in pairs:
        theirs.sendall(b"x" * size)
    if one_turn:
        loop.stop()
        loop.run_forever()
    else:
        loop.run_until_complete(wait())
    for caller, (_ours, theirs) in zip(callers, pairs, strict=True):
        caller.transport.abort()
        theirs.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return seen


RECEIVED = ["a received", "b received", "c received"]


def test_callbacks_woken_by_much_data_run_before_the_next_descriptor() -> None:
    assert order_of_a_batch(100_000, 1) == [f"{name} {what}" for name in "abc" for what in ("received", "called")]


def test_little_data_or_many_callbacks_leave_the_batch_whole() -> None:
    assert order_of_a_batch(1000, 1)[:3] == RECEIVED
    assert order_of_a_batch(100_000, 0) == RECEIVED
    assert order_of_a_batch(100_000, 9)[:3] == RECEIVED


def test_a_single_iteration_dispatches_the_whole_batch_with_much_data_too() -> None:
    assert order_of_a_batch(100_000, 1, one_turn=True)[:3] == RECEIVED


def test_a_paused_transport_receives_nothing(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        theirs.transport.pause_reading()
        assert not theirs.transport.is_reading()
        ours.transport.write(b"for later")
        descriptor = theirs.transport.get_extra_info("socket").fileno()
        async with asyncio.timeout(30):
            while not select.select([descriptor], [], [], 0)[0]:
                await asyncio.sleep(0)
        # More iterations than may skip the poll.
        for _ in range(10 * POLL_SKIP_ITERATIONS):
            await asyncio.sleep(0)
        assert theirs.data == b"" and select.select([descriptor], [], [], 0)[0]
        theirs.transport.resume_reading()
        assert theirs.transport.is_reading()
        await theirs.until(lambda: theirs.data == b"for later")
        await finish(server, ours, theirs)

    twin(main())


def test_large_transfer_pauses_and_resumes_the_writer(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        theirs.transport.pause_reading()
        total = 0
        while "pause" not in ours.events:
            ours.transport.write(b"x" * 262144)
            total += 262144
        assert ours.transport.get_write_buffer_size() > 65536
        theirs.transport.resume_reading()
        await ours.until(lambda: "resume" in ours.events)
        await theirs.until(lambda: len(theirs.data) == total)
        assert ours.transport.get_write_buffer_size() == 0
        assert ours.events.count("pause") == ours.events.count("resume") == 1
        await finish(server, ours, theirs)

    twin(main())


def test_order_of_many_small_and_large_writes(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        expected = bytearray()
        for number in range(2500):
            piece = bytes([number % 251]) * (number % 700 + (100_000 if number % 500 == 0 else 0))
            expected += piece
            ours.transport.write(piece)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await theirs.until(lambda: len(theirs.data) >= len(expected))
        assert theirs.data == expected
        await finish(server, ours, theirs)

    twin(main())


def test_queued_mutable_data_is_copied() -> None:
    """asyncio itself keeps a view from 3.12 on, so this is not a twin."""

    async def main() -> None:
        ours, theirs, server = await connected_pair()
        theirs.transport.pause_reading()
        while ours.transport.get_write_buffer_size() == 0:
            ours.transport.write(b"a" * 262144)
        data = bytearray(b"b" * 10)
        ours.transport.write(data)
        data[:] = b"c" * 10
        ours.transport.close()
        theirs.transport.resume_reading()
        await theirs.lost
        assert theirs.data.endswith(b"a" + b"b" * 10)
        await finish(server)

    corenet.run(main())


def test_writes_of_a_protocol_callback_are_sent_together() -> None:
    """64 writes in data_received are one segment for a peer that reads once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Many(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                for _ in range(64):
                    self.transport.write(b"0123456789")

        server = await loop.create_server(Many, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, b"go")
            assert len(await loop.sock_recv(sock, 65536)) == 640
        server.close()

    corenet.run(main())


def test_writes_of_a_loop_callback_are_sent_together() -> None:
    """A step of a task is one callback; what further callbacks of the same iteration write is sent at its end.

    It is so once a step wrote in pieces, as long as those after it do; a single piece leaves at once, as with asyncio.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory, accepted = accepting()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        seen = []
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            sock.setblocking(False)
            ours = await accepted
            write = ours.transport.write

            def received() -> bytes:
                try:
                    return sock.recv(65536)
                except BlockingIOError:
                    return b""

            def step(data: bytes) -> None:
                seen.append(received())
                write(data)
                ours.transport.writelines([data, data.upper()])
                seen.append(received())

            write(b"head, ")
            assert received() == b"head, "
            write(b"body")
            assert received() == b""
            await asyncio.sleep(0)
            assert received() == b"body"
            write(b"head, ")
            write(b"body")
            assert received() == b""
            await asyncio.sleep(0)
            assert received() == b"head, body"
            write(b"alone")
            assert received() == b""
            await asyncio.sleep(0)
            assert received() == b"alone"
            write(b"once")
            assert received() == b"once"
            write(b" more")
            await asyncio.sleep(0)
            assert received() == b" more"
            for data in (b"a", b"b", b"c"):
                loop.call_soon(step, data)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == [b"", b"", b"aaA", b"", b"bbB", b""]
            assert received() == b"ccC"
            await finish(server, ours)

    corenet.run(main())


def test_reading_the_buffer_size_and_abort_flush_held_writes(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        ours.transport.write(b"words")
        assert ours.transport.get_write_buffer_size() == 0
        await asyncio.sleep(0)
        ours.transport.write(b", last words")
        ours.transport.abort()
        await theirs.lost
        assert theirs.data == b"words, last words"
        await finish(server)

    twin(main())


def test_data_written_before_the_loop_stops_is_sent(loop_factory: Callable[[], Any]) -> None:
    loop = loop_factory()
    ours, theirs, server = loop.run_until_complete(connected_pair())
    sock = theirs.transport.get_extra_info("socket")

    def write_and_leave() -> None:
        ours.transport.write(b"good bye")
        raise SystemExit

    theirs.transport.pause_reading()
    loop.call_soon(write_and_leave)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert os.read(sock.fileno(), 100) == b"good bye"
    loop.run_until_complete(finish(server, ours, theirs))
    loop.close()


def test_half_close(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        theirs.keep_open = True
        ours.transport.write(b"question")
        ours.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            ours.transport.write(b"more")
        await theirs.until(lambda: "eof" in theirs.events)
        assert theirs.data == b"question"
        theirs.transport.write(b"answer")
        theirs.transport.close()
        assert await ours.lost is None
        assert ours.data == b"answer"
        await finish(server, theirs)

    twin(main())


def test_close_sends_queued_data_and_abort_drops_it(twin: Twin) -> None:
    async def main() -> None:
        for method, complete in (("close", True), ("abort", False)):
            ours, theirs, server = await connected_pair()
            theirs.transport.pause_reading()
            total = 0
            while ours.transport.get_write_buffer_size() < 1_000_000:
                ours.transport.write(b"x" * 262144)
                total += 262144
            getattr(ours.transport, method)()
            assert ours.transport.is_closing()
            theirs.transport.resume_reading()
            await theirs.lost
            assert await ours.lost is None
            assert (len(theirs.data) == total) is complete
            await finish(server)

    twin(main())


def test_reset_by_peer(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        raw = theirs.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.transport.abort()
        assert isinstance(await ours.lost, ConnectionResetError)
        await finish(server)

    twin(main())


def test_data_before_reset_or_eof_is_not_lost(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        ours.transport.pause_reading()
        theirs.transport.write(b"last words")
        theirs.transport.close()
        await theirs.lost
        await turns()
        ours.transport.resume_reading()
        await ours.lost
        assert ours.data == b"last words"
        await finish(server)

    twin(main())


def test_a_dead_peer_of_a_paused_reader_causes_no_busy_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs, server = await connected_pair()
        ours.transport.pause_reading()
        raw = theirs.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.transport.abort()
        await theirs.lost
        before = loop.statistics().polls  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        assert loop.statistics().polls - before < 10  # type: ignore[attr-defined]
        ours.transport.resume_reading()
        assert isinstance(await ours.lost, ConnectionResetError)
        await finish(server)

    corenet.run(main())


@pytest.mark.parametrize("broken", ["data_received", "eof_received", "connection_lost", "connection_made"])
def test_failing_protocol_is_reported(broken: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        lost = loop.create_future()

        class Broken(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                if broken == "connection_made":
                    transport.close()
                    raise LookupError

            def data_received(self, data: bytes) -> None:
                if broken == "data_received":
                    raise LookupError
                self.transport.close()

            def eof_received(self) -> None:
                if broken == "eof_received":
                    raise LookupError

            def connection_lost(self, error: BaseException | None) -> None:
                lost.set_result(error)
                if broken == "connection_lost":
                    raise LookupError

        server = await loop.create_server(Broken, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            if broken == "eof_received":
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.send(b"x")
            error = await lost
            assert isinstance(error, LookupError) is (broken in ("data_received", "eof_received"))
            await asyncio.sleep(0)
        server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert len(reported) == 1
    assert isinstance(reported[0]["exception"], LookupError)


def test_writes_after_the_end_are_ignored(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        ours.transport.close()
        await ours.lost
        await theirs.lost
        for _ in range(10):
            ours.transport.write(b"x")
        await finish(server)

    twin(main())
    assert all("socket.send() raised exception" in record.getMessage() for record in caplog.records)
    assert 4 <= len(caplog.records) <= 6


def test_a_buffered_protocol_and_a_change_of_protocol(twin: Twin) -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self, done: asyncio.Future[bytes]) -> None:
            self.buffer = bytearray(7)
            self.got = bytearray()
            self.done = done

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.buffer[:nbytes]
            if len(self.got) == 1000:
                self.done.set_result(bytes(self.got))

    async def main() -> None:
        ours, theirs, server = await connected_pair()
        done = asyncio.get_running_loop().create_future()
        theirs.transport.set_protocol(Buffered(done))
        ours.transport.write(bytes(range(250)) * 4)
        assert await done == bytes(range(250)) * 4
        theirs.transport.set_protocol(theirs)
        ours.transport.write(b"back")
        await theirs.until(lambda: theirs.data == b"back")
        await finish(server, ours, theirs)

    twin(main())


def test_watermarks(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        transport = ours.transport
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        theirs.transport.pause_reading()
        total = await check_watermarks(ours, theirs.transport.resume_reading)
        await theirs.until(lambda: len(theirs.data) == total)
        await finish(server, ours, theirs)

    twin(main())


def test_watermarks_apply_from_the_moment_they_are_set(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        transport = ours.transport
        theirs.transport.pause_reading()
        transport.set_write_buffer_limits(high=1 << 30)
        fill(transport)
        assert "pause" not in ours.events
        transport.set_write_buffer_limits(high=transport.get_write_buffer_size() - 1)
        assert "pause" in ours.events
        theirs.transport.resume_reading()
        await ours.until(lambda: "resume" in ours.events)
        # No data may be queued: any data that the kernel does not accept at once pauses the writer.
        theirs.transport.pause_reading()
        transport.set_write_buffer_limits(high=0)
        while not transport.get_write_buffer_size():
            assert ours.events.count("pause") == 1
            transport.write(bytes(100_000))
        assert ours.events.count("pause") == 2
        theirs.transport.resume_reading()
        await ours.until(lambda: ours.events.count("resume") == 2)
        assert transport.get_write_buffer_size() == 0
        await finish(server, ours, theirs)

    twin(main())


def test_one_fast_peer_does_not_starve_another(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fast, flooded, server = await connected_pair()
        quiet, answered, other = await connected_pair()

        def flood() -> None:
            if not fast.transport.is_closing():
                if fast.transport.get_write_buffer_size() < 4_000_000:
                    fast.transport.write(b"x" * 1_000_000)
                loop.call_soon(flood)

        flood()
        for _ in range(20):
            quiet.transport.write(b"?")
            size = len(answered.data) + 1
            await answered.until(lambda size=size: len(answered.data) == size)  # type: ignore[misc]
        fast.transport.abort()
        await flooded.lost
        await finish(server, fast, flooded)
        await finish(other, quiet, answered)

    twin(main())


def test_write_requires_bytes(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        for wrong in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError):
                ours.transport.write(wrong)
        ours.transport.write(b"")
        await finish(server, ours, theirs)

    twin(main())


def test_transports_are_freed_without_the_collector() -> None:
    import gc
    import weakref

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            protocols.append(weakref.ref(self))
            transports.append(weakref.ref(transport))

    protocols: list[Any] = []
    transports: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Kept, "127.0.0.1", 0)
        for _ in range(20):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            await writer.wait_closed()
        while any(one() is not None for one in protocols + transports):
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    gc.disable()
    try:
        corenet.run(asyncio.wait_for(main(), 30))
    finally:
        gc.enable()
    assert sys.getrefcount(protocols) < 5


def test_a_result_of_eof_received_without_truth_value_ends_the_connection() -> None:
    """asyncio reports it in each iteration, for ever."""

    class Neither:
        def __bool__(self) -> bool:
            raise ZeroDivisionError("neither")

    class Protocol(Recorder):
        def eof_received(self) -> Any:
            return Neither()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[str] = []
        loop.set_exception_handler(lambda _loop, context: reports.append(context["message"]))
        ours, theirs = socket.socketpair()
        _, protocol = await loop.create_unix_connection(Protocol, sock=ours)
        theirs.close()
        assert isinstance(await asyncio.wait_for(protocol.lost, 30), ZeroDivisionError)
        assert reports == ["Fatal error: protocol.eof_received() call failed."]

    corenet.run(main())
