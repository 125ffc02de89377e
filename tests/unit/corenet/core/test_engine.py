"""The engine without asyncio: order of callbacks, the inbox for other threads, readers, failures, closing."""

import contextvars
import gc
import os
import socket
import sys
import threading
import weakref
from typing import Any

import pytest

from corenet.core.engine import Engine
from corenet.core.handles import Handle


def run(engine: Engine) -> None:
    """Run one iteration."""
    engine.stop()
    engine.run()


def test_callbacks_run_in_order_and_new_ones_in_the_next_iteration() -> None:
    engine = Engine()
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        engine.call_soon(seen.append, "third")

    engine.call_soon(first)
    engine.call_soon(seen.append, "second")
    run(engine)
    assert seen == ["first", "second"]
    run(engine)
    assert seen == ["first", "second", "third"]


def test_thousands_of_callbacks_grow_the_ring() -> None:
    engine = Engine()
    seen: list[int] = []
    for number in range(5000):
        engine.call_soon(seen.append, number)
    run(engine)
    assert seen == list(range(5000))


def test_cancelled_callbacks_do_not_run_and_drop_their_references() -> None:
    class Held:
        pass

    engine = Engine()
    held = Held()
    gone = weakref.ref(held)
    handle = engine.call_soon(print, held)
    del held
    handle.cancel()
    assert gone() is None
    run(engine)


def test_a_handle_that_has_run_holds_no_references() -> None:
    class Owner:
        def method(self) -> None:
            pass

    engine = Engine()
    owner = Owner()
    owner.handle = engine.call_soon(owner.method)  # type: ignore[attr-defined]
    gone = weakref.ref(owner)
    run(engine)
    del owner
    gc.collect()
    assert gone() is None


def test_callbacks_run_in_the_current_or_given_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    engine = Engine()
    seen: list[int] = []
    variable.set(1)
    engine.call_soon(lambda: seen.append(variable.get()))
    variable.set(2)
    given = contextvars.copy_context()
    variable.set(3)
    engine.call_soon(lambda: seen.append(variable.get()), context=given)
    run(engine)
    assert seen == [1, 2]


def test_failures_are_reported_and_the_other_callbacks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    engine = Engine()
    seen: list[int] = []
    engine.call_soon(lambda: 1 // 0)
    engine.call_soon(seen.append, 1)
    run(engine)
    assert seen == [1]
    assert reported[0].exc_type is ZeroDivisionError


def test_system_exit_ends_the_run_and_keeps_later_callbacks() -> None:
    engine = Engine()
    seen: list[int] = []
    engine.call_soon(sys.exit, 3)
    engine.call_soon(seen.append, 1)
    with pytest.raises(SystemExit):
        engine.run()
    run(engine)
    assert seen == [1]


def test_inbox_wakes_a_sleeping_engine_once_and_keeps_order() -> None:
    engine = Engine()
    seen: list[int] = []

    def post() -> None:
        for number in range(1000):
            engine.call_soon_threadsafe(seen.append, number)
        engine.call_soon_threadsafe(engine.stop)

    thread = threading.Thread(target=post)
    engine.call_soon(thread.start)
    engine.run()
    thread.join()
    assert seen == list(range(1000))
    # The eventfd is written only for a loop that sleeps, not once a call.
    assert engine.raw_statistics()["wakeups"] < 1000


def test_order_of_call_soon_and_call_soon_threadsafe() -> None:
    engine = Engine()
    seen: list[str] = []
    engine.call_soon_threadsafe(seen.append, "a")
    engine.call_soon(seen.append, "b")
    engine.call_soon_threadsafe(seen.append, "c")
    engine.call_soon(seen.append, "d")
    run(engine)
    run(engine)
    assert seen == ["a", "b", "c", "d"]


def test_reader_and_writer_are_level_triggered() -> None:
    engine = Engine()
    one, two = socket.socketpair()
    seen: list[str] = []
    engine._set_handler(one.fileno(), False, seen.append, ("read",))
    two.send(b"x")
    run(engine)
    run(engine)
    assert seen == ["read", "read"]
    engine._set_handler(one.fileno(), True, seen.append, ("write",))
    run(engine)
    assert seen == ["read", "read", "read", "write"]
    assert engine._clear_handler(one.fileno(), False) is True
    assert engine._clear_handler(one.fileno(), False) is False
    run(engine)
    assert seen[4:] == ["write"]
    assert engine._clear_handler(one.fileno(), True) is True
    run(engine)
    assert len(seen) == 5
    one.close()
    two.close()


def test_reader_removed_in_the_same_batch_is_not_called() -> None:
    engine = Engine()
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def remove_other(me: int) -> None:
        seen.append(me)
        engine._clear_handler(pairs[1 - me][0].fileno(), False)

    for number, (one, two) in enumerate(pairs):
        engine._set_handler(one.fileno(), False, remove_other, (number,))
        two.send(b"x")
    run(engine)
    assert len(seen) == 1
    for pair in pairs:
        for sock in pair:
            sock.close()


class Waiter:
    """The part of a future's interface that the engine uses."""

    def __init__(self, seen: list[str], word: str) -> None:
        self.seen = seen
        self.word = word

    def done(self) -> bool:
        return False

    def set_result(self, result: None) -> None:
        self.seen.append(self.word)


def test_a_waiter_and_a_reader_share_a_descriptor() -> None:
    engine = Engine()
    one, two = socket.socketpair()
    seen: list[str] = []
    engine._set_handler(one.fileno(), False, seen.append, ("read",))
    engine._wait_ready(one.fileno(), True, Waiter(seen, "write"), None)
    run(engine)
    run(engine)
    assert seen == ["write"]
    two.send(b"x")
    run(engine)
    run(engine)
    assert seen == ["write", "read", "read"]
    one.close()
    two.close()


@pytest.mark.parametrize("recognised", [True, False])
def test_waiters_are_woken_once_each(recognised: bool) -> None:
    engine = Engine()
    one, two = socket.socketpair()
    owner = weakref.ref(one) if recognised else None
    seen: list[str] = []
    for word in ("a", "b", "c"):
        engine._wait_ready(one.fileno(), False, Waiter(seen, word), owner)
        run(engine)
        assert word not in seen
        two.send(b"x")
        run(engine)
        run(engine)
        assert seen.pop() == word
        one.recv(1)
    engine._wait_ready(one.fileno(), False, Waiter(seen, "read"), owner)
    engine._wait_ready(one.fileno(), True, Waiter(seen, "write"), None)
    run(engine)
    assert seen == ["write"]
    two.send(b"x")
    run(engine)
    assert seen == ["write", "read"]
    engine._dispose()
    one.close()
    two.close()


def test_events_without_a_waiter_end_the_registration() -> None:
    engine = Engine()
    one, two = socket.socketpair()
    seen: list[str] = []
    engine._wait_ready(one.fileno(), False, Waiter(seen, "a"), weakref.ref(one))
    for _ in range(10):
        two.send(b"x")
        run(engine)
    assert seen == ["a"]
    assert engine.raw_statistics()["events"] == 3
    engine._wait_ready(one.fileno(), False, Waiter(seen, "b"), weakref.ref(one))
    run(engine)
    assert seen == ["a", "b"]
    engine._dispose()
    one.close()
    two.close()


def test_a_reused_descriptor_number_has_a_new_owner() -> None:
    engine = Engine()
    seen: list[str] = []
    one, two = socket.socketpair()
    three, four = socket.socketpair()
    number = one.fileno()
    engine._wait_ready(number, False, Waiter(seen, "old"), weakref.ref(one))
    run(engine)
    one.close()
    os.dup2(three.fileno(), number)
    five = socket.socket(fileno=number)
    engine._wait_ready(number, False, Waiter(seen, "new"), weakref.ref(five))
    two.close()
    run(engine)
    assert seen == []
    four.send(b"x")
    run(engine)
    assert seen == ["new"]
    engine._dispose()
    for sock in (three, four, five):
        sock.close()


def test_disposed_engine_refuses() -> None:
    engine = Engine()
    engine.call_soon(print)
    engine.call_later(5, print)
    engine._dispose()
    engine._dispose()
    for use in (
        lambda: engine.call_soon(print),
        lambda: engine.call_later(1, print),
        lambda: engine.call_soon_threadsafe(print),
        engine.run,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_run_inside_run_is_refused() -> None:
    engine = Engine()
    caught: list[str] = []

    def again() -> None:
        try:
            engine.run()
        except RuntimeError as error:
            caught.append(str(error))
        engine.stop()

    engine.call_soon(again)
    engine.run()
    assert caught == ["This event loop is already running"]


def test_chain_of_callbacks_does_not_starve_descriptors() -> None:
    engine = Engine()
    one, two = socket.socketpair()
    two.send(b"x")
    turns = 0

    def chain() -> None:
        nonlocal turns
        turns += 1
        engine.call_soon(chain)

    engine.call_soon(chain)
    engine._set_handler(one.fileno(), False, engine.stop, ())
    engine.run()
    assert turns < 100
    one.close()
    two.close()


def test_watch_calls_back_during_the_poll() -> None:
    engine = Engine()
    one, two = socket.socketpair()
    seen: list[int] = []
    watch = engine.watch(one.fileno(), 1, seen.append)
    two.send(b"x")
    run(engine)
    assert seen == [1]
    assert engine.unwatch(watch)
    one.close()
    two.close()


def test_handle_repr_and_arguments() -> None:
    handle = Handle(print, (1, 2), None)
    assert "print" in repr(handle)
    assert handle._args == (1, 2)
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"
