"""`loop.watch`: each registration mode, ownership of descriptors, exceptions, and stale numbers.

No loop of the standard library has it, so there is no comparison; the kernel's rules are in epoll(7) and epoll_ctl(2).
"""

import asyncio
import contextvars
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder

import corenet
from corenet.core import EDGE, EXCLUSIVE, HANGUP, LEVEL, ONESHOT, PEER_CLOSED, READ, WRITE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def loop() -> Iterator[corenet.Loop]:
    one = corenet.new_event_loop()
    yield one
    one.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


def turn(loop: corenet.Loop, times: int = 1) -> None:
    """Whole iterations, each with a poll."""
    for _ in range(times):
        loop.stop()
        loop.run_forever()


# --- modes ------------------------------------------------------------------------------------------------------------


def test_level_triggered_events_repeat_until_the_data_is_read(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[int] = []
    watch = loop.watch(pair[0], READ, seen.append)
    assert (watch.fd, watch.mode, watch.active) == (pair[0].fileno(), LEVEL, True)
    pair[1].send(b"x")
    turn(loop, 3)
    assert seen == [READ] * 3
    pair[0].recv(1)
    turn(loop)
    assert len(seen) == 3


def test_edge_triggered_events_report_arrivals_only(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[int] = []
    loop.watch(pair[0].fileno(), READ, seen.append, EDGE)
    pair[1].send(b"x")
    turn(loop, 3)
    assert len(seen) == 1
    # The data was not read, and new data is a new edge.
    pair[1].send(b"y")
    turn(loop, 3)
    assert len(seen) == 2


def test_rearming_an_edge_reports_unread_data(loop: corenet.Loop, pair: Pair) -> None:
    """The remedy for a lost wake-up: unread data and no new arrival."""
    seen: list[int] = []
    watch = loop.watch(pair[0], READ, seen.append, EDGE)
    pair[1].send(b"x")
    turn(loop, 2)
    watch.rearm(READ)
    turn(loop, 2)
    assert seen == [READ, READ]
    watch.rearm(READ | WRITE)
    turn(loop, 2)
    assert seen[2:] == [READ | WRITE]


def test_an_edge_is_reported_for_data_that_arrived_before(loop: corenet.Loop, pair: Pair) -> None:
    pair[1].send(b"x")
    seen: list[int] = []
    loop.watch(pair[0], READ, seen.append, EDGE)
    turn(loop, 2)
    assert seen == [READ]


def test_a_oneshot_fires_once_until_it_is_rearmed(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[int] = []
    watch = loop.watch(pair[0], READ, seen.append, ONESHOT)
    pair[1].send(b"x")
    turn(loop, 2)
    assert seen == [READ]
    watch.rearm(WRITE)
    turn(loop, 2)
    assert seen == [READ, WRITE]
    assert watch.active


def test_oneshot_can_be_rearmed_from_its_callback(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[bytes] = []

    def readable(_events: int) -> None:
        seen.append(pair[0].recv(1))
        watch.rearm(READ)

    watch = loop.watch(pair[0], READ, readable, ONESHOT | EDGE)
    pair[1].send(b"abc")
    turn(loop, 4)
    assert seen == [b"a", b"b", b"c"]


def test_hangup_and_end_of_the_peer_are_reported(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[int] = []
    loop.watch(pair[0], READ | PEER_CLOSED, seen.append, ONESHOT)
    pair[1].send(b"last words")
    pair[1].close()
    turn(loop)
    assert seen == [READ | PEER_CLOSED | HANGUP]
    # All three at once: what was sent before is still there to be read.
    assert pair[0].recv(100) == b"last words"


def accept_in_child(listener: socket.socket, requests: int, mode: int) -> None:
    """Accept in a loop of this process until a byte arrives, and send each client this process's number."""
    loop = corenet.new_event_loop()
    listener.setblocking(False)

    def readable(_events: int) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.send(b"%d" % os.getpid())
        connection.close()

    loop.watch(listener, READ, readable, mode)
    loop.watch(requests, READ, lambda _events: loop.stop())
    os.write(requests, b"+")
    loop.run_forever()
    loop.close()


def state_of(pid: int) -> tuple[bool, int]:
    """Whether a process is asleep, and how often it has gone to sleep."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return status["State"].split()[0] == "S", int(status["voluntary_ctxt_switches"])


def sleeps_of_two_processes(mode: int, connections: int) -> int:
    """How often two processes go to sleep during some connections, each made while both are asleep."""
    children: list[tuple[int, socket.socket]] = []

    def both_asleep() -> int:
        while True:
            states = [state_of(pid) for pid, _ in children]
            if all(asleep for asleep, _ in states):
                return sum(count for _, count in states)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            mine, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                try:
                    accept_in_child(listener, theirs.fileno(), mode)
                finally:
                    os._exit(0)
            theirs.close()
            mine.settimeout(30)
            assert mine.recv(1) == b"+"
            children.append((pid, mine))
        before = both_asleep()
        for _ in range(connections):
            both_asleep()
            with socket.create_connection(listener.getsockname(), 10) as client:
                assert int(client.recv(20)) in [pid for pid, _ in children]
        after = both_asleep()
        for pid, mine in children:
            mine.send(b"?")
            os.waitpid(pid, 0)
            mine.close()
    return after - before


def test_exclusive_wakes_one_process_of_two() -> None:
    """A level-triggered listener in two loops wakes both for each connection, an exclusive one wakes one."""
    assert sleeps_of_two_processes(EXCLUSIVE, 20) <= 25
    assert sleeps_of_two_processes(LEVEL, 20) >= 35


def test_exclusive_in_two_loops(loop: corenet.Loop) -> None:
    other = corenet.new_event_loop()
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def accept(_events: int) -> None:
            seen.append(1)
            listener.accept()[0].close()

        watches = [one.watch(listener, READ, accept, EXCLUSIVE | EDGE) for one in (loop, other)]
        with socket.create_connection(listener.getsockname()):
            turn(loop)
            turn(other)
        assert seen == [1]
        with pytest.raises(ValueError, match="an exclusive watch cannot be changed"):
            watches[0].rearm(READ)
        # It can be removed and registered again.
        assert loop.unwatch(watches[0])
        loop.watch(listener, READ, accept, EXCLUSIVE)
        with socket.create_connection(listener.getsockname()):
            turn(loop)
        assert seen == [1, 1]
        loop.unwatch(listener)
        other.unwatch(listener)
    other.close()


@pytest.mark.parametrize(
    ("events", "mode", "kind", "words"),
    [
        (0, LEVEL, ValueError, "events must be"),
        (1 << 20, LEVEL, ValueError, "events must be"),
        (READ, 8, ValueError, "unknown mode"),
        (READ, ONESHOT | EXCLUSIVE, ValueError, "cannot be combined"),
        (READ | PEER_CLOSED, EXCLUSIVE, ValueError, "supports only READ and WRITE"),
    ],
)
def test_modes_that_the_kernel_does_not_support_are_refused(
    loop: corenet.Loop, pair: Pair, events: int, mode: int, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        loop.watch(pair[0], events, print, mode)
    assert loop.unwatch(pair[0]) is False


def test_files_that_cannot_be_watched_are_refused(loop: corenet.Loop, pair: Pair) -> None:
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        loop.watch(file, READ, print)
    with pytest.raises(TypeError, match="callable"):
        loop.watch(pair[0], READ, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        loop.watch(-1, READ, print)
    with pytest.raises(ValueError, match="Invalid file object"):
        loop.watch("stdin", READ, print)
    number = os.dup(pair[0].fileno())
    os.close(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.watch(number, READ, print)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.watch(pair[0], READ, print)
    assert loop.unwatch(pair[0]) is False


# --- ownership of descriptors -----------------------------------------------------------------------------------------


def test_a_second_watch_replaces_the_first(loop: corenet.Loop, pair: Pair) -> None:
    seen: list[str] = []
    first = loop.watch(pair[0], READ, lambda _events: seen.append("first"), EDGE)
    second = loop.watch(pair[0], READ, lambda _events: seen.append("second"), EXCLUSIVE)
    pair[1].send(b"x")
    turn(loop)
    assert seen == ["second"]
    assert (first.active, second.active) == (False, True)
    assert "removed" in repr(first)
    assert "exclusive" in repr(second)
    with pytest.raises(ValueError, match="no longer watched"):
        first.rearm(READ)
    assert loop.unwatch(first) is False
    assert loop.unwatch(second) is True
    assert loop.unwatch(second) is False


def test_descriptors_of_readers_and_transports_are_refused(loop: corenet.Loop, pair: Pair) -> None:
    loop.add_reader(pair[0], print)
    with pytest.raises(RuntimeError, match="is used by a reader or writer"):
        loop.watch(pair[0], READ, print)
    with pytest.raises(RuntimeError, match="is used by a reader or writer"):
        loop.unwatch(pair[0])
    loop.remove_reader(pair[0])
    watch = loop.watch(pair[0], READ, print)
    with pytest.raises(RuntimeError, match="is used by <Watch"):
        loop.add_reader(pair[0], print)
    loop.unwatch(watch)

    async def main() -> None:
        transport, recorder = await loop.create_connection(Recorder, sock=pair[0])
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.watch(transport.get_extra_info("socket"), READ, print)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.unwatch(transport.get_extra_info("socket").fileno())
        pair[1].send(b"still here")
        await recorder.until(lambda: bytes(recorder.data) == b"still here")
        transport.close()
        await recorder.lost

    loop.run_until_complete(main())


def test_a_descriptor_closed_without_unwatch(loop: corenet.Loop) -> None:
    """The number is reused: by another watch, a reader and a transport; nothing of the old watch is left."""
    wrong: list[int] = []

    def reopened(number: int | None) -> Pair:
        one, two = socket.socketpair()
        assert number is None or number == one.fileno()
        one.setblocking(False)
        return one, two

    one, two = reopened(None)
    number = one.fileno()
    loop.watch(one, READ, wrong.append)
    one.close()
    again, peer = reopened(number)
    seen: list[int] = []
    watch = loop.watch(again, READ, seen.append)
    peer.send(b"x")
    turn(loop)
    assert seen == [READ]
    again.close()
    peer.close()

    again, peer = reopened(number)
    loop.add_reader(again, seen.append, 99)
    assert not watch.active
    peer.send(b"x")
    turn(loop)
    assert seen == [READ, 99]
    loop.remove_reader(again)
    loop.watch(again, READ, wrong.append)
    again.close()
    peer.close()

    again, peer = reopened(number)

    async def main() -> None:
        transport, recorder = await loop.create_connection(Recorder, sock=again)
        peer.send(b"data")
        await recorder.until(lambda: bytes(recorder.data) == b"data")
        transport.close()
        await recorder.lost

    loop.run_until_complete(main())
    assert wrong == []
    for sock in (two, peer):
        sock.close()


def test_an_event_for_a_number_reused_within_the_batch_is_dropped(loop: corenet.Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    wrong: list[int] = []
    fresh: list[socket.socket] = []

    def first(index: int) -> None:
        victim = pairs[1 - index][0]
        number = victim.fileno()
        loop.unwatch(victim)
        victim.close()
        fresh.extend(socket.socketpair())
        assert fresh[0].fileno() == number
        loop.watch(fresh[0], READ, wrong.append)

    for index, (one, two) in enumerate(pairs):
        loop.watch(one, READ, lambda _events, index=index: first(index), ONESHOT)
        two.send(b"x")
    turn(loop, 2)
    assert wrong == []
    assert loop.statistics().stale_events == 1
    loop.unwatch(fresh[0])
    for sock in (*pairs[0], *pairs[1], *fresh):
        sock.close()


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_the_callback_runs_in_the_context_of_the_registration(loop: corenet.Loop, pair: Pair) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    def readable(_events: int) -> None:
        seen.append(variable.get())
        variable.set("changed")
        pair[0].recv(1)

    context = contextvars.copy_context()
    context.run(variable.set, "registered")
    context.run(loop.watch, pair[0], READ, readable)
    for _ in range(2):
        pair[1].send(b"x")
        turn(loop)
    assert seen == ["registered", "changed"]
    assert variable.get() == "outside"


def test_an_exception_is_reported_and_other_watches_continue(loop: corenet.Loop, pair: Pair) -> None:
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    seen: list[int] = []

    def failing(_events: int) -> None:
        raise LookupError

    loop.watch(pair[0], WRITE, failing)
    loop.watch(pair[1], WRITE, seen.append)
    turn(loop, 2)
    assert [type(context["exception"]) for context in reported] == [LookupError] * 2
    assert str(pair[0].fileno()) in reported[0]["message"]
    assert len(seen) == 2


def test_system_exit_leaves_the_loop_and_loses_no_event(loop: corenet.Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def leaving(_events: int) -> None:
        seen.append(0)
        raise SystemExit(3)

    for one, two in pairs:
        loop.watch(one, READ, leaving, ONESHOT)
        two.send(b"x")
    for _ in pairs:
        with pytest.raises(SystemExit):
            turn(loop)
    assert seen == [0, 0]
    for one, two in pairs:
        one.close()
        two.close()


def test_watches_work_beside_asyncio_readers(pair: Pair) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        done = loop.create_future()

        def readable(_events: int) -> None:
            done.set_result(pair[0].recv(100))
            assert loop.unwatch(watch)

        watch = loop.watch(pair[0], READ, readable, EDGE)
        pair[1].send(b"hello")
        assert await asyncio.wait_for(done, 30) == b"hello"

    corenet.run(main())
