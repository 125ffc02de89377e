"""The same page in several frameworks: it shows the class name of the loop that runs the application.

The tests of integrations start real servers with these applications and read the loop's name from the page.
"""

import asyncio
import sys
from typing import Any

__all__ = ["aiohttp_app", "asgi", "loop_name"]


def loop_name() -> str:
    """Module and name of the running loop's class."""
    kind = type(asyncio.get_running_loop())
    return f"{kind.__module__}.{kind.__qualname__}"


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The page as an ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = loop_name().encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def aiohttp_app() -> Any:
    """The page as an application of aiohttp."""
    from aiohttp import web

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=loop_name())

    app = web.Application()
    app.router.add_get("/", page)
    return app


async def aiohttp_for_gunicorn() -> Any:
    """Gunicorn calls a coroutine function for the application."""
    return aiohttp_app()


def sanic_app() -> Any:
    """The page as an application of Sanic."""
    from sanic import Sanic
    from sanic.response import text

    app = Sanic("corenet_smoke")
    app.config.USE_UVLOOP = False

    @app.get("/")
    async def page(_request: Any) -> Any:
        return text(loop_name())

    return app


def run_aiohttp(port: int) -> None:
    """Serve with aiohttp's own `run_app`."""
    from aiohttp import web

    import corenet

    web.run_app(aiohttp_app(), host="127.0.0.1", port=port, loop=corenet.new_event_loop())


def run_hypercorn(port: int) -> None:
    """Serve with hypercorn's asynchronous function, on a loop of the caller's."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    import corenet

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    corenet.run(serve(asgi, config))  # type: ignore[arg-type]


def run_uvicorn_served(port: int) -> None:
    """uvicorn's server as the application of `corenet.serve`."""
    import uvicorn

    import corenet

    async def app(worker: Any) -> None:
        server = uvicorn.Server(uvicorn.Config(asgi, log_level="warning"))
        await server.serve(sockets=list(worker.sockets))

    corenet.serve(app, f"127.0.0.1:{port}", workers=2)


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
