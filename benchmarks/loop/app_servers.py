"""The servers of bench_apps: uvicorn and aiohttp, each with an application that sends thirteen bytes."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

TEXT = "Hello, world!"


async def start_uvicorn(listener: socket.socket, keep: set[object]) -> None:
    """uvicorn with httptools and an ASGI function, without access log."""
    import uvicorn

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(TEXT))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": TEXT.encode()})

    class Server(uvicorn.Server):
        """Does not install signal handlers; it ends with its process."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app, http="httptools", interface="asgi3", lifespan="off", access_log=False, log_level="error"
    )
    keep.add(asyncio.get_running_loop().create_task(Server(config).serve(sockets=[listener])))


async def start_aiohttp(listener: socket.socket, keep: set[object]) -> None:
    """aiohttp's server with one route, without access log."""
    from aiohttp import web

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text=TEXT)

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    keep.add(runner)


APPS: dict[str, Callable[[socket.socket, set[object]], Awaitable[None]]] = {
    "uvicorn": start_uvicorn,
    "aiohttp": start_aiohttp,
}


async def start(kind: str, keep: set[object]) -> int:
    """Start the named server, put what must stay alive into `keep`, and return the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port: int = listener.getsockname()[1]
    await APPS[kind](listener, keep)
    return port
