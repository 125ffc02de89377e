"""`loop.statistics()`: each counter counts what its name says, and slow callbacks are identified."""

import asyncio
import dataclasses
import gc
import socket
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, connected_pair
from support.waiting import turns, until

import corenet
from corenet import LoopStatistics
from corenet.core import READ
from corenet.loop import SlowCallback

# Seconds; longer than a busy machine takes the processor away from this process.
SLOW = 0.06


def block() -> None:
    """Block, as no callback should."""
    time.sleep(SLOW * 1.5)


def quick() -> None:
    """Do nothing."""


def one_turn(loop: corenet.Loop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


@pytest.fixture
def loop() -> Any:
    one = corenet.new_event_loop()
    one.slow_callback_duration = SLOW
    yield one
    one.close()


def slow(loop: corenet.Loop) -> list[tuple[str, bool]]:
    raw_statistics = loop.statistics()
    assert raw_statistics.slow_count >= len(raw_statistics.slow_callbacks)
    assert all(SLOW <= item.seconds < 10 for item in raw_statistics.slow_callbacks)
    return [(item.source, item.exact) for item in raw_statistics.slow_callbacks]


def test_statistics_are_immutable_and_complete(loop: corenet.Loop) -> None:
    raw_statistics = loop.statistics()
    assert isinstance(raw_statistics, LoopStatistics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        raw_statistics.iterations = 0  # type: ignore[misc]
    assert (raw_statistics.iterations, raw_statistics.callbacks, raw_statistics.ready, raw_statistics.timers) == (
        0,
        0,
        0,
        0,
    )
    assert (raw_statistics.run_seconds, raw_statistics.poll_seconds) == (0.0, 0.0)


def test_callbacks_timers_and_queue_depth_are_counted(loop: corenet.Loop) -> None:
    seen: list[LoopStatistics] = []
    loop.call_soon(lambda: seen.append(loop.statistics()))
    for _ in range(3):
        loop.call_soon(quick)
    loop.call_later(3600, quick)
    loop.call_later(3600, quick).cancel()
    before = loop.statistics()
    assert (before.ready, before.timers) == (4, 1)
    one_turn(loop)
    # The iteration that stops the loop runs its callbacks: four, and the stop.
    assert (seen[0].ready, seen[0].callbacks) == (4, 5)
    after = loop.statistics()
    assert (after.iterations, after.callbacks, after.ready, after.timers) == (1, 5, 0, 1)
    assert after.run_seconds > 0


def test_time_asleep_is_not_counted_as_work(loop: corenet.Loop) -> None:
    began, rounds = time.monotonic(), 0
    # A process that is stopped before it sleeps finds the timer due, and sleeps in a later round.
    while loop.statistics().poll_seconds < 0.04 and rounds < 1000:
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        rounds += 1
    took = time.monotonic() - began
    raw_statistics = loop.statistics()
    assert raw_statistics.poll_seconds >= 0.04
    assert 0 < raw_statistics.run_seconds <= took - raw_statistics.poll_seconds
    assert (raw_statistics.timers, raw_statistics.timers_fired) == (0, rounds)
    assert loop.statistics().run_seconds == raw_statistics.run_seconds


def test_descriptors_and_events_are_counted(loop: corenet.Loop) -> None:
    one, two = socket.socketpair()
    before = loop.statistics().descriptors
    watch = loop.watch(one, READ, lambda _events: one.recv(10))
    assert loop.statistics().descriptors == before + 1
    two.send(b"x")
    one_turn(loop)
    assert loop.statistics().events == 1
    assert loop.unwatch(watch)
    assert loop.statistics().descriptors == before
    one.close()
    two.close()


def test_a_wakeup_by_another_thread_is_counted() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        before = loop.statistics().wakeups
        # The loop sleeps meanwhile.
        await loop.run_in_executor(None, block)
        assert loop.statistics().wakeups >= before + 1

    corenet.run(main())


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_bytes_of_streams_are_counted(size: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        here, there, server = await connected_pair()
        before = loop.statistics()
        there.transport.write(b"x" * size)
        await here.until(lambda: len(here.data) == size)
        after = loop.statistics()
        assert after.bytes_sent - before.bytes_sent == size
        assert after.bytes_received - before.bytes_received == size
        for end in (here, there):
            end.transport.abort()
            await end.lost
        server.close()

    corenet.run(main())


def test_bytes_of_datagrams_are_counted() -> None:
    class Counter(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.done = asyncio.get_running_loop().create_future()
            self.left = 41

        def datagram_received(self, _data: bytes, _addr: Any) -> None:
            self.left -= 1
            if not self.left:
                self.done.set_result(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        there, counter = await loop.create_datagram_endpoint(Counter, local_addr=("127.0.0.1", 0))
        here, _ = await loop.create_datagram_endpoint(Counter, remote_addr=there.get_extra_info("sockname"))
        here.sendto(b"1234")
        here.send_many([(b"12", None)] * 40)
        await counter.done
        raw_statistics = loop.statistics()
        assert (raw_statistics.bytes_sent, raw_statistics.bytes_received) == (84, 84)
        here.close()
        there.close()

    corenet.run(main())


def test_bytes_of_the_sock_methods_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(70_000))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        sent = received = 0

        def check(out: int, into: int) -> None:
            nonlocal sent, received
            sent, received = sent + out, received + into
            raw_statistics = loop.statistics()
            assert (raw_statistics.bytes_sent, raw_statistics.bytes_received) == (sent, received)

        one, two = socket.socketpair()
        three, four = socket.socketpair(type=socket.SOCK_DGRAM)
        five, six = socket.socketpair(type=socket.SOCK_DGRAM)
        for sock in (one, two, three, four, five, six):
            sock.setblocking(False)
        room = bytearray(1 << 20)
        await loop.sock_sendall(one, b"12345")
        check(5, 0)
        assert await loop.sock_recv(two, 3) == b"123"
        check(0, 3)
        assert await loop.sock_recv(two, len(room)) == b"45"  # past the loop's own buffer
        check(0, 2)
        late = asyncio.ensure_future(loop.sock_recv_into(two, room))
        await asyncio.sleep(0)
        await loop.sock_sendall(one, b"late")
        assert await late == 4
        check(4, 4)
        big = asyncio.ensure_future(loop.sock_sendall(one, bytes(1 << 20)))  # in many calls
        left = 1 << 20
        while left:
            left -= len(await loop.sock_recv(two, 1 << 16))
        await big
        check(1 << 20, 1 << 20)
        with file.open("rb") as source:
            sending = asyncio.ensure_future(loop.sock_sendfile(one, source))
            left = 70_000
            while left:
                left -= len(await loop.sock_recv(two, 1 << 16))
            assert await sending == 70_000
        check(70_000, 70_000)
        await loop.sock_sendall(three, b"datagram")
        assert await loop.sock_recvfrom(four, 100) == (b"datagram", None)
        check(8, 8)
        await loop.sock_sendall(five, b"another")
        assert await loop.sock_recvfrom_into(six, room) == (7, None)
        check(7, 7)
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            udp.setblocking(False)
            assert await loop.sock_sendto(udp, b"to you", peer.getsockname()) == 6
        check(6, 0)
        for sock in (one, two, three, four, five, six):
            sock.close()

    corenet.run(main())


# --- slow callbacks ---------------------------------------------------------------------------------------------------


def test_a_slow_callback_alone_in_its_iteration_is_named_at_once(loop: corenet.Loop) -> None:
    loop.call_soon(block)
    loop.call_later(SLOW, loop.stop)
    loop.run_forever()
    [(source, exact)] = slow(loop)
    assert "block()" in source
    assert "test_statistics.py" in source
    assert exact


def test_a_slow_callback_among_others_is_named_at_its_second_time(loop: corenet.Loop) -> None:
    for _ in range(2):
        loop.call_soon(block)
        loop.call_soon(quick)
        loop.call_later(SLOW, loop.stop)
        loop.run_forever()
    [(first, certain), (second, known)] = slow(loop)
    assert "quick()" in first
    assert not certain
    assert "block()" in second
    assert known


def test_a_slow_task_is_named_with_its_coroutine() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        loop.slow_callback_duration = SLOW
        await turns()
        block()
        await turns()
        sources = [item.source for item in loop.statistics().slow_callbacks]
        assert len(sources) == 1
        assert "test_a_slow_task_is_named_with_its_coroutine" in sources[0]

    corenet.run(main())


@pytest.mark.parametrize("kind", ["reader", "watch"])
@pytest.mark.parametrize("again", [False, True])
def test_slow_readers_are_named_by_their_callback(loop: corenet.Loop, kind: str, again: bool) -> None:
    one, two = socket.socketpair()
    two.send(b"x")

    def slow_reader(*_events: int) -> None:
        one.recv(10)
        block()

    if again:
        loop.call_soon(block)
        loop.call_later(SLOW, loop.stop)
        loop.run_forever()
    if kind == "reader":
        loop.add_reader(one, slow_reader)
    else:
        loop.watch(one, READ, slow_reader)
    loop.call_later(SLOW, loop.stop)
    loop.run_forever()
    source, exact = slow(loop)[-1]
    assert "slow_reader()" in source
    assert exact
    assert len(slow(loop)) == (2 if again else 1)
    loop.remove_reader(one) if kind == "reader" else loop.unwatch(one)
    one.close()
    two.close()


def test_a_slow_transport_is_named_by_its_protocol() -> None:
    class Blocking(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            block()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        server = await loop.create_server(Blocking, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await until(lambda: server._active_count == 1, "the connection")
            loop.slow_callback_duration = SLOW
            client.send(b"x")
            await until(lambda: loop.statistics().slow_callbacks, "the slow callback")
        [item] = loop.statistics().slow_callbacks
        assert "Blocking object" in item.source
        assert item.exact
        server.close()
        await turns()

    corenet.run(main())


@pytest.mark.parametrize("kind", ["protocol", "callable", "watcher"])
def test_a_failing_repr_does_not_end_the_loop(loop: corenet.Loop, kind: str) -> None:
    """A slow callback is described by the program's ``__repr__``, outside of any callback."""
    called: list[bytes] = []

    class Nameless(asyncio.Protocol):
        def __repr__(self) -> str:
            raise ValueError("no words")

        def __call__(self, *_events: int) -> None:
            called.append(one.recv(10))
            block()

        def data_received(self, data: bytes) -> None:
            called.append(data)
            block()

    one, two = socket.socketpair()
    one.setblocking(False)
    transport: Any = None
    if kind == "protocol":
        transport, _ = loop.run_until_complete(loop.create_connection(Nameless, sock=one))
    elif kind == "callable":
        loop.add_reader(one, Nameless())
    else:
        loop.watch(one, READ, Nameless())
    two.send(b"x")
    loop.call_later(SLOW, loop.stop)
    loop.run_forever()
    two.send(b"y")
    loop.call_later(SLOW, loop.stop)
    loop.run_forever()
    assert called == [b"x", b"y"]
    assert len(slow(loop)) == 2
    assert "Nameless" in slow(loop)[0][0] or "ValueError" in slow(loop)[0][0]
    if kind == "protocol":
        transport.abort()
        one_turn(loop)
    elif kind == "callable":
        loop.remove_reader(one)
    else:
        loop.unwatch(one)
    one.close()
    two.close()


def test_in_debug_mode_a_slow_callback_is_logged_and_counted_once(
    loop: corenet.Loop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.set_debug(True)
    for _ in range(2):
        loop.call_soon(block)
        loop.call_soon(quick)
        loop.call_later(SLOW, loop.stop)
        loop.run_forever()
    assert [("block()" in source, exact) for source, exact in slow(loop)] == [(True, True)] * 2
    assert caplog.text.count("Executing <Handle block()") == 2


def test_fast_and_sleeping_iterations_are_not_slow(loop: corenet.Loop) -> None:
    loop.call_later(SLOW * 3, loop.stop)
    loop.run_forever()
    time.sleep(SLOW * 2)
    one_turn(loop)
    assert slow(loop) == []


def test_only_the_latest_are_kept_and_hold_no_references(loop: corenet.Loop) -> None:
    class Held:
        def work(self) -> None:
            time.sleep(0.0011)

    loop.slow_callback_duration = 0.001
    held = Held()
    gone = weakref.ref(held)
    for _ in range(40):
        loop.call_soon(held.work)
        one_turn(loop)
    raw_statistics = loop.statistics()
    assert raw_statistics.slow_count >= 40
    assert len(raw_statistics.slow_callbacks) == 32
    assert isinstance(raw_statistics.slow_callbacks[0], SlowCallback)
    del held
    gc.collect()
    assert gone() is None


def test_the_last_callback_of_an_iteration_is_released_before_the_loop_sleeps() -> None:
    class Held:
        def work(self) -> None:
            """Do nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = Held()
        gone = weakref.ref(held)
        loop.call_soon(held.work)
        del held
        await asyncio.sleep(0.001)
        assert gone() is None

    corenet.run(main())
