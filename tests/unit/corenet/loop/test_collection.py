"""Unclosed loops: whatever they contain, they are collected with a ResourceWarning, as asyncio's are.

Each case leaves something in a loop that has run, or never ran, and drops all references. What stays alive then is held
by a reference that the garbage collector cannot see.
"""

import asyncio
import gc
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory
from support.waiting import turns, until

import corenet
from corenet.core.engine import Engine
from corenet.core.handles import Handle, TimerHandle
from corenet.core.poller import Poller

__all__ = ["loop_factory"]

Factory = Callable[[], asyncio.AbstractEventLoop]


class Holder:
    """An object of the program that holds the loop and is held by it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.kept: Any = None
        self.sockets: list[socket.socket] = []

    def call(self, *_args: object) -> None:
        """Do nothing; as a bound method it holds the loop."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        self.sockets += left, right
        return left, right


def timer(holder: Holder) -> None:
    holder.loop.call_later(1000, holder.call)


def timer_that_is_kept(holder: Holder) -> None:
    holder.kept = holder.loop.call_later(1000, holder.call)


def many_timers_that_are_kept(holder: Holder) -> None:
    holder.kept = [holder.loop.call_later(1000 + i % 7, holder.call, holder) for i in range(3000)]
    for handle in holder.kept[::3]:
        handle.cancel()


def soon(holder: Holder) -> None:
    holder.loop.call_soon(holder.call, holder)


def soon_that_is_kept(holder: Holder) -> None:
    holder.kept = [holder.loop.call_soon(holder.call) for _ in range(3000)]


def soon_that_is_cancelled(holder: Holder) -> None:
    holder.kept = holder.loop.call_soon(holder.call)
    holder.kept.cancel()


def threadsafe(holder: Holder) -> None:
    holder.kept = holder.loop.call_soon_threadsafe(holder.call)


def reader(holder: Holder) -> None:
    holder.loop.add_reader(holder.pair()[0], holder.call)


def writer(holder: Holder) -> None:
    left, _ = holder.pair()
    while True:
        try:
            left.send(bytes(65536))
        except BlockingIOError:
            break
    holder.loop.add_writer(left, holder.call)


def task(holder: Holder) -> None:
    async def sleep() -> None:
        await asyncio.sleep(1000, holder)

    holder.kept = holder.loop.create_task(sleep())


def future(holder: Holder) -> None:
    holder.kept = holder.loop.create_future()
    holder.kept.add_done_callback(holder.call)
    holder.kept.set_result(None)


def left_by_a_callback(holder: Holder) -> None:
    """Schedule something in the last iteration."""

    def last() -> None:
        many_timers_that_are_kept(holder)
        holder.kept += [holder.loop.call_soon(holder.call) for _ in range(3000)]
        holder.kept.append(holder.loop.call_soon_threadsafe(holder.call))
        holder.loop.stop()

    holder.loop.call_soon(last)


def has_run(holder: Holder) -> None:
    """Handles whose time has passed, held by their creator."""
    holder.kept = [holder.loop.call_soon(holder.call) for _ in range(100)]
    holder.kept += [holder.loop.call_later(0, holder.call) for _ in range(100)]
    holder.loop.run_until_complete(turns())


def cancelled_in_a_callback(holder: Holder) -> None:
    def cancel() -> None:
        holder.kept = [holder.loop.call_later(1000, holder.call), holder.loop.call_soon(holder.call)]
        for handle in holder.kept:
            handle.cancel()

    holder.loop.call_soon(cancel)
    holder.loop.run_until_complete(turns())


def raised(holder: Holder) -> None:
    """The exception handler gets the handle."""

    def fail() -> None:
        raise ValueError(holder)

    def keep(_loop: object, context: dict[str, Any]) -> None:
        holder.kept = context

    holder.loop.set_exception_handler(keep)
    holder.loop.call_soon(fail)
    holder.loop.run_until_complete(turns())
    assert holder.kept["handle"] is not None


CASES = [
    timer, timer_that_is_kept, many_timers_that_are_kept, soon, soon_that_is_kept, soon_that_is_cancelled, threadsafe,
    reader, writer, task, future, left_by_a_callback, has_run, cancelled_in_a_callback, raised,
]  # fmt: skip


def collected(factory: Factory, case: Callable[[Holder], None], runs: str) -> list[str]:
    """Drop a loop in which `case` has left something; return the warnings. Fail when the loop stays alive."""
    loop = factory()
    holder = Holder(loop)
    loop.set_exception_handler(holder.call)  # the task that is still pending
    gone = threading.Event()
    weakref.finalize(loop, gone.set).atexit = False
    if runs == "before":
        loop.run_until_complete(asyncio.sleep(0))
    case(holder)
    if runs == "after":
        loop.call_soon(loop.stop)
        loop.run_forever()
    sockets = holder.sockets
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop, holder
        gc.collect()
        assert gone.is_set()
    for sock in sockets:
        sock.close()
    return [str(one.message) for one in caught if one.category is ResourceWarning]


@pytest.mark.parametrize("runs", ["never", "before", "after"])
@pytest.mark.parametrize("case", CASES)
def test_a_dropped_loop_is_collected_with_a_warning(
    loop_factory: Factory, case: Callable[[Holder], None], runs: str
) -> None:
    [message] = [text for text in collected(loop_factory, case, runs) if "event loop" in text]
    assert message.startswith("unclosed event loop <")


def test_a_loop_whose_creation_was_interrupted_is_collected_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise before `BaseEventLoop.__init__` has set anything."""

    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("error")
        patched.setattr(asyncio.BaseEventLoop, "__init__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corenet.new_event_loop()
        gc.collect()


class Keeping(asyncio.Protocol):
    """A protocol with a timer; protocol and transport hold each other."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.timer = asyncio.get_running_loop().call_later(1000, self.data_received, b"")
        transport.write(bytes(10_000_000))


@pytest.mark.parametrize("kind", ["connection", "server", "datagram", "pipe", "streams", "sock_recv"])
def test_a_dropped_loop_with_transports_is_collected_with_a_warning(loop_factory: Factory, kind: str) -> None:
    async def leave(holder: Holder) -> None:
        loop = asyncio.get_running_loop()
        if kind == "connection":
            holder.kept = await loop.create_connection(Keeping, sock=holder.pair()[0])
        elif kind == "server":
            holder.kept = await loop.create_server(Keeping, "127.0.0.1", 0)
            address = holder.kept.sockets[0].getsockname()
            holder.sockets.append(socket.create_connection(address))
            holder.loop.call_soon(holder.call, await loop.create_connection(asyncio.Protocol, *address))
            await turns()
        elif kind == "datagram":
            holder.kept = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        elif kind == "pipe":
            holder.kept = await loop.connect_read_pipe(asyncio.Protocol, holder.pair()[0])
        elif kind == "streams":
            stream, writer_ = await asyncio.open_connection(sock=holder.pair()[0])
            holder.kept = loop.create_task(stream.readline()), writer_
            await asyncio.sleep(0)
        else:
            holder.kept = loop.create_task(loop.sock_recv(holder.pair()[0], 10))
            await asyncio.sleep(0)

    def case(holder: Holder) -> None:
        holder.loop.run_until_complete(leave(holder))

    messages = collected(loop_factory, case, "never")
    assert sum(text.startswith("unclosed event loop <") for text in messages) == 1
    if kind not in ("server", "sock_recv"):
        assert any(text.startswith("unclosed transport <") for text in messages)


def test_a_closed_loop_is_collected_without_a_warning(loop_factory: Factory) -> None:
    def case(holder: Holder) -> None:
        many_timers_that_are_kept(holder)
        soon_that_is_kept(holder)
        holder.loop.close()

    assert collected(loop_factory, case, "never") == []


def test_an_unclosed_engine_is_collected() -> None:
    """The engine has no finalizer of asyncio, so only the collector can free it."""
    gone = threading.Event()

    class Circle:
        def __init__(self) -> None:
            self.engine = Engine()
            self.handles = [self.engine.call_soon(self.run), self.engine.call_later(5, self.run)]
            self.engine.watch(left.fileno(), 1, self.run)

        def run(self, *_args: object) -> None:
            """Do nothing."""

    left, right = socket.socketpair()
    with left, right:
        circle = Circle()
        weakref.finalize(circle, gone.set).atexit = False
        del circle
        gc.collect()
        assert gone.is_set()


@pytest.mark.parametrize("held", ["poller", "watch", "nothing"])
def test_an_unclosed_poller_is_collected(held: str) -> None:
    gone = threading.Event()

    class Circle:
        def __init__(self) -> None:
            self.poller = Poller()
            self.watch = self.poller.watch(left.fileno(), 1, self.run)

        def run(self, _events: int) -> None:
            """Do nothing."""

    left, right = socket.socketpair()
    with left, right:
        circle = Circle()
        weakref.finalize(circle, gone.set).atexit = False
        kept = {"poller": circle.poller, "watch": circle.watch, "nothing": None}[held]
        del circle
        gc.collect()
        assert gone.is_set() is (held == "nothing")
        kept = None
        gc.collect()
        assert kept is None
        assert gone.is_set()


def test_waiting_callbacks_of_a_living_loop_are_not_collected(loop_factory: Factory) -> None:
    """While a loop is alive, everything that waits in it is alive, without other references."""
    loop = loop_factory()
    called: list[str] = []

    class Once:
        def __init__(self, name: str) -> None:
            self.name = name
            self.circle = self

        def __call__(self) -> None:
            called.append(self.name)
            if called.count(self.name) == 1 and self.name != "threadsafe":
                loop.call_soon(Once("inner"))
            gc.collect()

    def collect() -> None:
        loop.call_soon(Once("soon"))
        loop.call_later(0.001, Once("timer"))
        loop.call_soon_threadsafe(Once("threadsafe"))
        gc.collect()

    loop.call_soon(collect)
    loop.call_soon(Once("before"))
    loop.call_later(0, Once("early"))
    gc.collect()
    expected = {"before", "early", "soon", "timer", "threadsafe", "inner"}
    loop.run_until_complete(until(lambda: expected <= set(called), "all are called"))
    loop.close()


@pytest.mark.parametrize("kind", [Handle, TimerHandle])
def test_a_handle_in_a_reference_cycle_is_collected(kind: Any) -> None:
    gone = threading.Event()

    class Circle:
        def __init__(self) -> None:
            arguments = (self.run, (self,), None)
            self.handle = kind(*arguments) if kind is Handle else kind(5.0, *arguments)

        def run(self) -> None:
            """Do nothing."""

    circle = Circle()
    weakref.finalize(circle, gone.set).atexit = False
    del circle
    gc.collect()
    assert gone.is_set()


def test_a_finalizer_may_use_the_loop_that_is_collected_with_it() -> None:
    """Other garbage of the same collection may still call it; each call works or raises."""
    answers: list[str] = []

    class Last:
        def __init__(self, loop: corenet.Loop, timer: Any) -> None:
            self.loop = loop
            self.timer = timer
            self.circle = self

        def keep(self) -> None:
            """Referenced by a callback."""

        def __del__(self) -> None:
            for attempt in (
                self.timer.cancel, self.loop.time, lambda: self.loop.call_soon(print), self.loop.statistics,
                lambda: self.loop.call_later(5, print), lambda: self.loop.remove_reader(0), self.loop.stop,
                lambda: self.loop.call_soon_threadsafe(print), self.loop.close, self.loop.is_closed,
            ):  # fmt: skip
                try:
                    attempt()
                    answers.append("worked")
                except RuntimeError:
                    answers.append("raised")

    for round_ in range(20):
        loop = corenet.new_event_loop()
        last = Last(loop, loop.call_later(50, print))
        loop.call_soon(last.keep)
        loop.set_exception_handler(lambda *_args, last=last: None)  # type: ignore[misc]
        if round_ % 2:
            loop.run_until_complete(asyncio.sleep(0))
            loop.call_soon(last.keep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del loop, last
            gc.collect()
    assert len(answers) == 200
