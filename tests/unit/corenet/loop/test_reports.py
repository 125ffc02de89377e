"""The exception handler gets for each failure the same keys and, apart from class names, the message of asyncio.

Every scenario runs on asyncio and on ours, in normal and in debug mode, and the two lists of contexts are compared.
"""

import asyncio
import gc
import os
import re
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.twin import FACTORIES
from support.waiting import turns

Scenario = Callable[[], Coroutine[Any, Any, None]]


class Failing(asyncio.Protocol):
    """Raises in one callback, or in none."""

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def fail(self, here: str) -> None:
        if here == self.where:
            raise ZeroDivisionError(here)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.fail("connection_made")

    def data_received(self, data: bytes) -> None:
        self.fail("data_received")

    def eof_received(self) -> None:
        self.fail("eof_received")

    def pause_writing(self) -> None:
        self.fail("pause_writing")

    def resume_writing(self) -> None:
        self.fail("resume_writing")

    def connection_lost(self, error: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.fail("connection_lost")


class FailingBuffered(asyncio.BufferedProtocol):
    """The same for buffered protocols."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        if self.where == "get_buffer":
            raise ZeroDivisionError(self.where)
        return bytearray(0 if self.where == "empty" else 16)

    def buffer_updated(self, nbytes: int) -> None:
        if self.where == "buffer_updated":
            raise ZeroDivisionError(self.where)

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.set_result(None)


class FailingDatagram(asyncio.DatagramProtocol):
    """The same for datagrams."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        if self.where == "connection_made":
            raise ZeroDivisionError(self.where)

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.changed.set()
        if self.where == "datagram_received":
            raise ZeroDivisionError(self.where)

    def error_received(self, error: Exception) -> None:
        self.changed.set()
        if self.where == "error_received":
            raise ZeroDivisionError(self.where)


def callback(kind: str) -> Scenario:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fail(*_args: object) -> None:
            # Not at once: asyncio would then write None() into its message.
            loop.call_soon(loop.remove_reader, left)
            loop.call_soon(loop.remove_writer, left)
            raise ZeroDivisionError(kind)

        left, right = socket.socketpair()
        with left, right:
            right.send(b"x")
            if kind == "call_soon":
                loop.call_soon(fail, 1)
            elif kind == "call_later":
                loop.call_later(0, fail)
            elif kind == "add_reader":
                loop.add_reader(left, fail, 2)
            elif kind == "add_writer":
                loop.add_writer(left, fail)
            await turns()

    return main


def stream(where: str, accepted: bool) -> Scenario:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        if accepted:
            protocol: Any = Failing(where)
            server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
            right.close()
            left.close()
            right = socket.create_connection(server.sockets[0].getsockname())
            while protocol.transport is None:
                await asyncio.sleep(0)
            transport = protocol.transport
        else:
            server = None
            transport, protocol = await loop.create_connection(lambda: Failing(where), sock=left)
        await asyncio.sleep(0)
        right.setblocking(False)
        if where == "data_received":
            right.send(b"x")
        elif where in ("pause_writing", "resume_writing"):
            transport.write(b"x" * 12_000_000)
            if where == "resume_writing":
                while transport.get_write_buffer_size():
                    try:
                        right.recv(1 << 20)
                    except BlockingIOError:
                        pass
                    await asyncio.sleep(0)
            transport.abort()
        elif where == "connection_made":
            transport.abort()
        else:
            right.shutdown(socket.SHUT_WR)
        await protocol.lost
        right.close()
        await asyncio.sleep(0)
        if server is not None:
            server.close()

    return main


def buffered(where: str) -> Scenario:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with right:
            _, protocol = await loop.create_connection(lambda: FailingBuffered(where), sock=left)
            right.send(b"x")
            await protocol.lost

    return main


def datagram(where: str) -> Scenario:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: FailingDatagram(where), ("127.0.0.1", 0), remote_addr=address
        )
        if where == "datagram_received":
            peer.sendto(b"x", transport.get_extra_info("sockname"))
        peer.close()
        if where == "error_received":
            transport.sendto(b"x")
        if where != "connection_made":
            await asyncio.wait_for(protocol.changed.wait(), 30)
        transport.abort()
        await turns()

    return main


def pipe(where: str) -> Scenario:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        _, protocol = await loop.connect_read_pipe(lambda: Failing(where), os.fdopen(read, "rb", 0))
        if where == "data_received":
            os.write(write, b"x")
        os.close(write)
        await protocol.lost
        await asyncio.sleep(0)

    return main


async def failing_factory() -> None:
    loop = asyncio.get_running_loop()

    def make() -> asyncio.Protocol:
        raise ZeroDivisionError("factory")

    server = await loop.create_server(make, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        # asyncio does not close what it accepted, so there is nothing to wait for.
        await turns()
    server.close()


async def forgotten_task() -> None:
    async def fail() -> None:
        raise ZeroDivisionError("task")

    asyncio.get_running_loop().create_task(fail())
    await turns()


SCENARIOS: dict[str, Scenario] = {
    **{f"callback-{kind}": callback(kind) for kind in ("call_soon", "call_later", "add_reader", "add_writer")},
    **{
        f"{'accepted' if accepted else 'stream'}-{where}": stream(where, accepted)
        for where in (
            "connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost"
        )
        for accepted in (False, True)
    },
    **{f"buffered-{where}": buffered(where) for where in ("get_buffer", "empty", "buffer_updated")},
    **{f"datagram-{where}": datagram(where) for where in ("connection_made", "datagram_received", "error_received")},
    **{
        f"pipe-{where}": pipe(where)
        for where in ("connection_made", "data_received", "eof_received", "connection_lost")
    },
    "factory": failing_factory,
    "task": forgotten_task,
}


def words_of(context: dict[str, Any]) -> tuple[Any, ...]:
    """The message without names of transports, the keys, and the exception."""
    message = re.sub(r"\(<.*>\)", "(<transport>)", context["message"])
    if "_read_ready" in message or "received(" in message:
        # asyncio names a private method of its transport, we the protocol's.
        message = "Exception in callback"
    if "_call_connection_lost" in message:
        message = "Exception in callback _call_connection_lost"
    keys = sorted(context)
    return message, keys, type(context.get("exception")), str(context.get("exception"))


def contexts(factory: Any, scenario: Scenario, debug: bool) -> list[tuple[Any, ...]]:
    """What the handler gets while `scenario` runs."""
    seen: list[tuple[Any, ...]] = []
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: seen.append(words_of(context)))
        runner.run(asyncio.wait_for(scenario(), 30))
    # Collect here what asyncio leaves open, so that it does not warn in another test.
    gc.collect()
    return seen


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # some of these leave a transport of asyncio's open
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_contexts_of_the_exception_handler_equal_those_of_asyncio(name: str, debug: bool) -> None:
    expected = contexts(FACTORIES["asyncio"], SCENARIOS[name], debug)
    assert expected or (name, debug) == ("factory", False), "the scenario does not fail on asyncio"
    assert contexts(FACTORIES["corenet"], SCENARIOS[name], debug) == expected


def test_a_failing_exception_handler_is_reported_and_the_loop_continues(caplog: pytest.LogCaptureFixture) -> None:
    for factory in FACTORIES.values():
        caplog.clear()

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def handler(_loop: Any, _context: Any) -> None:
                raise LookupError("in the handler")

            loop.set_exception_handler(handler)
            assert loop.get_exception_handler() is handler
            loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loop.set_exception_handler(None)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert "Unhandled error in exception handler" in caplog.text


def test_the_exception_handler_runs_in_the_context_of_the_failed_callback() -> None:
    if sys.version_info < (3, 12):
        return
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")
    for factory in FACTORIES.values():
        seen: list[str] = []

        async def main(seen: list[str] = seen) -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda *_: seen.append(variable.get()))
            context = contextvars.copy_context()
            context.run(variable.set, "inner")
            loop.call_soon(lambda: 1 / 0, context=context)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert seen == ["inner"]
