"""Twin tests: one test body, run on asyncio's loop first and on ours second.

A body that fails on the standard loop requires something that asyncio does not guarantee. Import `loop_factory` and
`twin` into a test module; both are fixtures.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import corenet

FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "corenet": corenet.new_event_loop,
}


def since(*version: int) -> pytest.MarkDecorator:
    """Mark a test of what asyncio has from Python `version` on: with an older one it runs on our loop alone."""
    factories = list(FACTORIES) if sys.version_info >= version else ["corenet"]
    return pytest.mark.parametrize("loop_factory", factories, indirect=True)


@pytest.fixture(params=list(FACTORIES))
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of the loop under test."""
    return FACTORIES[request.param]


@pytest.fixture
def twin(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """A function that runs a coroutine on the loop under test. A call of the exception handler fails the test."""
    unexpected: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: unexpected.append(context))
        yield lambda main: runner.run(asyncio.wait_for(main, 30))
    gc.collect()
    assert not unexpected, unexpected


class Recorder(asyncio.Protocol):
    """Notes what happens to a connection and lets a test wait for it."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = bytearray()
        self.events: list[str] = []
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.keep_open = False
        self.changed = asyncio.Event()

    def note(self, event: str) -> None:
        """Remember `event` and wake whoever waits."""
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data")

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.note("lost")
        if not self.lost.done():
            self.lost.set_result(error)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition()` holds; it is looked at after each event."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def accepting() -> tuple[Callable[[], Recorder], "asyncio.Future[Recorder]"]:
    """A factory for a server's protocols, and the future of the first that is connected; for a running loop."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    class Accepting(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            accepted.set_result(self)

    return Accepting, accepted


async def connected_pair() -> tuple[Recorder, Recorder, Any]:
    """A server's and a client's end of one TCP connection, and the server."""
    loop = asyncio.get_running_loop()
    factory, accepted = accepting()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    _, client = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    return await accepted, client, server


async def finish(server: Any, *recorders: Recorder) -> None:
    """Close what is open and wait until all of it is gone."""
    for recorder in recorders:
        if recorder.transport is not None and not recorder.transport.is_closing():
            recorder.transport.close()
    for recorder in recorders:
        await recorder.lost
    server.close()
    await server.wait_closed()
