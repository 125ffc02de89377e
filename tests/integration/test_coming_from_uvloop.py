"""Each row of the table in docs/coming-from-uvloop.md: what uvloop refuses and corenet does.

The claims about uvloop are tested too, so that the table is corrected when uvloop changes. A row is a coroutine
function: it raises the documented error on uvloop, and returns on corenet.
"""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

import corenet

uvloop = pytest.importorskip("uvloop", reason="pip install uvloop")

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-uvloop.md"
Row = Callable[[Any], Awaitable[None]]
ROWS: dict[str, tuple[Row, type[BaseException]]] = {}


def row(title: str, error: type[BaseException]) -> Callable[[Row], Row]:
    """Put a function into the table under the words of its row, and what uvloop raises."""

    def put(function: Row) -> Row:
        ROWS[title] = function, error
        return function

    return put


@row("keep_alive", TypeError)
async def keep_alive(loop: Any) -> None:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, keep_alive=True)
    server.close()


@row("abort_clients", AttributeError)
async def abort_clients(loop: Any) -> None:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        server.close_clients()
        server.abort_clients()
    finally:
        server.close()


@row("all_errors", TypeError)
async def all_errors(loop: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname(), all_errors=True)
        transport.abort()


@row("sock_recvfrom", NotImplementedError)
async def sock_recvfrom(loop: Any) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for sock in (one, two):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
        assert await loop.sock_recvfrom(two, 10) == (b"hello", one.getsockname())
        assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
        assert (await loop.sock_recvfrom_into(two, bytearray(10)))[0] == 5


@row("sock_sendfile", NotImplementedError)
async def sock_sendfile(loop: Any) -> None:
    one, two = socket.socketpair()
    one.setblocking(False)
    with one, two, PAGE.open("rb") as file:
        assert await loop.sock_sendfile(one, file, 0, 100) == 100
        assert len(two.recv(200)) == 100


@row("umask=", ValueError)
async def umask(_loop: Any) -> None:
    process = await asyncio.create_subprocess_exec("true", umask=0o22)
    assert await process.wait() == 0


@row("SIGCHLD", RuntimeError)
async def sigchld(loop: Any) -> None:
    loop.add_signal_handler(signal.SIGCHLD, lambda: None)
    assert loop.remove_signal_handler(signal.SIGCHLD)


@row("another type as `self`", AssertionError)
async def method_of_the_class(loop: Any) -> None:
    code = f"import {type(loop).__module__} as module\ntry: module.Loop.time(5)\nexcept TypeError: pass"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


@row("asyncio.Transport", AssertionError)
async def transports_are_instances(loop: Any) -> None:
    one, two = socket.socketpair()
    with two:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
        try:
            assert isinstance(transport, asyncio.Transport)
        finally:
            transport.abort()
            await asyncio.sleep(0)


@row("loop.time", AssertionError)
async def replaced_clock(loop: Any) -> None:
    fired: list[int] = []
    now = loop.time()
    with mock.patch.object(loop, "time") as clock:
        clock.return_value = now
        timer = loop.call_later(5, fired.append, 1)
        clock.return_value = now + 5
        for _ in range(20):
            await asyncio.sleep(0)
    timer.cancel()
    assert fired


@row("loop.watch", AttributeError)
async def watch(loop: Any) -> None:
    from corenet.core import EXCLUSIVE, READ

    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch = loop.watch(listener.fileno(), READ, print, mode=EXCLUSIVE)
        assert loop.unwatch(watch)


@pytest.mark.parametrize("title", ROWS)
def test_row(title: str) -> None:
    function, error = ROWS[title]
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(function(runner.get_loop()))  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()

        async def refused() -> None:
            with pytest.raises(error):
                await function(loop)

        runner.run(refused())


def test_the_page_has_these_rows() -> None:
    table = PAGE.read_text().partition("## What uvloop refuses")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| ([^|]*`|a method|transports|a replaced|edge)", line)]
    assert [title for title in ROWS if title not in table] == []
    assert len(rows) == len(ROWS)  # corenet.serve has tests of its own


class Failing(asyncio.Protocol):
    """Raises in `connection_made` when it is the first; the second answers."""

    made: ClassVar[list["Failing"]] = []

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport
        if self is self.made[0]:
            raise LookupError("in connection_made")

    def data_received(self, data: bytes) -> None:
        self.calls.append("data")
        self.transport.write(data)

    def connection_lost(self, _error: BaseException | None) -> None:
        self.calls.append("lost")


async def pair_of(loop: Any, kind: str, server: Any) -> socket.socket:
    """The peer of a new connection."""
    if kind == "accepted":
        peer = socket.create_connection(server.sockets[0].getsockname())
    else:
        ours, peer = socket.socketpair()
        await loop.create_unix_connection(Failing, sock=ours)
    peer.setblocking(False)
    return peer


@pytest.mark.parametrize("kind", ["accepted", "connected"])
@pytest.mark.parametrize("name", ["asyncio", "corenet", "uvloop"])
def test_a_connection_whose_connection_made_raises(name: str, kind: str) -> None:
    """One report each. On uvloop nobody reads then: such a connection stays open whatever its peer does."""
    factories: dict[str, Any] = {
        "asyncio": asyncio.SelectorEventLoop, "corenet": corenet.new_event_loop, "uvloop": uvloop.new_event_loop
    }
    reports: list[dict[str, Any]] = []
    Failing.made.clear()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reports.append(context))
        server = await loop.create_server(Failing, "127.0.0.1", 0)
        first = await pair_of(loop, kind, server)
        second = await pair_of(loop, kind, server)
        for expected in ("data", "lost"):
            if expected == "data":
                first.send(b"hello")
            else:
                first.close()
            # What comes after it has an answer: the loop has seen what came first.
            for _ in range(3):
                await loop.sock_sendall(second, b"and you")
                assert await asyncio.wait_for(loop.sock_recv(second, 100), 30) == b"and you"
            assert (expected in Failing.made[0].calls) is (name != "uvloop")
        assert [type(report["exception"]) for report in reports] == [LookupError]
        for protocol in Failing.made:
            protocol.transport.abort()
        await asyncio.sleep(0)
        second.close()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=factories[name]) as runner:
        runner.run(asyncio.wait_for(main(), 30))
