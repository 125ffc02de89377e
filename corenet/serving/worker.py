"""One worker process: what the application gets, when it is ready, and how it ends.

A worker ends when it is stopped (SIGTERM, or the supervisor has exited), when its application returns, or when that
fails. When stopped, it closes its listeners at once, gives open connections `grace` seconds, then aborts them. A second
SIGTERM or the supervisor's `FORCE_STOP` ends the grace. The application is a protocol factory, an object with `start`
and `stop`, or a coroutine function.
"""

import asyncio
import contextlib
import importlib
import inspect
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

from corenet.limits import SERVE_ASSUME_READY, SERVE_CANCEL_TIMEOUT
from corenet.loop import Loop, new_event_loop
from corenet.serving.processes import receive
from corenet.transports.options import SocketOptions

if TYPE_CHECKING:
    import ssl as ssl_module

__all__ = [
    "STATUS_FAILED",
    "STATUS_NO_START",
    "App",
    "Service",
    "ServiceConfig",
    "Worker",
    "kind_of",
    "load",
    "run_worker",
]

logger = logging.getLogger("corenet.serve")

STATUS_FAILED = 1
STATUS_NO_START = 3  # as uvicorn and gunicorn: the application could not be started
READY = b"r"
FORCE_STOP = b"s"
"""Sent by the supervisor to end the grace. Not a second SIGTERM, because two pending ones count as one (signal(7))."""


@runtime_checkable
class Service(Protocol):
    """An application with start and stop; `stop` may take `grace` seconds."""

    async def start(self, worker: "Worker") -> None:
        """Acquire resources and start serving on `worker.sockets`; return when ready."""

    async def stop(self) -> None:
        """Stop accepting, let requests in progress finish, and close everything."""


App: TypeAlias = str | Service | Callable[[], asyncio.BaseProtocol] | Callable[["Worker"], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class ServiceConfig:
    """The configuration that all workers of a service share."""

    app: App
    shared: bool
    grace: float
    backlog: int
    ssl: "ssl_module.SSLContext | None"
    debug: bool | None
    options: SocketOptions | None


class Worker:
    """One worker, as the application sees it: its number, its sockets, and whether it is to stop."""

    def __init__(
        self, plan: ServiceConfig, number: int, sockets: list[socket.socket], notify_ready: Callable[[], None]
    ) -> None:
        #: counts from 0; a worker that replaces another one has its number.
        self.number = number
        #: bound, listening and non-blocking; for ``create_server(sock=...)`` and similar methods.
        self.sockets = tuple(sockets)
        #: seconds from the request to stop until open connections are aborted.
        self.grace = plan.grace
        self._plan = plan
        self._announce: Callable[[], None] | None = notify_ready
        self._stopping = asyncio.Event()
        self._grace_over = asyncio.Event()
        self._watched = False

    @property
    def stopping(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._stopping.is_set()

    def ready(self) -> None:
        """Report that start-up is complete, so that the worker that this one replaces can stop; only once."""
        notify_ready, self._announce = self._announce, None
        if notify_ready is not None:
            notify_ready()

    async def until_stopped(self) -> None:
        """Report that start-up is complete, and wait until this worker is asked to stop; `grace` seconds then
        remain."""
        self._watched = True
        self.ready()
        await self._stopping.wait()

    # --- the three kinds of application ---------------------------------------------------------------------------

    async def _run(self, app: Any) -> None:
        """Run the application until it ends."""
        kind = kind_of(app)
        if kind == "service":
            await app.start(self)
            await self.until_stopped()
            await self._within_grace(app.stop())
        elif kind == "main":
            await self._serve_main(app)
        else:
            await self._serve_protocols(app)

    async def _serve_main(self, main: Callable[["Worker"], Coroutine[Any, Any, object]]) -> None:
        task = asyncio.ensure_future(main(self))
        stopping = asyncio.ensure_future(self._stopping.wait())
        settled = asyncio.get_running_loop().call_later(SERVE_ASSUME_READY, self.ready)
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self._watched:
                task.cancel()  # it does not wait for `until_stopped`; `serve_forever`, for example, needs cancelling
            await self._within_grace(task)
        finally:
            settled.cancel()
            stopping.cancel()

    async def _serve_protocols(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        loop = cast(Loop, asyncio.get_running_loop())
        servers: list[Any] = []
        for sock in self.sockets:
            backlog, ssl, options = self._plan.backlog, self._plan.ssl, self._plan.options
            if sock.family == socket.AF_UNIX:  # its file belongs to the supervisor
                servers.append(
                    await loop.create_unix_server(
                        factory, sock=sock, backlog=backlog, ssl=ssl, cleanup_socket=False, options=options
                    )
                )
            else:
                servers.append(
                    await loop.create_server(factory, sock=sock, backlog=backlog, ssl=ssl, options=options)
                )
        await self.until_stopped()
        for server in servers:
            server.close()
        await self._within_grace(asyncio.gather(*(server.wait_connections_closed() for server in servers)))
        for server in servers:
            server.abort_clients()

    async def _within_grace(self, work: Awaitable[object]) -> None:
        """Wait for `work` during the grace, which a second signal ends; then cancel it."""
        task = asyncio.ensure_future(work)
        forced = asyncio.ensure_future(self._grace_over.wait())
        try:
            await asyncio.wait({task, forced}, timeout=self.grace, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                logger.warning("worker %d: still busy after its grace; aborting open connections", self.number)
                task.cancel()
                await asyncio.wait({task}, timeout=SERVE_CANCEL_TIMEOUT)
            if task.done() and not task.cancelled():
                task.result()
        finally:
            forced.cancel()

    # --- stopping -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to stop this worker; a second call ends the grace."""
        if self._stopping.is_set():
            self._grace_over.set()
        self._stopping.set()

    def _force_stop(self) -> None:
        """Stop without grace."""
        self._grace_over.set()
        self._stopping.set()


# --- the application ----------------------------------------------------------------------------------------------


def load(app: App) -> Any:
    """Return the application; it is imported if given as ``module:name``.

    Raises:
        ImportError, AttributeError: there is no such module or name.
        ValueError: the string has not the form ``module:name``.
    """
    if not isinstance(app, str):
        return app
    module, colon, name = app.partition(":")
    if not module or not colon or not name:
        raise ValueError(f"{app!r} is not of the form module:name")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def kind_of(app: Any) -> Literal["service", "main", "protocols"]:
    """Return the kind of application.

    Raises:
        TypeError: it is none of the three.
    """
    if not isinstance(app, type):
        if callable(getattr(app, "start", None)) and callable(getattr(app, "stop", None)):
            return "service"
        if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004
            return "main"
    if callable(app):
        return "protocols"
    raise TypeError(
        f"{app!r} is not a protocol factory, a coroutine function, an object with start and stop, or 'module:name'"
    )


# --- the process --------------------------------------------------------------------------------------------------


def run_worker(plan: ServiceConfig, number: int, sockets: list[socket.socket], channel: socket.socket | None) -> int:
    """Run one worker; returns its exit status. `channel` leads to the supervisor; None without one."""
    try:
        app = load(plan.app)
        kind_of(app)
    except Exception:  # errors of the application's module, reported to its author
        logger.exception("worker %d: cannot load %r", number, plan.app)
        return STATUS_NO_START
    started = False

    def notify_ready() -> None:
        nonlocal started
        started = True
        if channel is not None:
            # A supervisor that has exited does not take it; `on_supervisor` stops this worker then.
            with contextlib.suppress(OSError):
                channel.send(READY, socket.MSG_DONTWAIT)

    async def main() -> None:
        loop = cast(Loop, asyncio.get_running_loop())
        loop.exclusive_listeners = plan.shared
        worker = Worker(plan, number, sockets, notify_ready)
        loop.add_signal_handler(signal.SIGTERM, worker.stop)
        if channel is None:
            loop.add_signal_handler(signal.SIGINT, worker.stop)
        else:
            loop.add_reader(channel, on_supervisor, loop, channel, worker)
        await worker._run(app)

    try:
        with asyncio.Runner(debug=plan.debug, loop_factory=new_event_loop) as runner:
            runner.run(main())
    except asyncio.CancelledError:
        return 0
    except Exception:
        logger.exception("worker %d: %s", number, "failed" if started else "cannot start")
        return STATUS_FAILED if started else STATUS_NO_START
    return 0


def on_supervisor(loop: asyncio.AbstractEventLoop, channel: socket.socket, worker: Worker) -> None:
    """The supervisor has sent `FORCE_STOP`, or has exited."""
    message = receive(channel)
    if message is None:
        return
    if message == FORCE_STOP:
        worker._force_stop()
        return
    loop.remove_reader(channel)
    logger.error("worker %d: the supervisor has exited; stopping", worker.number)
    worker.stop()
