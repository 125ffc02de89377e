"""No object is called, listed or visited after its end: servers' lists, protocols that replace themselves, teardowns.

Use after free is detected by a separate interpreter whose allocator overwrites freed memory.
"""

import array
import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tls_pair import client_context, leaf, server_context, tls_pair
from support.twin import Recorder, connected_pair, loop_factory, twin

import corenet

__all__ = ["client_context", "leaf", "loop_factory", "server_context", "twin"]

Twin = Callable[[Any], Any]

HEAD = """
import asyncio, gc, os, socket, sys, warnings, weakref
import corenet

unraisable = []
sys.unraisablehook = lambda unraised: unraisable.append(type(unraised.exc_value).__name__)
reported = []


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def run(main):
    async def bounded():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        await asyncio.wait_for(main(), 15)

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(bounded())
"""


def run_alone(body: str) -> None:
    """Run `body` in a separate interpreter that overwrites freed memory."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", HEAD + textwrap.dedent(body)],
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("filter_", ["error", "always"])
@pytest.mark.parametrize("ending", ["close_clients", "abort_clients"])
def test_a_server_drops_unreferenced_connections(filter_: str, ending: str) -> None:
    """Under -W error the warning of an unclosed transport is an exception in the middle of its teardown."""
    run_alone(
        f"""
        class Paused(asyncio.Protocol):
            def connection_made(self, transport):
                transport.pause_reading()
                made.append(weakref.ref(transport))


        made = []


        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Paused, "127.0.0.1", 0)
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
            await until(lambda: len(made) == 3)
            gc.collect()
            assert len(unraisable) == 3 if recorded is None else len(recorded) == 3
            [client.close() for client in clients[:1]]
            server.{ending}()
            server.close()
            await server.wait_connections_closed()
            # Their descriptors were closed too.
            for client in clients[1:]:
                client.settimeout(10)
                assert client.recv(1) == b""
                client.close()


        # A recorded warning holds what it warns of.
        with warnings.catch_warnings(record={filter_ == "always"}) as recorded:
            warnings.simplefilter({filter_!r}, ResourceWarning)
            run(main)
        assert unraisable == {["ResourceWarning"] * 3 if filter_ == "error" else []}, unraisable
        assert not reported, reported
        """
    )


def test_a_server_drops_connections_closed_by_the_program() -> None:
    """The socket object's close fails with EBADF: that is reported, and everything else continues."""
    run_alone(
        """
        import errno


        class Kept(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                # Made now, the socket object is what closes the descriptor later.
                self.sock = transport.get_extra_info("socket")
                made.append(transport)

            def connection_lost(self, error):
                lost.append(error)


        made, lost = [], []


        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Kept, "127.0.0.1", 0)
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
            await until(lambda: len(made) == 3)
            for transport in made:
                os.close(transport.get_extra_info("socket").fileno())
            for transport in made:
                transport.abort()
            made.clear()
            await until(lambda: len(lost) == 3)
            gc.collect()
            server.close_clients()
            server.close()
            await server.wait_connections_closed()
            for client in clients:
                client.close()


        run(main)
        assert lost == [None] * 3, lost
        assert [context["exception"].errno for context in reported] == [errno.EBADF] * 3, reported
        assert not unraisable, unraisable
        """
    )


def test_connections_outlive_the_connection_list_of_their_server() -> None:
    run_alone(
        """
        made = []


        class Kept(asyncio.Protocol):
            def connection_made(self, transport):
                transport.pause_reading()
                made.append(transport)


        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Kept, "127.0.0.1", 0)
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
            await until(lambda: len(made) == 3)
            server.close()
            del server
            gc.collect()
            for transport in made:
                transport.abort()
            await until(lambda: all(transport.get_protocol() is None for transport in made))
            made.clear()
            gc.collect()
            for client in clients:
                client.close()


        run(main)
        assert not reported, reported
        assert not unraisable, unraisable
        """
    )


def test_a_descriptor_that_cannot_be_watched_ends_the_connection() -> None:
    """The program closed it while it was not registered: no task may wait for it for ever."""

    class Paused(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        fd = os.dup(ours.fileno())
        transport, protocol = await loop.create_unix_connection(Paused, sock=ours)
        os.close(ours.fileno())
        transport.resume_reading()
        # The number is the socket object's to close again.
        os.dup2(fd, ours.fileno())
        os.close(fd)
        error = await protocol.lost
        assert isinstance(error, OSError)
        peer.close()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


class Replacing:
    """Compared with what was received, puts another protocol in the place of the one that is being called."""

    def __init__(self, note: Callable[[], None]) -> None:
        self.note = note

    def __eq__(self, other: object) -> bool:
        self.note()
        return True

    __hash__ = None  # type: ignore[assignment]


class Listing(list[Any], asyncio.Protocol):
    """Its `data_received` is a C function, which holds no reference to its receiver as a Python function does."""

    data_received = list.remove

    def eof_received(self) -> None:
        """Close."""


def replacing(transport: Any, successor: Any, alive: list[bool]) -> Listing:
    """A protocol that puts `successor` in its place while it is called, and whether it lived then."""
    protocol = Listing()
    ref = weakref.ref(protocol)

    def note() -> None:
        transport.set_protocol(successor)
        alive.append(ref() is not None)

    protocol.append(Replacing(note))
    return protocol


def test_a_protocol_stays_alive_while_it_is_called(twin: Twin) -> None:
    async def main() -> None:
        alive: list[bool] = []
        here, there, server = await connected_pair()
        here.transport.set_protocol(replacing(here.transport, here, alive))
        there.transport.write(b"x")
        there.transport.close()
        await here.lost
        assert alive == [True]
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_protocol_stays_alive_while_it_is_called_over_tls(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        alive: list[bool] = []
        here, there, server = await tls_pair(server_context, client_context)
        here.transport.set_protocol(replacing(here.transport, here, alive))
        there.transport.write(b"x")
        there.transport.close()
        await here.lost
        assert alive == [True]
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_protocol_stays_alive_while_it_is_called_on_a_pipe(twin: Twin) -> None:
    async def main() -> None:
        alive: list[bool] = []
        read, write = os.pipe()
        transport, recorder = await asyncio.get_running_loop().connect_read_pipe(Recorder, os.fdopen(read, "rb", 0))
        transport.set_protocol(replacing(transport, recorder, alive))
        os.write(write, b"x")
        os.close(write)
        await recorder.lost
        assert alive == [True]

    twin(main())


def test_frames_of_a_protocol_that_is_replaced_while_they_are_packed() -> None:
    run_alone(
        """
        class Frames(corenet.FramedProtocol):
            def __init__(self):
                super().__init__(corenet.LengthFramer(4))

            def connection_made(self, transport):
                made.append(transport)


        made, lost = [], []


        class Last(asyncio.Protocol):
            def connection_lost(self, error):
                lost.append(error)


        def payloads(transport):
            yield b"first"
            transport.set_protocol(Last())
            gc.collect()
            yield b"second"


        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Frames, "127.0.0.1", 0)
            client = socket.create_connection(server.sockets[0].getsockname())
            await until(lambda: made)
            made[0].write_frames(payloads(made[0]))
            made.pop().close()
            await until(lambda: lost)
            client.settimeout(10)
            assert client.recv(100) == b"\\0\\0\\0\\5first\\0\\0\\0\\6second"
            client.close()
            server.close()
            await server.wait_connections_closed()


        run(main)
        assert not reported, reported
        """
    )


@pytest.mark.checkout
def test_sources_hold_the_protocol_that_they_call() -> None:
    """Neither a bare pointer to the field nor a C method called on it: `protocol = self.protocol` comes before."""
    package = Path(__file__).resolve().parents[4] / "corenet"  # a debug build and a wheel hold no sources
    found = []
    for path in sorted([*package.glob("transports/*.pyx"), *package.glob("tls/*.pyx")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"<PyObject \*> ?self\.(protocol|consumer)|<Consumer>self\.\w+\)\.|self\.consumer\.", line):
                found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []


def views() -> dict[str, Any]:
    """Whatever has bytes."""
    numbers = array.array("i", [1, 2, 3])
    return {
        "bytes": b"bytes",
        "bytearray": bytearray(b"bytearray"),
        "memoryview": memoryview(b"memoryview"),
        "array": numbers,
        "view of numbers": memoryview(numbers),
        "two dimensions": memoryview(b"abcdefgh").cast("B", (2, 4)),
        "empty": b"",
        "empty array": array.array("i"),
    }


def bytes_of(thing: Any) -> bytes:
    return bytes(memoryview(thing))


@pytest.mark.parametrize("way", ["transport", "streams"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", list(views()))
def test_writelines_accepts_what_join_accepts(
    twin: Twin, name: str, way: str, secure: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        if secure:
            here, there, server = await tls_pair(server_context, client_context)
        else:
            here, there, server = await connected_pair()
        piece = views()[name]
        end: Any = here.transport
        if way == "streams":
            reader = asyncio.StreamReader()
            end = asyncio.StreamWriter(here.transport, here, reader, asyncio.get_running_loop())
        if sys.version_info >= (3, 12) and not isinstance(asyncio.get_running_loop(), corenet.Loop):
            # It sends the first so many items of these, where it should be bytes.
            if memoryview(piece).itemsize > 1 or memoryview(piece).ndim > 1:
                piece = b"other"
        end.writelines([b"head ", piece, b" tail"])
        here.transport.close()
        await there.lost
        await here.lost
        assert there.data == b"head " + bytes_of(piece) + b" tail"
        server.close()
        await server.wait_closed()

    twin(main())


class Forwarding(corenet.FramedProtocol):
    """Answers each frame, whose views it hands on as they are."""

    def __init__(self) -> None:
        super().__init__(corenet.LengthFramer(4))

    def connection_made(self, transport: Any) -> None:
        self.onward = transport

    def frames_received(self, frames: list[Any]) -> None:
        for frame in frames:
            assert not isinstance(frame, bytes)
            self.onward.writelines([b"head ", memoryview(b"s-t-r-i-d-e-d")[::2], frame, b" tail"])


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_writelines_accepts_views_and_non_contiguous_buffers(
    secure: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """asyncio raises before it sends anything, or ends the connection; we copy."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Forwarding, "127.0.0.1", 0, ssl=server_context if secure else None)
        _, client = await loop.create_connection(
            Recorder,
            *server.sockets[0].getsockname(),
            ssl=client_context if secure else None,
            server_hostname="localhost" if secure else None,
        )
        payload = b"frame" * 1000
        client.transport.write(len(payload).to_bytes(4, "big") + payload)
        expected = b"head strided" + payload + b" tail"
        await client.until(lambda: len(client.data) >= len(expected))
        assert client.data == expected
        client.transport.close()
        await client.lost
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


BAD = ["text", 7, None, ["list"]]


async def nothing_of(bad: object, here: Recorder, there: Recorder, server: Any) -> None:
    with pytest.raises(TypeError):
        here.transport.writelines([b"head", array.array("i", [1]), bad, b"tail"])
    here.transport.write(b"all")
    here.transport.close()
    await there.lost
    await here.lost
    assert there.data == b"all"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_writelines_sends_nothing_when_one_piece_is_wrong(twin: Twin, bad: object) -> None:
    async def main() -> None:
        await nothing_of(bad, *await connected_pair())

    twin(main())


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_writelines_over_tls_sends_nothing_when_one_piece_is_wrong(
    bad: object, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """asyncio joins the pieces later, and its exception reaches no caller."""

    async def main() -> None:
        await nothing_of(bad, *await tls_pair(server_context, client_context))

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_sendfile_ends_when_the_connection_does_while_it_waits_for_the_buffer(twin: Any, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        with peer, path.open("rb") as file:
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
            transport.write(bytes(4_000_000))
            waiting = loop.create_task(loop.sendfile(transport, file))
            await asyncio.sleep(0)
            transport.abort()
            async with asyncio.timeout(30):
                with pytest.raises(ConnectionError):
                    await waiting

    twin(main())
