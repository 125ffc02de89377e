"""Forks and subinterpreters: a child does not disturb its parent, and can start its own new loop."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory
from support.waiting import turns, until

import corenet
from corenet.core import ONESHOT, READ, WRITE
from corenet.core.poller import loops_awake

__all__ = ["loop_factory"]

Factory = Callable[[], asyncio.AbstractEventLoop]

# Python 3.12 and later warn of a fork while other threads are alive; here they do no harm.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork and return the child's pid; the exit code is not 0 when it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a child of a test must never continue as a second test run
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_no_loop_runs_in_the_child_and_a_new_one_works(loop_factory: Factory) -> None:
    async def quick() -> int:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.send(b"x")
        assert await asyncio.get_running_loop().sock_recv(left, 1) == b"x"
        left.close()
        right.close()
        # Timers work too.
        await asyncio.sleep(0.001)
        return 5

    def child() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(quick()) == 5

    async def main() -> None:
        ended_well(in_child(child))
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_the_child_removes_no_registration_of_its_parent() -> None:
    """Both sides share one epoll instance, so a removal in the child would be one in the parent."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        heard: asyncio.Future[bytes] = loop.create_future()
        with left, right:
            loop.add_reader(left, lambda: heard.done() or heard.set_result(left.recv(10)))

            def child() -> None:
                assert loop.remove_reader(left) is True
                loop.close()
                assert loop.is_closed()

            ended_well(in_child(child))
            right.send(b"still here")
            assert await asyncio.wait_for(heard, 30) == b"still here"
            loop.remove_reader(left)

    corenet.run(main())


def test_the_child_may_run_the_inherited_loop() -> None:
    loop = corenet.new_event_loop()
    left, right = socket.socketpair()
    heard: list[bytes] = []

    def on_readable() -> None:
        heard.append(left.recv(10))
        loop.stop()

    loop.add_reader(left, on_readable)

    def child() -> None:
        right.send(b"mine")
        loop.call_soon_threadsafe(lambda: None)
        loop.run_forever()
        assert heard == [b"mine"]
        loop.close()

    ended_well(in_child(child))
    right.send(b"parent's")
    loop.run_forever()
    assert heard == [b"parent's"]
    loop.close()
    left.close()
    right.close()


def test_a_child_of_a_callback_sends_its_own_writes_only(loop_factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with right:
            right.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            await asyncio.sleep(0)
            ended_well(in_child(lambda: transport.write(b"child's, ")))
            assert right.recv(100) == b"child's, "
            transport.write(b"parent's")
            ended_well(in_child(lambda: None))
            await asyncio.sleep(0)
            assert right.recv(100) == b"parent's"
            transport.close()
            await turns()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_the_child_has_its_own_wake_ups() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = loop.statistics().wakeups

        def child() -> None:
            for _ in range(10):
                loop.call_soon_threadsafe(print)

        ended_well(in_child(child))
        await turns()
        assert loop.statistics().wakeups == before

    corenet.run(main())


def test_a_signal_to_the_child_does_not_reach_the_parent() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        heard: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)

        def child() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0)

        ended_well(in_child(child))
        await turns()
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: heard, "the signal")
        loop.remove_signal_handler(signal.SIGUSR1)

    corenet.run(main())


def test_many_forks_leave_no_descriptor_open() -> None:
    def child() -> None:
        before = len(os.listdir("/proc/self/fd"))
        corenet.run(asyncio.sleep(0))
        assert len(os.listdir("/proc/self/fd")) == before

    loop = corenet.new_event_loop()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ended_well(in_child(child))
    assert len(os.listdir("/proc/self/fd")) == before
    loop.close()


def ended_by_closing(loop: asyncio.AbstractEventLoop) -> bool:
    """Run `loop`; returns whether it ended because it was closed, which only the child of a fork can do."""
    try:
        loop.run_forever()
    except RuntimeError as error:
        return str(error) == "Event loop is closed"
    return False


def place_soon(loop: Any, callback: Callable[[], object]) -> None:
    loop.call_soon(callback)


def place_timer(loop: Any, callback: Callable[[], object]) -> None:
    loop.call_at(loop.time(), callback)


def place_threadsafe(loop: Any, callback: Callable[[], object]) -> None:
    loop.call_soon_threadsafe(callback)


@pytest.mark.parametrize("place", [place_soon, place_timer, place_threadsafe])
@pytest.mark.parametrize("behind", [0, 1, 70, 1500])
def test_a_callback_that_forks_and_whose_child_closes_the_loop(
    place: Callable[[Any, Callable[[], object]], None], behind: int
) -> None:
    """The child is in an iteration whose other callbacks are removed; its run ends and does not crash."""
    loop = corenet.new_event_loop()
    ran: list[int] = []
    pids: list[int] = []

    def fork() -> None:
        pids.append(os.fork())
        if not pids[0]:
            loop.close()

    code = 1
    try:
        place(loop, fork)
        for number in range(behind):
            place(loop, lambda number=number: ran.append(number))  # type: ignore[misc]
        place(loop, loop.stop)
        assert ended_by_closing(loop) is not bool(pids[0])
        assert len(ran) == (behind if pids[0] else 0)
        code = 0
    except BaseException:  # noqa: BLE001 - neither side may be taken for the other
        traceback.print_exc()
    finally:
        if not pids[0]:
            os._exit(code)
    assert code == 0
    ended_well(pids[0])
    loop.close()


@pytest.mark.parametrize("kind", ["reader", "watch", "protocol"])
def test_a_descriptors_callback_that_forks_and_whose_child_closes_the_loop(kind: str) -> None:
    loop: Any = corenet.new_event_loop()
    pairs = [socket.socketpair() for _ in range(5)]
    pids: list[int] = []
    called: list[int] = []

    def fork(number: int) -> None:
        called.append(number)
        if not pids:
            pids.append(os.fork())
            if not pids[0]:
                loop.close()
        if len(called) == len(pairs):
            loop.stop()

    class Forking(asyncio.Protocol):
        def __init__(self, number: int) -> None:
            self.number = number

        def data_received(self, data: bytes) -> None:
            fork(self.number)

    transports: list[Any] = []
    for number, (left, _) in enumerate(pairs):
        left.setblocking(False)
        if kind == "reader":
            loop.add_reader(left, lambda number=number, left=left: (left.recv(10), fork(number)))
        elif kind == "watch":
            loop.watch(left, 1, lambda _events, number=number, left=left: (left.recv(10), fork(number)))
        else:
            made = loop.create_connection(lambda number=number: Forking(number), sock=left)
            transports.append(loop.run_until_complete(made)[0])
    for _, right in pairs:
        right.send(b"x")
    code = 1
    try:
        assert ended_by_closing(loop) is not bool(pids[0])
        assert len(called) == (5 if pids[0] else 1)
        code = 0
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        if not pids[0]:
            os._exit(code)
    assert code == 0
    ended_well(pids[0])
    for left, right in pairs:
        if kind == "reader":
            loop.remove_reader(left)
        elif kind == "watch":
            loop.unwatch(left)
        left.close()
        right.close()
    for transport in transports:
        transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


@pytest.mark.parametrize("place", [place_soon, place_timer])
def test_a_child_that_runs_the_inherited_loop_in_the_callback_that_forked(
    place: Callable[[Any, Callable[[], object]], None]
) -> None:
    """The inner run takes the callbacks that the outer one was about to run: each runs once; the outer continues."""
    loop = corenet.new_event_loop()
    ran: list[int] = []
    pids: list[int] = []

    def fork() -> None:
        pids.append(os.fork())
        if not pids[0]:
            loop.call_soon(loop.stop)
            loop.run_forever()
            assert ran == list(range(300))
            loop.call_soon(loop.stop)

    code = 1
    try:
        place(loop, fork)
        for number in range(300):
            place(loop, lambda number=number: ran.append(number))  # type: ignore[misc]
        place(loop, loop.stop)
        loop.run_forever()
        assert ran == list(range(300))
        code = 0
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        if not pids[0]:
            os._exit(code)
    assert code == 0
    ended_well(pids[0])
    loop.close()


def test_a_fork_with_every_descriptor_in_use() -> None:
    """The child's own epoll, eventfd and socket pair get the inherited numbers, also when no other number is free."""
    loop: Any = corenet.new_event_loop()
    left, right = socket.socketpair()
    heard: list[bytes] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop.call_soon_threadsafe(loop.stop)
        loop.run_forever()
        assert loop.remove_reader(left)
        loop.close()

    try:
        loop.add_reader(left, lambda: (heard.append(left.recv(10)), loop.stop()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        pid = in_child(child)
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ended_well(pid)
    right.send(b"parent's")
    loop.run_forever()
    assert heard == [b"parent's"]
    loop.remove_reader(left)
    loop.close()
    left.close()
    right.close()


def turn(loop: Any, times: int = 1) -> None:
    """Whole iterations, each with a poll."""
    for _ in range(times):
        loop.stop()
        loop.run_forever()


def both_sides(loop: Any, work: Callable[[], None]) -> None:
    """Run `work` here, in which a callback forks; it returns which of child and parent this is."""
    parent = os.getpid()
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        if os.getpid() != parent:
            os._exit(code)
    assert code == 0
    loop.close()


def test_a_fired_oneshot_stays_disarmed_in_the_child() -> None:
    loop: Any = corenet.new_event_loop()
    left, right = socket.socketpair()
    seen: list[int] = []
    with left, right:
        watch = loop.watch(left, READ, seen.append, ONESHOT)
        right.send(b"x")
        turn(loop, 2)
        assert seen == [READ]

        def child() -> None:
            turn(loop, 2)
            assert seen == [READ] and watch.active
            # Not even a hang-up, which an armed registration always reports.
            right.shutdown(socket.SHUT_RDWR)
            turn(loop, 2)
            assert seen == [READ]
            watch.rearm(WRITE)
            turn(loop, 2)
            assert len(seen) == 2 and seen[1] & WRITE
            assert loop.unwatch(watch)

        ended_well(in_child(child))
        # Rearmed, it has not fired.
        watch.rearm(WRITE)
        ended_well(in_child(lambda: turn(loop, 2)))
        turn(loop)
        assert len(seen) == 2
    loop.close()


def test_a_fired_oneshot_does_not_count_as_closed() -> None:
    """In neither process is the descriptor given to a reader before it is closed and the number reused."""
    loop: Any = corenet.new_event_loop()
    left, right = socket.socketpair()
    seen: list[int] = []
    loop.watch(left, READ, seen.append, ONESHOT)
    right.send(b"x")
    turn(loop, 2)

    def refused() -> None:
        with pytest.raises(RuntimeError, match="is used by"):
            loop.add_reader(left, print)

    def child() -> None:
        refused()
        number = left.fileno()
        left.close()
        again, far = socket.socketpair()
        assert again.fileno() == number
        loop.add_reader(again, seen.append, -1)
        far.send(b"y")
        turn(loop, 2)
        assert seen[:2] == [READ, -1]

    refused()
    ended_well(in_child(child))
    refused()
    assert seen == [READ]
    loop.close()
    left.close()
    right.close()


@pytest.mark.parametrize("close", ["loop", "transport"])
def test_a_child_that_closes_the_loop_does_not_touch_its_parents_subprocesses(close: str) -> None:
    """A process started by the parent, as seen by the child of a fork: it is not a child of that one."""
    loop: Any = corenet.new_event_loop()
    process: Any = loop.run_until_complete(asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE))

    def child() -> None:
        if close == "transport":
            process._transport.close()
        loop.close()

    ended_well(in_child(child))
    assert process._transport._proc.poll() is None
    loop.run_until_complete(asyncio.wait_for(process.communicate(b""), 30))
    assert process.returncode == 0
    loop.close()


@pytest.mark.parametrize("who", ["watch", "waiter"])
def test_a_oneshot_in_the_batch_fires_once_in_parent_and_child(who: str) -> None:
    loop: Any = corenet.new_event_loop()
    pairs = [socket.socketpair() for _ in range(3)]
    seen: list[int] = []
    pids: list[int] = []

    def on_ready(number: int) -> None:
        seen.append(number)
        if not pids:
            pids.append(os.fork())

    def work() -> None:
        for number, (left, right) in enumerate(pairs):
            left.setblocking(False)
            if who == "watch" or number == 0:
                loop.watch(left, READ, lambda _events, number=number: on_ready(number), ONESHOT)
            else:
                future = loop.create_future()
                future.add_done_callback(lambda _future, number=number: on_ready(number))
                loop._wait_ready(left.fileno(), False, future, None)
            right.send(b"x")
        for _ in range(5):
            # In the child the run ends with the callback that forks, and is started again.
            turn(loop)
        assert sorted(seen) == [0, 1, 2]

    both_sides(loop, work)
    ended_well(pids[0])
    for left, right in pairs:
        left.close()
        right.close()


def test_no_loop_of_the_parent_counts_as_awake_in_the_child() -> None:
    before = loops_awake()

    async def main() -> None:
        assert loops_awake() == before + 1

        def child() -> None:
            assert loops_awake() == 0
            corenet.run(inner())
            assert loops_awake() == 0

        async def inner() -> None:
            assert loops_awake() == 1

        ended_well(in_child(child))
        assert loops_awake() == before + 1

    corenet.run(main())
    assert loops_awake() == before


def test_a_run_that_a_child_leaves_is_counted_once() -> None:
    loop: Any = corenet.new_event_loop()
    before = loops_awake()
    pids: list[int] = []

    def work() -> None:
        loop.call_soon(lambda: (pids.append(os.fork()), loop.stop()))
        loop.run_forever()
        assert loops_awake() == (before if pids[0] else 0)

    both_sides(loop, work)
    ended_well(pids[0])


@pytest.mark.parametrize("own_gil", [True, False])
def test_subinterpreters_are_refused_with_an_import_error(own_gil: bool) -> None:
    """Extension types exist once in a process; loading them twice must be an ImportError and not a crash."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    create = {
        (True, True): "create('isolated')", (True, False): "create('legacy')",
        (False, True): "create(isolated=True)", (False, False): "create(isolated=False)",
    }[sys.version_info >= (3, 13), own_gil]
    program = f"""
import sys
import {name} as interpreters
for _ in range(2):
    inner = interpreters.{create}
    interpreters.run_string(inner, '''
import sys
try:
    import corenet
except ImportError as error:
    print("refused:", error, flush=True)
else:
    print("taken", flush=True)
''')
    interpreters.destroy(inner)
import corenet, asyncio
corenet.run(asyncio.sleep(0))
print("main works", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("refused: ") and "interpreter" in line for line in lines[:2])
    assert lines[2] == "main works"


BIG = bytes(8_000_000)


class Told(asyncio.Protocol):
    """Records pause_writing and resume_writing."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, _error: BaseException | None) -> None:
        self.calls.append("lost")


async def full_stream(closing: bool) -> tuple[Any, Told, Callable[[], None]]:
    ours, peer = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(Told, sock=ours)
    transport.write(BIG)
    if closing:
        transport.close()
    return transport, protocol, peer.close


async def full_pipe(closing: bool) -> tuple[Any, Told, Callable[[], None]]:
    reader, writer = os.pipe()
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(Told, os.fdopen(writer, "wb", 0))
    transport.write(BIG)
    if closing:
        transport.close()
    return transport, protocol, lambda: os.close(reader)


async def full_datagrams(closing: bool) -> tuple[Any, Told, Callable[[], None]]:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Told, sock=ours)  # type: ignore[type-var]
    for _ in range(200):
        transport.sendto(bytes(2000))
    if closing:
        transport.close()
    return transport, protocol, peer.close


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("make", [full_stream, full_pipe, full_datagrams])
def test_a_paused_protocol_may_write_in_the_child_whose_queue_is_empty(make: Any, closing: bool) -> None:
    loop = corenet.new_event_loop()
    transport, protocol, close_peer = loop.run_until_complete(make(closing))
    expected = ["pause", "lost"] if closing else ["pause", "resume"]
    if make is full_datagrams and not closing:
        # Bytes in the kernel's buffer are not in a queue of the transport.
        transport.set_write_buffer_limits(high=100)
    assert protocol.calls == ["pause"]
    pids: list[int] = []

    def fork() -> None:
        pids.append(os.fork())
        if pids[0]:
            loop.call_soon(loop.stop)
            return
        code = 1
        try:
            assert protocol.calls == ["pause"]
            assert transport.get_write_buffer_size() == 0
            for _ in range(3):
                loop.call_soon(loop.stop)
                loop.run_forever()
            assert protocol.calls == expected, protocol.calls
            code = 0
        except BaseException:  # noqa: BLE001 - as above
            traceback.print_exc()
        finally:
            os._exit(code)

    loop.call_soon(fork)
    loop.run_forever()
    ended_well(pids[0])
    assert protocol.calls == ["pause"]
    assert transport.get_write_buffer_size()
    close_peer()
    transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


@pytest.mark.parametrize("kind", ["watch", "reader", "writer"])
def test_the_child_may_run_the_loop_inside_a_repeated_callback(kind: str) -> None:
    """The context is entered at that moment: entering it again fails, and the event would repeat forever."""
    loop: Any = corenet.new_event_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    left, right = socket.socketpair()
    left.setblocking(False)
    calls: list[int] = []

    def child() -> None:
        signal.alarm(90)
        loop.call_later(60, loop.stop)
        loop.run_forever()
        assert reports == []
        assert calls == [1, 1]

    def called(*_events: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            ended_well(in_child(child))
        loop.stop()

    if kind == "watch":
        loop.watch(left, READ, called)
        right.send(b"x")
    elif kind == "reader":
        loop.add_reader(left, called)
        right.send(b"x")
    else:
        loop.add_writer(left, called)
    loop.run_forever()
    assert calls == [1]
    assert reports == []
    loop.close()
    left.close()
    right.close()


def test_a_fork_in_resume_writing_leaves_the_end_to_the_parent() -> None:
    """The child returns from the callback with an empty queue, and must not end the direction that the parent uses."""
    loop: Any = corenet.new_event_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    part = bytes(1 << 22)
    pids: list[int] = []
    lost: list[BaseException | None] = []

    class Sender(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            transport.write(part)

        def resume_writing(self) -> None:
            if pids:
                return
            self.transport.write(part)
            self.transport.write_eof()
            pids.append(os.fork())
            if pids[0]:
                ended_well(pids[0])  # what it does to the socket is done before the queue is sent
            else:
                loop.close()

        def connection_lost(self, exc: BaseException | None) -> None:
            lost.append(exc)

    received = 0

    def read() -> None:
        nonlocal received
        data = peer.recv(1 << 20)
        received += len(data)
        if not data:
            loop.stop()

    async def begin() -> Any:
        return (await loop.create_connection(Sender, sock=ours))[0]

    code = 1
    try:
        transport = loop.run_until_complete(begin())
        loop.add_reader(peer, read)
        ended = ended_by_closing(loop)
        assert ended is not bool(pids[0])
        code = 0
    except BaseException:  # noqa: BLE001 - neither side may be taken for the other
        traceback.print_exc()
    finally:
        if pids and not pids[0]:
            os._exit(code)
    assert (code, received, lost) == (0, 2 * len(part), [])
    loop.remove_reader(peer)
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    assert lost == [None]
    peer.close()
    loop.close()
