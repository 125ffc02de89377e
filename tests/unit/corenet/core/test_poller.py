"""The poller's modes, events of reused descriptor numbers, and which loops count as awake."""

import os
import resource
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from corenet.core import EDGE, EXCLUSIVE, HANGUP, LEVEL, ONESHOT, READ, WRITE, Engine, Poller
from corenet.core.poller import loops_awake


@pytest.fixture
def poller() -> Iterator[Poller]:
    with Poller() as one:
        yield one


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


def test_level_triggered_events_repeat_while_there_is_data(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    events: list[int] = []
    poller.watch(pair[0].fileno(), READ, events.append, LEVEL)
    pair[1].send(b"ab")
    assert poller.wait(1) == 1
    assert poller.wait(0) == 1
    pair[0].recv(10)
    assert poller.wait(0) == 0
    assert events == [READ, READ]


def test_edge_triggered_events_report_only_new_data(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    events: list[int] = []
    poller.watch(pair[0].fileno(), READ, events.append, EDGE)
    pair[1].send(b"ab")
    assert poller.wait(1) == 1
    assert poller.wait(0) == 0
    pair[1].send(b"c")
    assert poller.wait(1) == 1


def test_a_oneshot_fires_once_until_it_is_rearmed(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    events: list[int] = []
    watch = poller.watch(pair[0].fileno(), READ, events.append, ONESHOT)
    pair[1].send(b"ab")
    assert poller.wait(1) == 1
    assert poller.wait(0) == 0
    watch.rearm(READ | WRITE)
    assert poller.wait(0) == 1
    assert events == [READ, READ | WRITE]


def test_exclusive_wakes_one_of_two_pollers(pair: tuple[socket.socket, socket.socket]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    with listener, Poller() as one, Poller() as two:
        for poller in (one, two):
            watch = poller.watch(listener.fileno(), READ, lambda _events: listener.accept()[0].close(), EXCLUSIVE)
            with pytest.raises(ValueError, match="exclusive"):
                watch.rearm(READ)
        with socket.create_connection(listener.getsockname()):
            assert one.wait(0) + two.wait(0) == 1


def test_a_second_watch_replaces_the_first(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    seen: list[str] = []
    first = poller.watch(pair[0].fileno(), READ, lambda _events: seen.append("first"))
    poller.watch(pair[0].fileno(), READ, lambda _events: seen.append("second"), EXCLUSIVE)
    pair[1].send(b"x")
    poller.wait(1)
    assert seen == ["second"]
    assert poller.unwatch(first) is False
    with pytest.raises(ValueError, match="no longer"):
        first.rearm(READ)
    assert poller.unwatch(pair[0].fileno()) is True
    assert poller.unwatch(pair[0].fileno()) is False


@pytest.mark.parametrize("second", [LEVEL, EDGE, ONESHOT, EXCLUSIVE, EXCLUSIVE | EDGE])
@pytest.mark.parametrize("first", [LEVEL, EDGE, ONESHOT, EXCLUSIVE, EXCLUSIVE | EDGE])
def test_each_mode_replaces_each(
    poller: Poller, pair: tuple[socket.socket, socket.socket], first: int, second: int
) -> None:
    """An exclusive entry cannot be changed in the kernel's table, nor can another become one."""
    seen: list[str] = []
    former = poller.watch(pair[0].fileno(), READ, lambda _events: seen.append("former"), first)
    watch = poller.watch(pair[0].fileno(), READ, lambda _events: seen.append("latter"), second)
    assert (former.active, watch.active, poller.registered) == (False, True, 1)
    pair[1].send(b"x")
    assert poller.wait(1) == 1
    assert seen == ["latter"]
    again = poller.wait(0)
    assert again == (second in (LEVEL, EXCLUSIVE))


def test_an_exclusive_entry_that_a_duplicate_descriptor_keeps(poller: Poller) -> None:
    """The number was closed without unwatch and reopened on the same open file, whose entry is still there."""
    one, two = socket.socketpair()
    number, keeper = one.fileno(), os.dup(one.fileno())
    with one, two:
        poller.watch(number, READ, lambda _events: None, EXCLUSIVE)
        os.close(number)
        assert poller.unwatch(number)
        os.dup2(keeper, number)
        seen: list[int] = []
        poller.watch(number, READ, seen.append)
        two.send(b"x")
        assert poller.wait(1) == 1
        assert seen == [READ]
        poller.unwatch(number)
    os.close(keeper)


def test_a_refused_watch_keeps_the_previous_one(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    seen: list[int] = []
    former = poller.watch(pair[0].fileno(), READ, seen.append, EXCLUSIVE)
    with pytest.raises(OSError, match="Invalid argument"):
        poller.watch(poller.fileno(), READ, seen.append)
    with pytest.raises(ValueError, match="cannot be combined"):
        poller.watch(pair[0].fileno(), READ, seen.append, EXCLUSIVE | ONESHOT)
    assert former.active
    pair[1].send(b"x")
    assert poller.wait(1) == 1
    assert seen == [READ]


def test_a_refused_watch_leaves_no_entry_without_a_watcher(poller: Poller) -> None:
    """The kernel's entry for a duplicate of a descriptor that was closed without unwatch is removed."""
    inner = select.epoll()
    number, keeper = inner.fileno(), os.dup(inner.fileno())
    poller.watch(number, READ, lambda _events: None)
    os.close(number)
    assert poller.unwatch(number)
    os.dup2(keeper, number)
    assert str(number) in entries(poller)
    # epoll_ctl(2), EPOLLEXCLUSIVE: not for an epoll descriptor.
    with pytest.raises(OSError, match="Invalid argument"):
        poller.watch(number, READ, lambda _events: None, EXCLUSIVE)
    assert entries(poller) == []
    assert poller.registered == 0
    inner.close()
    os.close(keeper)


def entries(poller: Poller) -> list[str]:
    """The descriptors in the kernel's table."""
    lines = Path(f"/proc/self/fdinfo/{poller.fileno()}").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("tfd:")]


# --- who counts as awake ----------------------------------------------------------------------------------------------


def waiting(poller: Poller) -> threading.Thread:
    """A thread that waits in `poller`, which it has begun when this returns."""
    thread = threading.Thread(target=poller.wait, args=(30,))
    thread.start()
    deadline = time.monotonic() + 30
    while poller.waits == 0:
        assert time.monotonic() < deadline, "the thread has not begun to wait"
        time.sleep(0)
    return thread


def test_a_poller_without_a_running_loop_is_not_counted(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    poller.watch(pair[0].fileno(), READ, lambda _events: pair[0].recv(1))
    before = loops_awake()
    thread = waiting(poller)
    try:
        assert loops_awake() == before
    finally:
        pair[1].send(b"x")
        thread.join(30)
    assert not thread.is_alive()
    assert loops_awake() == before
    for timeout in (0, 0.0001):
        poller.wait(timeout)
        assert loops_awake() == before


def test_a_loop_counts_as_awake_while_it_runs_and_does_not_sleep() -> None:
    engine, other = Engine(), Engine()
    before = loops_awake()
    seen: list[int] = []

    def inside() -> None:
        seen.append(loops_awake() - before)
        with Poller() as poller:
            poller.wait(0.0001)
        seen.append(loops_awake() - before)
        other.call_soon(lambda: seen.append(loops_awake() - before))
        other.stop()
        other.run()
        seen.append(loops_awake() - before)

    engine.call_soon(inside)
    engine.stop()
    engine.run()
    assert seen == [1, 1, 2, 1]
    thread = threading.Thread(target=engine.run)
    polls = engine.raw_statistics()["polls"]
    thread.start()
    deadline = time.monotonic() + 30
    try:
        while engine.raw_statistics()["polls"] == polls or loops_awake() != before:
            assert time.monotonic() < deadline, "a loop that sleeps counts as awake"
            time.sleep(0)
    finally:
        engine.call_soon_threadsafe(engine.stop)
        thread.join(30)
    assert not thread.is_alive()
    assert loops_awake() == before
    engine.call_soon(lambda: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        engine.run()
    assert loops_awake() == before
    engine._dispose()
    other._dispose()


def test_events_of_a_reused_descriptor_are_dropped(poller: Poller) -> None:
    """Two ready sockets; the first callback closes the second and opens another one under its number."""
    one, other = socket.socketpair(), socket.socketpair()
    later_pairs: list[tuple[socket.socket, socket.socket]] = []
    wrong: list[int] = []
    numbers = {pair[0].fileno(): pair for pair in (one, other)}

    def first(fd: int) -> None:
        victim = next(pair for number, pair in numbers.items() if number != fd)
        number = victim[0].fileno()
        poller.unwatch(number)
        victim[0].close()
        fresh = socket.socketpair()
        later_pairs.append(fresh)
        assert number in (fresh[0].fileno(), fresh[1].fileno())
        poller.watch(number, READ, wrong.append)

    for number in numbers:
        poller.watch(number, READ, lambda _events, fd=number: first(fd), ONESHOT)
    for pair in (one, other):
        pair[1].send(b"x")
    assert poller.wait(1) == 1
    assert poller.events_stale == 1
    assert wrong == []
    for pair in (one, other, *later_pairs):
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("mode", [LEVEL, EDGE, ONESHOT])
def test_events_from_before_a_change_of_interest_are_dropped(
    poller: Poller, pair: tuple[socket.socket, socket.socket], mode: int
) -> None:
    """Readiness for the new interest is reported by the next wait, in every mode."""
    seen: list[tuple[str, int]] = []
    ours, peer = pair
    near, far = socket.socketpair()
    try:

        def change(_events: int) -> None:
            near.recv(1)
            watch.rearm(WRITE)

        poller.watch(near.fileno(), READ, change)
        watch = poller.watch(ours.fileno(), READ, lambda events: seen.append(("ours", events)), mode)
        far.send(b"x")
        peer.send(b"x")
        assert poller.wait(0) == 1
        assert seen == []
        assert poller.wait(0) == 1
        assert seen == [("ours", WRITE)]
        watch.rearm(READ)
        assert poller.wait(0) == 1
        assert seen[1:] == [("ours", READ)]
    finally:
        near.close()
        far.close()


def test_descriptor_closed_without_unwatch(poller: Poller) -> None:
    one, two = socket.socketpair()
    number = one.fileno()
    poller.watch(number, READ, lambda _events: None)
    one.close()
    again = socket.socketpair()
    assert again[0].fileno() == number
    seen: list[int] = []
    poller.watch(number, READ, seen.append)
    again[1].send(b"x")
    assert poller.wait(1) == 1
    assert seen == [READ]
    for sock in (two, *again):
        sock.close()


def test_an_exception_is_raised_and_the_rest_of_the_batch_kept(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    seen: list[int] = []

    def raising(events: int) -> None:
        seen.append(events)
        raise LookupError

    for one, two in pairs:
        poller.watch(one.fileno(), READ, raising, ONESHOT)
        two.send(b"x")
    for _ in pairs:
        with pytest.raises(LookupError):
            poller.wait(1)
    assert len(seen) == 3
    assert poller.wait(0) == 0
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_hangups_are_reported_without_a_request(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    events: list[int] = []
    poller.watch(pair[0].fileno(), READ, events.append)
    pair[1].close()
    poller.wait(1)
    assert events[0] & HANGUP


def test_wrong_arguments_are_refused(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    fd = pair[0].fileno()
    with pytest.raises(ValueError, match="events"):
        poller.watch(fd, 0, print)
    with pytest.raises(ValueError, match="events"):
        poller.watch(fd, 1 << 20, print)
    with pytest.raises(ValueError, match="mode"):
        poller.watch(fd, READ, print, 64)
    with pytest.raises(ValueError, match="ONESHOT and EXCLUSIVE"):
        poller.watch(fd, READ, print, ONESHOT | EXCLUSIVE)
    with pytest.raises(ValueError, match="descriptor"):
        poller.watch(-1, READ, print)
    with open(__file__) as file, pytest.raises(PermissionError):
        poller.watch(file.fileno(), READ, print)
    poller.close()
    with pytest.raises(ValueError, match="closed"):
        poller.watch(fd, READ, print)
    with pytest.raises(ValueError, match="closed"):
        poller.wait(0)


def test_a_timeout_that_is_not_a_number_is_refused(poller: Poller) -> None:
    with pytest.raises(ValueError, match="not a number"):
        poller.wait(float("nan"))


@pytest.mark.parametrize("number", [100_000_000, 2**31 - 2, 2**31 - 1])
def test_a_number_that_is_not_a_descriptor_is_refused(poller: Poller, number: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            poller.watch(number, READ, print)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert poller.registered == 0


def test_the_highest_possible_descriptor(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    """A large number that is a descriptor gets its slot."""
    high = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    high = os.dup2(pair[0].fileno(), min(high, 100_000))
    try:
        events: list[int] = []
        poller.watch(high, READ, events.append)
        pair[1].send(b"x")
        assert poller.wait(1) == 1 and events == [READ]
    finally:
        poller.unwatch(high)
        os.close(high)
