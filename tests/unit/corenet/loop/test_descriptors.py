"""Descriptors that the program closes, reuses or duplicates: identified by generation, not by number."""

import asyncio
import contextlib
import functools
import os
import socket
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

import corenet
from corenet.core import READ

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


def test_a_reused_number_is_registered_again() -> None:
    """Closed without remove_reader, and the next socket gets its number: asyncio and uvloop miss its events."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, other = socket.socketpair()
        number = first.fileno()
        loop.add_reader(first, print)
        first.close()
        heard: asyncio.Future[bytes] = loop.create_future()
        second, far = socket.socketpair()
        assert second.fileno() == number
        loop.add_reader(second, lambda: heard.done() or heard.set_result(second.recv(10)))
        far.send(b"for you")
        assert await asyncio.wait_for(heard, 30) == b"for you"
        loop.remove_reader(second)
        for sock in (other, second, far):
            sock.close()

    corenet.run(main())


def test_a_transport_may_reuse_a_number_whose_reader_was_not_removed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, other = socket.socketpair()
        loop.add_reader(first, print)
        first.close()
        second, far = socket.socketpair()
        _, protocol = await loop.create_connection(Recorder, sock=second)
        far.send(b"data")
        await protocol.until(lambda: protocol.data == b"data")
        protocol.transport.close()
        await protocol.lost
        other.close()
        far.close()

    corenet.run(main())


def test_transports_on_numbers_reused_within_a_batch(twin: Twin) -> None:
    """The first callback closes the other descriptor and opens a new one with that number, which gets no event."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[bytes] = []

        class Closer(asyncio.Protocol):
            def __init__(self) -> None:
                self.victims: list[Any] = []

            def data_received(self, data: bytes) -> None:
                for victim in self.victims:
                    victim.abort()

        class LaterProtocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                wrong.append(data)

        for _ in range(20):
            pairs = [socket.socketpair() for _ in range(6)]
            ends = [await loop.create_connection(Closer, sock=near) for near, _ in pairs]
            for transport, protocol in ends:
                protocol.victims = [other for other, _ in ends if other is not transport]
            for _, far in pairs:
                far.send(b"old")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            fresh = [socket.socketpair() for _ in range(6)]
            later = [(await loop.create_connection(LaterProtocol, sock=near))[0] for near, _ in fresh]
            await asyncio.sleep(0)
            for transport in (*later, *(transport for transport, _ in ends)):
                transport.abort()
            for _, far in (*pairs, *fresh):
                far.close()
            await asyncio.sleep(0)
        assert wrong == []

    twin(main())


def test_a_duplicate_causes_no_busy_loop() -> None:
    """A dup keeps the file description in epoll after the close; its events must stop, not spin."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        near, far = socket.socketpair()
        loop.add_reader(near, print)
        copy = os.dup(near.fileno())
        loop.remove_reader(near)
        near.close()
        far.send(b"x")
        polls = loop.statistics().polls
        await asyncio.sleep(0.1)
        assert loop.statistics().polls - polls < 10
        os.close(copy)
        far.close()

    corenet.run(main())


def test_a_transport_whose_descriptor_was_closed_ends(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        os.close(near.detach())
        transport.write(b"into nothing")
        transport.abort()
        await protocol.lost
        far.close()

    twin(main())


@pytest.mark.parametrize("turns", range(4))
def test_a_cancelled_wait_does_not_affect_a_reused_number(twin: Twin, turns: int) -> None:
    """A cancelled sock_recv, its descriptor closed, the number reused at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10):
            near, far = socket.socketpair()
            near.setblocking(False)
            task = asyncio.ensure_future(loop.sock_recv(near, 10))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            near.close()
            far.close()
            near, far = socket.socketpair()
            near.setblocking(False)
            receiving = asyncio.ensure_future(loop.sock_recv(near, 10))
            await asyncio.sleep(0)
            far.send(b"mine")
            assert await asyncio.wait_for(receiving, 30) == b"mine"
            near.close()
            far.close()

    twin(main())


def test_a_cancelled_wait_is_not_a_reader(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        for wait in (loop.sock_recv(near, 1), loop.sock_recv_into(near, bytearray(1))):
            task = asyncio.ensure_future(wait)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0)
            assert not loop.remove_reader(near)
            assert not loop.remove_writer(near)
        far.send(b"x")
        assert await loop.sock_recv(near, 1) == b"x"
        near.close()
        far.close()

    twin(main())


def test_a_reader_of_a_listening_socket_pauses_its_server(twin: Twin) -> None:
    """Removing the reader pauses the server, setting another replaces it; nothing remains registered after close."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        with socket.create_server(("127.0.0.1", 0)) as sock:
            number = sock.fileno()
            server = await loop.create_server(factory, sock=sock)
            assert loop.remove_reader(sock)
            assert not loop.remove_reader(sock)
            clients = [socket.create_connection(sock.getsockname()) for _ in range(3)]
            for _ in range(3):
                await asyncio.sleep(0)
            assert not made
            taken, _ = await asyncio.wait_for(loop.sock_accept(sock), 30)
            heard: asyncio.Future[None] = loop.create_future()
            loop.add_reader(number, lambda: heard.done() or heard.set_result(sock.accept()[0].close()))
            await asyncio.wait_for(heard, 30)
            server.close()
            assert not made
            for one in (taken, *clients):
                one.close()
            # Its number may be reused.
            near, far = socket.socketpair()
            near.setblocking(False)
            with near, far:
                assert near.fileno() == number
                assert not loop.remove_reader(near)
                far.send(b"x")
                assert await loop.sock_recv(near, 1) == b"x"

    twin(main())


def test_a_watch_does_not_count_as_a_reader_of_a_listening_socket() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        (sock,) = server.sockets
        uses: list[Callable[[], object]] = [
            lambda: loop.watch(sock, 1, print),
            lambda: loop.unwatch(sock),
            lambda: loop.add_writer(sock, print),
            lambda: loop.remove_writer(sock),
        ]
        for use in uses:
            with pytest.raises(RuntimeError, match="is used by transport <Listener"):
                use()
        _, client = await loop.create_connection(Recorder, *sock.getsockname())
        await client.until(lambda: True)
        client.transport.abort()
        await client.lost
        server.close()

    corenet.run(main())


def test_no_wake_up_is_lost_between_threads() -> None:
    """The gap between the check of the inbox and the sleep: twenty thousand calls from four threads arrive in order."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        count = 5000
        heard: dict[int, list[int]] = {number: [] for number in range(4)}
        done = asyncio.Event()

        def hear(thread: int, value: int) -> None:
            heard[thread].append(value)
            if all(len(values) == count for values in heard.values()):
                done.set()

        def call(thread: int) -> None:
            for value in range(count):
                loop.call_soon_threadsafe(hear, thread, value)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 30)
        for thread in threads:
            thread.join()
        assert all(values == list(range(count)) for values in heard.values())

    corenet.run(main())


def test_calls_after_the_close_are_refused() -> None:
    loop = corenet.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)


# --- when the kernel refuses to register the rest --------------------------------------------------------------------


def full_pair() -> tuple[socket.socket, socket.socket]:
    """A pair whose first end cannot send at present."""
    left, right = socket.socketpair()
    for sock in (left, right):
        sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            left.send(bytes(65536))
    return left, right


class Broken:
    """The descriptor of `left` is closed in the batch that contains its event, before that is delivered."""

    def __init__(self, loop: Any, event: str) -> None:
        self.loop = loop
        self.reports: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: self.reports.append(context))
        self.left, self.right = socket.socketpair() if event == "write" else full_pair()
        self.left.setblocking(False)
        self.number = self.left.fileno()
        # Ready level-triggered entries are reported in the order in which they became ready.
        self.near, self.far = socket.socketpair()
        loop.watch(self.near, READ, self.close_it)
        self.far.send(b"x")

    def close_it(self, _events: int) -> None:
        self.loop.unwatch(self.near)
        os.close(self.left.detach())

    def end(self) -> None:
        for sock in (self.right, self.near, self.far):
            sock.close()


@pytest.mark.parametrize("event", ["read", "write"])
def test_a_remaining_waiter_that_cannot_be_registered_gets_the_error(event: str) -> None:
    """The waiter whose event arrived is woken, the other one gets the kernel's error: none waits forever."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        broken = Broken(loop, event)
        waiters = {side: loop.create_future() for side in ("read", "write")}
        for side in waiters:
            loop._wait_ready(broken.number, side == "write", waiters[side], None)
        if event == "read":
            broken.right.send(b"x")
        async with asyncio.timeout(30):
            await waiters.pop(event)
            for waiter in waiters.values():
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await waiter
        assert broken.reports == []
        assert not loop.remove_reader(broken.number) and not loop.remove_writer(broken.number)
        broken.end()

    corenet.run(main())


@pytest.mark.parametrize("event", ["read", "write"])
def test_a_remaining_callback_that_cannot_be_registered_is_removed(event: str) -> None:
    """The waiter is woken. Reader and writer of a closed descriptor end without a report, as on asyncio."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        broken = Broken(loop, event)
        waiter = loop.create_future()
        called: list[str] = []
        if event == "read":
            loop.add_writer(broken.number, called.append, "writer")
        else:
            loop.add_reader(broken.number, called.append, "reader")
        loop._wait_ready(broken.number, event == "write", waiter, None)
        if event == "read":
            broken.right.send(b"x")
        async with asyncio.timeout(30):
            await waiter
        await asyncio.sleep(0)
        assert called == []
        assert broken.reports == []
        assert not loop.remove_reader(broken.number) and not loop.remove_writer(broken.number)
        broken.end()

    corenet.run(main())


@pytest.mark.parametrize("add", ["add_reader", "wait"])
def test_a_refused_second_side_does_not_affect_the_first(add: str) -> None:
    """The descriptor is closed when the second waiter registers: both get an error."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = full_pair()
        number = left.fileno()
        waiter = loop.create_future()
        loop._wait_ready(number, True, waiter, None)
        os.close(left.detach())
        second = {
            "wait": lambda: loop._wait_ready(number, False, loop.create_future(), None),
            "add_reader": lambda: loop.add_reader(number, print),
        }[add]
        with pytest.raises(OSError, match="Bad file descriptor"):
            second()
        async with asyncio.timeout(30):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await waiter
        right.close()

    corenet.run(main())


def test_removing_one_side_of_a_closed_descriptor() -> None:
    """The removal itself does not fail; the other waiter gets the error."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = full_pair()
        number = left.fileno()
        waiter = loop.create_future()
        loop.add_reader(number, print)
        loop._wait_ready(number, True, waiter, None)
        os.close(left.detach())
        assert loop.remove_reader(number) is True
        async with asyncio.timeout(30):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await waiter
        right.close()

    corenet.run(main())


def kept_sides(reports: list[dict[str, Any]]) -> tuple[Any, socket.socket, socket.socket, list[str]]:
    """The running loop, a pair with reader and writer on its first socket, neither ready, and the calls made."""
    loop: Any = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    left, right = full_pair()
    called: list[str] = []
    loop.add_reader(left, called.append, "reader")
    loop.add_writer(left, called.append, "writer")
    return loop, left, right, called


@pytest.mark.parametrize("by", ["number", "object"])
@pytest.mark.parametrize("side", ["remove_reader", "remove_writer"])
def test_a_descriptor_closed_by_the_program_has_no_events(twin: Twin, side: str, by: str) -> None:
    """Then its reader or its writer is removed; asyncio raises here, and reports nothing either."""

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        loop, left, right, called = kept_sides(reports)
        target = left.fileno() if by == "number" else left
        left.close()
        with contextlib.suppress(OSError):
            assert getattr(loop, side)(target) is True
        for remove in (loop.remove_reader, loop.remove_writer):
            # A closed socket without a registration has no number.
            with contextlib.suppress(ValueError, OSError):
                remove(target)
        await asyncio.sleep(0)
        right.close()
        await asyncio.sleep(0)
        assert reports == [] and called == []

    twin(main())


def test_a_side_added_to_a_closed_descriptor_is_refused_without_a_report(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reports.append(context))
        left, right = socket.socketpair()
        number = left.fileno()
        loop.add_reader(left, print)
        left.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.add_writer(number, print)
        await asyncio.sleep(0)
        assert reports == []
        assert not loop.remove_reader(number) and not loop.remove_writer(number)
        right.close()

    twin(main())


def test_a_dropped_side_releases_its_references() -> None:
    """No reference to the socket or the callback of the dropped registration remains."""

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        loop, left, right, _ = kept_sides(reports)
        number = left.fileno()
        left.close()
        assert loop.remove_reader(number)
        gone = weakref.ref(left)
        del left
        assert gone() is None
        again, far = socket.socketpair()
        again.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.add_reader(number, print)
        far.close()
        right.close()

    corenet.run(main())


def test_a_reader_that_drops_the_writer_of_its_batch() -> None:
    """Both are ready at once; the reader's callback closes the descriptor and removes itself."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        number = left.fileno()
        called: list[str] = []

        def reader() -> None:
            called.append("reader")
            os.close(left.detach())
            loop.remove_reader(number)

        loop.add_reader(number, reader)
        loop.add_writer(number, called.append, "writer")
        right.send(b"x")
        async with asyncio.timeout(30):
            while not called:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert called == ["reader"]
        right.close()

    corenet.run(main())


def test_a_side_lost_for_other_reasons_is_reported_once() -> None:
    """The number is now that of the loop's own epoll descriptor, which the kernel refuses to register (EINVAL)."""

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        loop, left, right, _ = kept_sides(reports)
        number = left.fileno()
        tables = [int(name) for name in os.listdir("/proc/self/fdinfo") if watches(name, number)]
        assert len(tables) == 1
        os.dup2(tables[0], number)
        assert loop.remove_reader(number) is True
        assert [type(report["exception"]) for report in reports] == [OSError]
        assert not loop.remove_writer(number)
        left.close()
        right.close()

    corenet.run(main())


def watches(name: str, number: int) -> bool:
    """Whether the descriptor `name` is an epoll instance with an entry for `number`."""
    try:
        text = Path("/proc/self/fdinfo", name).read_text()
    except FileNotFoundError:
        return False  # the descriptor of the directory listing
    return any(line.split()[:2] == ["tfd:", str(number)] for line in text.splitlines())


@pytest.mark.parametrize("way", ["add_reader", "add_writer", "watch"])
@pytest.mark.parametrize("number", [1 << 20, 100_000_000, 2**31 - 2, 2**31 - 1])
def test_a_number_that_is_not_a_descriptor_uses_no_memory(loop_factory: Any, way: str, number: int) -> None:
    """The table grows with the number of descriptors, not with their numbers."""
    if way == "watch" and loop_factory is not corenet.new_event_loop:
        way = "add_reader"
    loop = loop_factory()
    tracemalloc.start()
    try:
        call = functools.partial(loop.watch, number, READ) if way == "watch" else functools.partial(
            getattr(loop, way), number
        )
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(print)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        heard: list[bytes] = []
        left, right = socket.socketpair()
        with left, right:
            right.send(b"x")
            loop.add_reader(left, lambda: (heard.append(left.recv(1)), loop.stop()))
            loop.run_forever()
            loop.remove_reader(left)
        assert heard == [b"x"]
    finally:
        tracemalloc.stop()
        loop.close()
