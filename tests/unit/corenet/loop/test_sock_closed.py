"""`sock_*` calls whose socket is closed, or whose number is reused, while they wait: none of them hangs.

asyncio's own loop waits forever in these cases, because epoll removes a closed descriptor. uvloop keeps the socket open
until the call has ended, and so do we; where uvloop is installed, the tests run on it first.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import tempfile
from collections.abc import Coroutine
from typing import Any

import pytest
from support.reference_loops import Factory, keeps_open
from support.twin import loop_factory

import corenet

__all__ = ["loop_factory"]

WAIT = 30.0


def run(factory: Factory, main: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(WAIT):
            return await main

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


def pair() -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


async def waiting(call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Start `call` and run it until it waits."""
    task = asyncio.get_running_loop().create_task(call)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


@keeps_open
@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("ends", ["data", "closed"])
def test_a_receive_on_a_closed_socket_ends(factory: Factory, into: bool, ends: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        number = left.fileno()
        buffer = bytearray(10)
        task = await waiting(loop.sock_recv_into(left, buffer) if into else loop.sock_recv(left, 10))
        left.close()
        if ends == "data":
            right.send(b"late")
            assert await task == (4 if into else b"late")
        else:
            right.close()
            assert await task == (0 if into else b"")
        assert left.fileno() == -1
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)
        right.close()

    run(factory, main())


@keeps_open
@pytest.mark.parametrize("ends", ["read", "closed"])
def test_a_send_on_a_closed_socket_ends(factory: Factory, ends: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        task = await waiting(loop.sock_sendall(left, bytes(3_000_000)))
        left.close()
        got = 0
        if ends == "closed":
            right.close()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await task
        else:
            while data := await loop.sock_recv(right, 1 << 16):
                got += len(data)
            await task
            assert got == 3_000_000
            right.close()
        assert left.fileno() == -1

    run(factory, main())


@keeps_open
def test_an_accept_on_a_closed_socket_ends(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        task = await waiting(loop.sock_accept(listener))
        listener.close()
        with socket.create_connection(address, WAIT) as client:
            accepted, _ = await task
            with accepted:
                assert accepted.getpeername() == client.getsockname()
        assert listener.fileno() == -1

    run(factory, main())


@keeps_open
def test_a_connect_on_a_closed_socket_ends(factory: Factory) -> None:
    """The backlog of the listener is full, so the connection is made a second later, when TCP retransmits."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            first = socket.create_connection(listener.getsockname(), WAIT)
            sock = socket.socket()
            sock.setblocking(False)
            task = await waiting(loop.sock_connect(sock, listener.getsockname()))
            sock.close()
            listener.accept()[0].close()
            await task
        assert sock.fileno() == -1
        first.close()

    run(factory, main())


@pytest.mark.parametrize("into", [False, True])
def test_receiving_datagrams_on_a_closed_socket_ends(into: bool) -> None:
    """uvloop has none of these."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            address = sock.getsockname()
            buffer = bytearray(10)
            task = await waiting(loop.sock_recvfrom_into(sock, buffer) if into else loop.sock_recvfrom(sock, 10))
            sock.close()
            sender.sendto(b"late", address)
            assert (await task)[0] == (4 if into else b"late")
            assert sock.fileno() == -1

    run(corenet.new_event_loop, main())


def test_sending_datagrams_on_a_closed_socket_ends() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(f"{folder}/socket")
            receiver.setblocking(False)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.sendto(b"full", f"{folder}/socket")
            sock.connect(f"{folder}/socket")
            task = await waiting(loop.sock_sendto(sock, b"late", f"{folder}/socket"))
            sock.close()
            while not task.done():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        receiver.recv(10)
                await asyncio.sleep(0)
            assert await task == 4
            assert sock.fileno() == -1

    run(corenet.new_event_loop, main())


@keeps_open
@pytest.mark.parametrize("closed", ["before", "after"])
def test_a_cancelled_call_keeps_no_descriptor_open(factory: Factory, closed: str) -> None:
    async def main() -> None:
        left, right = pair()
        number = left.fileno()
        task = await waiting(asyncio.get_running_loop().sock_recv(left, 10))
        if closed == "before":
            left.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)
        right.close()

    run(factory, main())


@keeps_open
def test_both_directions_of_a_closed_socket(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        receiving = await waiting(loop.sock_recv(left, 10))
        sending = await waiting(loop.sock_sendall(left, bytes(3_000_000)))
        left.close()
        right.send(b"late")
        assert await receiving == b"late"
        assert left.fileno() != -1
        got = 0
        while got < 3_000_000:
            got += len(await loop.sock_recv(right, 1 << 16))
        await sending
        assert left.fileno() == -1
        right.close()

    run(factory, main())


@pytest.mark.parametrize("how", ["abort", "close"])
def test_the_transport_of_a_sendfile(how: str) -> None:
    """The peer reads nothing, so only the end of the transport can end the call."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        with tempfile.TemporaryFile() as file:
            file.truncate(3_000_000)
            task = await waiting(loop.sendfile(transport, file))
            getattr(transport, how)()
            with pytest.raises(ConnectionError, match="closed"):
                await task
        assert left.fileno() == -1
        right.close()

    run(corenet.new_event_loop, main())


def test_the_socket_of_a_sendfile() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        with tempfile.TemporaryFile() as file:
            file.truncate(3_000_000)
            task = await waiting(loop.sock_sendfile(left, file))
            left.close()
            while not task.done():
                await loop.sock_recv(right, 1 << 20)
            with pytest.raises(OSError, match="Bad file"):
                await task
        assert left.fileno() == -1
        right.close()

    run(corenet.new_event_loop, main())


# --- the number becomes another file's --------------------------------------------------------------------------------


@pytest.mark.parametrize("old_stays", [False, True])
@pytest.mark.parametrize("waits_before", [0, 1, 2])
def test_waits_are_for_the_current_file_of_the_number(
    loop_factory: Factory, old_stays: bool, waits_before: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        other, its_peer = pair()
        for _ in range(waits_before):
            task = await waiting(loop.sock_recv(left, 10))
            right.send(b"old")
            assert await task == b"old"
        kept = os.dup(left.fileno())
        if not old_stays:
            os.close(kept)
        os.dup2(other.fileno(), left.fileno())
        for _ in range(3):
            task = await waiting(loop.sock_recv(left, 10))
            its_peer.send(b"new")
            assert await task == b"new"
        if old_stays:
            # Back to the first file, which was never removed from epoll.
            os.dup2(kept, left.fileno())
            for _ in range(3):
                task = await waiting(loop.sock_recv(left, 10))
                right.send(b"old")
                assert await task == b"old"
            os.close(kept)
        for sock in (left, right, other, its_peer):
            sock.close()

    run(loop_factory, main())


def test_receiving_does_not_block_on_a_blocking_socket() -> None:
    """O_NONBLOCK belongs to the open file, which may be shared by dup or fork. asyncio blocks in the kernel."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = pair()
        copy = left.dup()
        copy.setblocking(True)
        task = await waiting(loop.sock_recv(left, 10))
        # After a spurious wake-up it tries again.
        task._fut_waiter.set_result(None)  # type: ignore[attr-defined]
        for _ in range(3):
            await asyncio.sleep(0)
        right.send(b"x")
        assert await task == b"x"
        for sock in (left, right, copy):
            sock.close()

    blocked: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: blocked.append(number))
    # While the GIL is held, no other thread of the interpreter can wake it.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        while not select.select([reading], [], [], 30)[0]:
            os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(0)
    try:
        run(corenet.new_event_loop, main())
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
        os.close(reading)
        signal.signal(signal.SIGUSR1, before)
    assert not blocked, "a call waited in the kernel"
