"""Context variables: every callback runs in the context of its caller and does not change the caller's variables."""

import asyncio
import contextvars
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin
from support.waiting import until

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def test_scheduled_callbacks_run_in_the_context_of_their_caller(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        done = asyncio.Event()

        def note(name: str) -> None:
            seen[name] = variable.get()
            variable.set("changed inside")
            if len(seen) == 5:
                done.set()

        variable.set("asked")
        loop.call_soon(note, "soon")
        loop.call_later(0, note, "later")
        loop.call_at(loop.time(), note, "at")
        loop.call_soon_threadsafe(note, "threadsafe")
        future = loop.create_future()
        future.add_done_callback(lambda _future: note("done"))
        future.set_result(None)
        variable.set("changed afterwards")
        await done.wait()
        assert set(seen.values()) == {"asked"}
        assert variable.get() == "changed afterwards"

    twin(main())


def test_a_given_context_is_used(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        seen: list[str] = []
        loop.call_soon(lambda: seen.append(variable.get()), context=context)
        loop.call_later(0, lambda: seen.append(variable.get()), context=context)
        loop.call_at(0, lambda: seen.append(variable.get()), context=context)
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=context)
        while len(seen) < 4:
            await asyncio.sleep(0)
        assert seen == ["given"] * 4
        loop.call_soon(variable.set, "left", context=context)
        await asyncio.sleep(0)
        assert context[variable] == "left"

    twin(main())


def test_readers_writers_and_signal_handlers_keep_their_context(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        left, right = socket.socketpair()

        def note(name: str) -> None:
            seen[name] = variable.get()
            variable.set("changed inside")
            if name == "reader":
                loop.remove_reader(left)
            elif name == "writer":
                loop.remove_writer(right)

        with left, right:
            variable.set("reader")
            loop.add_reader(left, note, "reader")
            variable.set("writer")
            loop.add_writer(right, note, "writer")
            variable.set("signal")
            loop.add_signal_handler(signal.SIGUSR1, note, "signal")
            variable.set("afterwards")
            right.send(b"x")
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: len(seen) == 3, "reader, writer and signal")
            loop.remove_signal_handler(signal.SIGUSR1)
        assert all(name == value for name, value in seen.items())
        assert variable.get() == "afterwards"

    twin(main())


class Looking(asyncio.Protocol):
    """Records the variable in every callback of a connection."""

    def __init__(self, seen: dict[str, str]) -> None:
        self.seen = seen
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.seen["made"] = variable.get()

    def data_received(self, data: bytes) -> None:
        self.seen["data"] = variable.get()

    def eof_received(self) -> None:
        self.seen["eof"] = variable.get()

    def connection_lost(self, error: BaseException | None) -> None:
        self.seen["lost"] = variable.get()
        self.lost.set_result(None)


def test_protocols_keep_the_context_of_their_maker(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        left, right = socket.socketpair()
        variable.set("maker")
        _, protocol = await loop.create_connection(lambda: Looking(seen), sock=left)
        variable.set("somebody else")
        with right:
            right.send(b"x")
        await protocol.lost
        assert seen == {"made": "maker", "data": "maker", "eof": "maker", "lost": "maker"}

    twin(main())


def test_accepted_connections_have_the_context_of_the_server(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        made: list[Looking] = []

        def factory() -> Looking:
            seen["factory"] = variable.get()
            made.append(Looking(seen))
            return made[0]

        variable.set("server")
        server = await loop.create_server(factory, "127.0.0.1", 0)
        variable.set("client")
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            peer.send(b"x")
        await until(lambda: made, "the connection")
        await made[0].lost
        assert set(seen.values()) == {"server"}
        assert set(seen) == {"factory", "made", "data", "eof", "lost"}
        server.close()

    twin(main())


class Ending(Recorder):
    """Records the context of connection_lost."""

    def connection_lost(self, error: BaseException | None) -> None:
        self.ended_in = variable.get()
        super().connection_lost(error)


def reports_of(loop: Any) -> list[dict[str, Any]]:
    """Record what reaches the exception handler of `loop`; stops the loop after many."""
    reports: list[dict[str, Any]] = []

    def handler(_loop: Any, context: dict[str, Any]) -> None:
        reports.append(context)
        if len(reports) > 20:
            loop.stop()

    loop.set_exception_handler(handler)
    return reports


@pytest.mark.parametrize("event", ["data", "end of file", "room to send", "reset"])
def test_a_connection_whose_context_is_entered_ends_without_a_busy_loop(event: str) -> None:
    """A context that is already entered cannot be entered again, and a level-triggered event would repeat forever."""
    loop: Any = corenet.new_event_loop()
    reports = reports_of(loop)
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    context = contextvars.copy_context()
    context.run(variable.set, "the connection's")

    async def make() -> Ending:
        waiter = loop.create_future()
        protocol = Ending()
        loop._make_socket_transport(ours, protocol, waiter, context=context)
        await waiter
        return protocol

    protocol = loop.run_until_complete(make())
    if event == "data":
        peer.send(b"x")
    elif event == "end of file":
        peer.shutdown(socket.SHUT_WR)
    elif event == "room to send":
        protocol.transport.write(bytes(4_000_000))
        peer.recv(3_000_000)
    else:
        peer.close()
    loop.call_later(3, loop.stop)
    lost = asyncio.ensure_future(asyncio.wait_for(protocol.lost, 30), loop=loop)
    lost.add_done_callback(lambda _lost: loop.stop())
    context.run(loop.run_forever)
    assert isinstance(lost.result(), RuntimeError)
    assert protocol.ended_in == "the connection's"
    assert [(report["message"], type(report["exception"])) for report in reports] == [
        ("The context of the transport is already entered; run the loop outside of it", RuntimeError)
    ]
    loop.close()
    peer.close()


def test_a_connection_in_an_entered_context_is_refused() -> None:
    loop: Any = corenet.new_event_loop()
    reports = reports_of(loop)
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    context = contextvars.copy_context()
    protocols: list[Ending] = []

    async def make() -> None:
        waiter = loop.create_future()
        protocols.append(Ending())
        loop._make_socket_transport(ours, protocols[0], waiter, context=context)
        with pytest.raises(RuntimeError, match="already entered"):
            await asyncio.wait_for(waiter, 30)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    context.run(loop.run_until_complete, make())
    # connection_made was not called, so connection_lost is not either.
    assert protocols[0].events == []
    assert reports == []
    assert peer.recv(1) == b""
    loop.close()
    peer.close()
