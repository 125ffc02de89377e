"""During a sendfile the protocol still receives, and the sendfile ends with the connection.

The peer takes part of the file and then waits, so that the kernel's buffer is full and `sendfile` waits, or so that
earlier writes wait.
"""

import asyncio
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]

SIZE = 6_000_000
BEFORE = bytes(12_000_000)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that no kernel takes at once."""
    place = tmp_path / "file"
    place.write_bytes(random.Random(5).randbytes(1000) * (SIZE // 1000))
    return place


async def pair(keep_open: bool = False) -> tuple[Any, Recorder, socket.socket]:
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, sock=ours)
    protocol.keep_open = keep_open
    return transport, protocol, peer


async def begun(transport: Any, file: Any, written: bytes = b"") -> "asyncio.Task[int]":
    """A `sendfile` that waits: for earlier writes, or for space in the kernel's buffer."""
    loop = asyncio.get_running_loop()
    transport.write(written)
    task = loop.create_task(loop.sendfile(transport, file, fallback=False))
    for _ in range(6):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def taken(peer: socket.socket, size: int) -> bytearray:
    loop = asyncio.get_running_loop()
    got = bytearray()
    while len(got) < size:
        data = await asyncio.wait_for(loop.sock_recv(peer, 1 << 20), 30)
        assert data, f"the end after {len(got)} of {size}"
        got += data
    return got


async def usable(transport: Any, protocol: Recorder, peer: socket.socket, data: bytes) -> None:
    """Show that the connection still sends, then end it."""
    transport.write(data)
    assert await taken(peer, len(data)) == data
    transport.close()
    await protocol.lost
    peer.close()


@pytest.mark.parametrize("written", [b"", BEFORE], ids=["for room", "for the buffer"])
@pytest.mark.parametrize("arrives", [b"news", b""], ids=["data", "nothing"])
def test_reading_is_resumed_during_a_sendfile(twin: Twin, path: Path, written: bytes, arrives: bytes) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file, written)
            transport.resume_reading()
            if arrives:
                peer.send(arrives)
                # At once: a peer may take no more before it is answered.
                await asyncio.wait_for(protocol.until(lambda: protocol.data == arrives), 30)
            got = await taken(peer, len(written) + SIZE)
            assert await asyncio.wait_for(task, 30) == SIZE
        assert got == written + path.read_bytes()
        peer.send(b" and more")
        await asyncio.wait_for(protocol.until(lambda: protocol.data == arrives + b" and more"), 30)
        await usable(transport, protocol, peer, b"after it")

    twin(main())


def test_data_written_during_a_sendfile_is_sent_after_it(twin: Twin, path: Path) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file)
            peer.send(b"meanwhile")
            await taken(peer, SIZE)
            assert await asyncio.wait_for(task, 30) == SIZE
        await asyncio.wait_for(protocol.until(lambda: protocol.data == b"meanwhile"), 30)
        transport.close()
        await protocol.lost
        peer.close()

    twin(main())


@pytest.mark.parametrize("resumed", [False, True])
def test_an_end_of_file_during_a_sendfile_loses_nothing(twin: Twin, path: Path, resumed: bool) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair(keep_open=True)
        with path.open("rb") as file:
            task = await begun(transport, file)
            if resumed:
                transport.resume_reading()
            peer.shutdown(socket.SHUT_WR)
            assert await taken(peer, SIZE) == path.read_bytes()
            assert await asyncio.wait_for(task, 30) == SIZE
        await asyncio.wait_for(protocol.until(lambda: "eof" in protocol.events), 30)
        transport.close()
        await protocol.lost
        peer.close()

    twin(main())


# asyncio finishes the wait for the buffer twice when the connection breaks, and reports that to its handler.


@pytest.mark.parametrize("resumed", [False, True])
def test_a_peer_that_disconnects_during_a_sendfile(path: Path, resumed: bool) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file)
            if resumed:
                transport.resume_reading()
            peer.close()
            with pytest.raises(OSError):
                await asyncio.wait_for(task, 30)
        transport.close()
        await asyncio.wait_for(asyncio.wait([protocol.lost]), 30)

    corenet.run(main())


# asyncio sends the file into a transport that is closing, or fails with AttributeError.


@pytest.mark.parametrize("written", [b"", BEFORE], ids=["for room", "for the buffer"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_connection_ends_during_a_sendfile(path: Path, written: bytes, how: str) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file, written)
            getattr(transport, how)()
            if written and how == "close":
                # What was written before it is sent, and nothing of the file.
                assert await taken(peer, len(written)) == written
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 100), 30) == b""
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 30)
            await asyncio.wait_for(protocol.lost, 30)
        peer.close()

    corenet.run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_connection_ends_in_the_iteration_in_which_the_buffer_empties(path: Path, how: str) -> None:
    """The wait is over and the task has not run yet."""

    async def main() -> None:
        transport, protocol, peer = await pair()
        waiter = transport._make_empty_waiter()
        assert waiter.done()
        transport._reset_empty_waiter()
        with path.open("rb") as file:
            task = asyncio.ensure_future(asyncio.get_running_loop().sendfile(transport, file, fallback=False))
            # Begins before `how` in the next iteration, and is woken in the one after.
            asyncio.get_running_loop().call_soon(getattr(transport, how))
            with pytest.raises((ConnectionError, RuntimeError)):
                await asyncio.wait_for(task, 30)
            await asyncio.wait_for(protocol.lost, 30)
        peer.close()

    corenet.run(main())


@pytest.mark.parametrize("written", [b"", BEFORE], ids=["for room", "for the buffer"])
def test_a_cancelled_sendfile_leaves_a_working_connection(path: Path, written: bytes) -> None:
    async def main() -> None:
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file, written)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        transport.write(b"and on")
        transport.write_eof()
        got = bytearray()
        while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1 << 20), 30):
            got += data
        assert got.startswith(written)
        assert got.endswith(b"and on")
        peer.send(b"news")
        await asyncio.wait_for(protocol.until(lambda: protocol.data == b"news"), 30)
        transport.close()
        await protocol.lost
        peer.close()

    corenet.run(main())


def test_a_second_sendfile_is_refused_without_effect(path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await pair()
        with path.open("rb") as file, path.open("rb") as other:
            task = await begun(transport, file)
            with pytest.raises(RuntimeError, match="already set"):
                await loop.sendfile(transport, other, fallback=False)
            with pytest.raises(RuntimeError, match="in progress"):
                transport.write(b"between")
            assert await taken(peer, SIZE) == path.read_bytes()
            assert await asyncio.wait_for(task, 30) == SIZE
        transport.close()
        await protocol.lost
        peer.close()

    corenet.run(main())


def test_wrong_arguments_are_refused(twin: Twin, path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await pair()
        with path.open("rb") as file, path.open() as text:
            for wrong, error in (
                ((text, 0, None), ValueError),
                ((file, 0, -1), ValueError),
                ((file, 0, 1.5), TypeError),
                ((file, -1, None), ValueError),
            ):
                with pytest.raises(error):
                    await loop.sendfile(transport, *wrong)
        await usable(transport, protocol, peer, b"usable")

    twin(main())


@pytest.mark.parametrize("written", [b"", BEFORE], ids=["for room", "for the buffer"])
def test_the_child_of_a_fork_sends_nothing_of_the_file(path: Path, written: bytes) -> None:
    """In the child the call fails, so that every byte of the file is sent once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await pair()
        with path.open("rb") as file:
            task = await begun(transport, file, written)
            child = loop.create_future()

            def fork() -> None:
                """In a callback: the child cannot run another task within one."""
                pid = os.fork()
                if pid:
                    child.set_result(pid)
                    return
                code = 1
                try:
                    # The loop counts as stopped here, and may be run again.
                    peer.close()
                    loop.call_later(3, loop.stop)
                    task.add_done_callback(lambda _task: loop.stop())
                    loop.run_forever()
                    code = 0 if task.done() and isinstance(task.exception(), ConnectionAbortedError) else 2
                finally:
                    os._exit(code)

            loop.call_soon(fork)
            # Before the peer reads: the child must find the kernel's buffer full.
            assert os.waitstatus_to_exitcode(os.waitpid(await child, 0)[1]) == 0
            assert await taken(peer, len(written) + SIZE) == written + path.read_bytes()
            assert await asyncio.wait_for(task, 30) == SIZE
        transport.close()
        await protocol.lost
        peer.close()

    corenet.run(main())


@pytest.mark.parametrize("by", ["a transport", "a socket"])
def test_a_file_closed_during_a_sendfile_is_not_mistaken_for_another(path: Path, by: str) -> None:
    """asyncio sends the file that has the number now."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await pair()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        file = path.open("rb")
        if by == "a transport":
            task = await begun(transport, file)
        else:
            task = loop.create_task(loop.sock_sendfile(ours, file, fallback=False))
            await asyncio.sleep(0)
            theirs.setblocking(False)
        number = file.fileno()
        file.close()
        secret = path.with_name("secret")
        secret.write_bytes(b"secret" * SIZE)
        with secret.open("rb") as other_file:
            assert other_file.fileno() == number
            while not task.done():
                reading = loop.create_task(loop.sock_recv(peer if by == "a transport" else theirs, 1 << 20))
                await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    assert b"secret" not in reading.result()
                reading.cancel()
            with pytest.raises(ValueError, match="closed file"):
                await task
            assert other_file.tell() == 0
        transport.abort()
        await protocol.lost
        for sock in (peer, ours, theirs):
            sock.close()

    corenet.run(asyncio.wait_for(main(), 30))
