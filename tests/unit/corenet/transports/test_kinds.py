"""All types of transports: their classes, their information, and how they handle data that changes later."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, connected_pair, loop_factory, twin

import corenet

from .test_datagram import Collector, close, endpoint

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


async def over(*recorders: Recorder) -> None:
    for recorder in recorders:
        recorder.transport.close()
        await recorder.lost


def told(transport: Any, *names: str) -> list[Any]:
    return [transport.get_extra_info(name) for name in names]


def test_stream_transports(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        here, there, server = await connected_pair()
        assert isinstance(here.transport, asyncio.Transport)
        assert told(here.transport, "sockname", "peername") == told(there.transport, "peername", "sockname")
        assert isinstance(here.transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        assert told(here.transport, "sslcontext", "pipe", "nothing") == [None] * 3
        assert here.transport.get_extra_info("nothing", 7) == 7
        await over(here, there)
        # Information known before the end stays available after it.
        assert told(there.transport, "peername") == [server.sockets[0].getsockname()]
        server.close()

        loop = asyncio.get_running_loop()
        path = str(tmp_path / "sock")
        unix = await loop.create_unix_server(Recorder, path)
        transport, client = await loop.create_unix_connection(Recorder, path)
        assert isinstance(transport, asyncio.Transport)
        assert told(transport, "sockname", "peername") == ["", path]
        await over(client)
        unix.close()

    twin(main())


def test_pipe_transports(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        with open(reading, "rb", 0) as source, open(writing, "wb", 0) as sink:
            reader, one = await loop.connect_read_pipe(Recorder, source)
            writer, two = await loop.connect_write_pipe(Recorder, sink)
            assert isinstance(reader, asyncio.ReadTransport)
            assert isinstance(writer, asyncio.WriteTransport)
            assert [isinstance(pipe, asyncio.Transport) for pipe in (reader, writer)] == [False, True]
            assert told(reader, "pipe", "socket") == [source, None]
            assert told(writer, "pipe", "socket") == [sink, None]
            await over(two, one)

    twin(main())


def test_subprocess_transports(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, sys.executable, "-c", "input()", stdin=-1, stdout=-1, stderr=-1
        )
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert transport.get_extra_info("subprocess").pid == transport.get_pid()
        assert transport.get_protocol() is protocol
        pipes: list[Any] = [transport.get_pipe_transport(number) for number in range(3)]
        # The first may be both: some versions of asyncio make it a socket.
        assert isinstance(pipes[0], asyncio.WriteTransport)
        assert all(isinstance(pipe, asyncio.ReadTransport) for pipe in pipes[1:])
        assert all(pipe.get_extra_info("pipe") is not None for pipe in pipes)
        pipes[0].write(b"\n")
        while transport.get_returncode() is None:
            await asyncio.sleep(0)
        transport.close()

    twin(main())


def test_datagram_transports(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        one = await endpoint()
        two = await endpoint(local_addr=None, remote_addr=one.transport.get_extra_info("sockname"))
        # asyncio's own is an asyncio.DatagramTransport only from 3.12 on.
        assert isinstance(two.transport, asyncio.Transport | asyncio.DatagramTransport)
        assert isinstance(two.transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        assert told(one.transport, "peername") == [None]
        assert told(two.transport, "peername") == told(one.transport, "sockname")
        await close(one, two)
        path = str(tmp_path / "datagrams")
        unix = await endpoint(local_addr=path, family=socket.AF_UNIX)
        assert told(unix.transport, "sockname") == [path]
        await close(unix)

    twin(main())


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_queued_datagrams_are_copies(kind: type, tmp_path: Path) -> None:
    """A Unix socket whose reader does not read is soon full. No twin: some versions of asyncio keep the object."""

    async def main() -> None:
        path = str(tmp_path / "full")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
            reader.bind(path)
            reader.setblocking(False)
            writer = await endpoint(local_addr=None, remote_addr=path, family=socket.AF_UNIX)
            sent = 0
            while not writer.transport.get_write_buffer_size():
                writer.transport.sendto(b"%8d" % sent)
                sent += 1
            data = bytearray(b"original")
            writer.transport.sendto(kind(data))
            writer.transport.send_many([(kind(data), None)])
            data[:] = b"changed!"
            received: list[bytes] = []
            while len(received) < sent + 2:
                try:
                    received.append(reader.recv(100))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert received[-2:] == [b"original"] * 2
            await close(writer)

    corenet.run(main())


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_queued_stream_data_is_a_copy(kind: type) -> None:
    async def main() -> None:
        here, there, server = await connected_pair()
        here.transport.pause_reading()
        data = bytearray(b"x" * 8_000_000)
        there.transport.write(kind(data))
        there.transport.writelines([kind(data)])
        data[:] = b"y" * len(data)
        here.transport.resume_reading()
        await here.until(lambda: len(here.data) == 2 * len(data))
        assert set(here.data) == {ord("x")}
        await over(here, there)
        server.close()

    corenet.run(main())


def test_empty_datagrams_are_sent_in_both_directions(tmp_path: Path) -> None:
    """No twin: asyncio sends them from 3.13 on only."""

    async def main() -> None:
        one = await endpoint()
        two = await endpoint(local_addr=None, remote_addr=one.transport.get_extra_info("sockname"))
        two.transport.sendto(b"")
        two.transport.send_many([(b"", None), (b"", None), (b"end", None)])
        await one.until(lambda: len(one.received) == 4)
        assert [data for data, _ in one.received] == [b"", b"", b"", b"end"]
        paths = [str(tmp_path / name) for name in "ab"]
        three, four = [await endpoint(local_addr=path, family=socket.AF_UNIX) for path in paths]
        three.transport.sendto(b"", paths[1])
        await four.until(lambda: bool(four.received))
        assert four.received == [(b"", paths[0])]
        await close(one, two, three, four)

    corenet.run(main())


def test_abstract_and_unnamed_unix_datagrams(twin: Twin) -> None:
    async def main() -> None:
        name = f"\0corenet-test-{os.getpid()}"
        named = await endpoint(local_addr=name, family=socket.AF_UNIX)
        unnamed = await endpoint(local_addr=None, remote_addr=name, family=socket.AF_UNIX)
        unnamed.transport.sendto(b"x")
        await named.until(lambda: bool(named.received))
        assert named.received[0][0] == b"x"
        assert not named.received[0][1]
        await close(named, unnamed)

    twin(main())


def test_all_datagram_families_of_the_kernel(twin: Twin) -> None:
    """Any datagram family can be given as a socket; vsock datagrams need a hypervisor's driver, its streams do not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM)
            end: Collector = await endpoint(local_addr=None, sock=sock)
            await close(end)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            with pytest.raises(ValueError, match=r"A (UDP|datagram) [Ss]ocket was expected"):
                await loop.create_datagram_endpoint(Collector, sock=stream)

    twin(main())
