"""Improvements of the latest releases of asyncio, on every version: sockets, tasks, handles, servers.

Where asyncio has it too (from the version named at the test), the test runs on asyncio first.
"""

import asyncio
import contextvars
import io
import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, connected_pair, loop_factory, since, twin

import corenet
from corenet.loop import compat

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


# --- handles ------------------------------------------------------------------------------------------------------


def test_handles_are_instances_of_asyncios_classes(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(100, print)
        soon = loop.call_soon(int)
        other = loop.call_soon_threadsafe(int)
        assert isinstance(timer, asyncio.TimerHandle) and isinstance(soon, asyncio.Handle)
        assert isinstance(other, getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle))
        assert not isinstance(soon, asyncio.TimerHandle)
        assert repr(other).startswith(f"<{other.__class__.__name__} ")
        timer.cancel()

    twin(main())


@since(3, 14)
@pytest.mark.parametrize("question", ["cancel", "cancelled"])
def test_cancelling_in_another_thread_waits_for_the_callback(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], question: str
) -> None:
    """Two threads cancel while the callback runs: both continue when it has returned, and it was not cancelled."""
    loop = loop_factory()
    if isinstance(loop, corenet.Loop):
        loop._use_threadsafe_handles()
    running, go_on = threading.Event(), threading.Event()
    seen: list[Any] = []

    def callback() -> None:
        running.set()
        assert go_on.wait(30)
        seen.append("callback")

    def ask(handle: asyncio.Handle) -> None:
        assert running.wait(30)
        asking.release()
        seen.append(getattr(handle, question)())

    asking = threading.Semaphore(0)
    handle = loop.call_soon_threadsafe(callback)
    threads = [threading.Thread(target=ask, args=(handle,)) for _ in range(2)]

    def release() -> None:
        for _ in range(2):
            assert asking.acquire(timeout=30)
        go_on.set()

    threads.append(threading.Thread(target=release))
    for thread in threads:
        thread.start()
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert seen == ["callback", *([None, None] if question == "cancel" else [False, False])]
    loop.close()


@since(3, 14)
def test_the_callback_itself_and_a_later_thread_do_not_wait(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = loop_factory()
    if isinstance(loop, corenet.Loop):
        loop._use_threadsafe_handles()
    seen: list[Any] = []

    def callback() -> None:
        handle.cancel()
        seen.append(handle.cancelled())
        loop.stop()

    handle = loop.call_soon_threadsafe(callback)
    never = loop.call_soon_threadsafe(seen.append, "never")
    never.cancel()
    loop.run_forever()
    thread = threading.Thread(target=lambda: seen.append(handle.cancelled()))
    thread.start()
    thread.join()
    assert seen == [True, True]
    loop.close()


def test_an_exception_ends_the_waits_of_other_threads() -> None:
    loop = corenet.new_event_loop()
    loop._use_threadsafe_handles()  # type: ignore[attr-defined]
    told: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    running = threading.Event()

    def callback() -> None:
        running.set()
        raise LookupError

    handle = loop.call_soon_threadsafe(callback)
    thread = threading.Thread(target=lambda: (running.wait(30), handle.cancel()))
    thread.start()
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    thread.join(30)
    assert not thread.is_alive() and [type(error) for error in told] == [LookupError]
    loop.close()


# --- tasks --------------------------------------------------------------------------------------------------------


def test_classes_that_a_program_replaces_in_asyncio_are_used(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnTask(asyncio.Task):  # type: ignore[type-arg]
        pass

    class OwnFuture(asyncio.Future):  # type: ignore[type-arg]
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(asyncio.tasks, "Task", OwnTask)
        monkeypatch.setattr(asyncio.futures, "Future", OwnFuture)
        task = loop.create_task(asyncio.sleep(0))
        assert type(task) is OwnTask and type(loop.create_future()) is OwnFuture
        await task
        monkeypatch.undo()
        task = loop.create_task(asyncio.sleep(0), name="plain")
        assert type(task) is asyncio.Task
        await task

    twin(main())


# --- sockets ------------------------------------------------------------------------------------------------------


def test_the_descriptor_of_a_paused_transport_is_refused(twin: Twin) -> None:
    """It is not registered with epoll then, but it belongs to the transport until that closes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there, server = await connected_pair()
        sock = here.transport.get_extra_info("socket")
        fd = sock.fileno()
        here.transport.pause_reading()
        await asyncio.sleep(0)
        for refused in (
            lambda: loop.add_reader(fd, print),
            lambda: loop.add_writer(sock, print),
            lambda: loop.remove_reader(fd),
            lambda: loop.remove_writer(fd),
        ):
            with pytest.raises(RuntimeError, match="is used by transport"):
                refused()
        if isinstance(loop, corenet.Loop):
            for unwatched in (lambda: loop.watch(fd, 1, print), lambda: loop.unwatch(fd)):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    unwatched()
        here.transport.resume_reading()
        there.transport.write(b"still read")
        while bytes(here.data) != b"still read":
            await here.changed.wait()
            here.changed.clear()
        here.transport.pause_reading()
        with socket.socket() as mine:
            here.transport.close()
            await here.lost
            # Now the number may be reused.
            os.dup2(mine.fileno(), fd)
            try:
                assert not loop.remove_reader(fd)
                loop.add_reader(fd, print)
                assert loop.remove_reader(fd)
            finally:
                os.close(fd)
        server.close()

    twin(main())


def test_a_paused_transport_without_references_leaves_no_registration() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        fd = here.fileno()
        held = list(await loop.create_connection(Recorder, sock=here))
        held[0].pause_reading()
        gone = weakref.ref(held[0])
        held.pop().transport = None
        del here
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            held.clear()
        assert gone() is None
        assert not loop.remove_reader(fd)
        there.close()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())


def test_a_failing_close_of_the_socket_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(socket.socket):
        def close(self) -> None:
            super().close()
            raise OSError("will not close")

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def failing(*_args: object) -> None:
            raise LookupError

        monkeypatch.setattr(loop, "sock_connect", failing)
        monkeypatch.setattr(asyncio.base_events.socket, "socket", Stubborn)  # type: ignore[attr-defined]
        with pytest.raises(LookupError):
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 9)
        monkeypatch.undo()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize(("offset", "count", "position"), [(3, None, 10), (2, 4, 6), (10, None, 10), (7, 20, 10)])
def test_the_file_position_is_after_the_sent_bytes(
    twin: Twin, tmp_path: Any, offset: int, count: int | None, position: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        with here, there, (tmp_path / "file").open("rb") as file:
            sent = await loop.sock_sendfile(here, file, offset, count)
            assert sent == max(position - offset, 0)
            if isinstance(loop, corenet.Loop) or sent:
                assert file.tell() == position

    (tmp_path / "file").write_bytes(b"0123456789")
    twin(main())


def test_files_that_are_not_regular_are_sent_by_reading(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        with here, there:
            assert await loop.sock_sendfile(here, io.BytesIO(b"from memory"), 5) == 6
            assert there.recv(100) == b"memory"

    twin(main())


# --- servers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closes", [False, True])
def test_serve_forever_closes_its_connections_where_asyncio_does(
    monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """From 3.14 on: otherwise a cancelled server waits for clients that stay connected."""
    monkeypatch.setattr(compat, "CLOSES_CLIENTS_WHEN_CANCELLED", closes)
    monkeypatch.setattr(compat, "WAIT_CLOSED_WAITS", closes)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Recorder] = loop.create_future()

        class Kept(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.set_result(self)

        server = await loop.create_server(Kept, "127.0.0.1", 0)
        serving = loop.create_task(server.serve_forever())
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            kept = await made
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert kept.lost.done() is closes
            if not closes:
                kept.transport.abort()
                await kept.lost
            else:
                assert client.recv(1) == b""

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_the_probe_of_serve_forever_is_correct(twin: Twin) -> None:
    async def main() -> None:
        here, there, server = await connected_pair()
        serving = asyncio.get_running_loop().create_task(server.serve_forever())
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.sleep(0)
        assert here.transport.is_closing() is compat.CLOSES_CLIENTS_WHEN_CANCELLED
        here.transport.abort()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await there.lost

    twin(main())


def test_a_transport_uses_the_given_context() -> None:
    """Python 3.15 creates a context for each connection that a server accepts."""
    variable = contextvars.ContextVar("variable", default="outer")
    seen: list[str] = []

    class Looking(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            seen.append(variable.get())
            transport.abort()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        for given in (None, context):
            here, there = socket.socketpair()
            here.setblocking(False)
            with there:
                waiter = loop.create_future()
                loop._make_socket_transport(here, Looking(), waiter, context=given)
                await waiter
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())
    assert seen == ["outer", "inner"]
