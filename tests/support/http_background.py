"""A server of `http_peer` in a thread, for tests that block, or whose code under test runs its own loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from support.http_peer import Peer, Server, serving

__all__ = ["ThreadedServer"]


class ThreadedServer:
    """Context manager: serves each connection with `serve` in a thread; over TLS with `context` (`ssl.SSLContext`).

    Its value is the `Server` of `http_peer`.
    """

    def __init__(self, serve: Callable[[Peer], Awaitable[None]], context: Any = None) -> None:
        self.context = context
        self.serve = serve
        self.ready = threading.Event()

    def __enter__(self) -> Server:
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()))
        self.thread.start()
        assert self.ready.wait(30)
        return self.server

    async def main(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self.serve, tls=self.context) as self.server:
            self.ready.set()
            await self.stop.wait()

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(30)
        assert not self.thread.is_alive(), "the server thread has not stopped"
