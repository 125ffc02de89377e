"""`serve`: the arguments checked, the sockets opened, and the right process put to work.

Everything that can be wrong with the arguments is found before the first fork and raised to the caller. The status of
the service is raised as SystemExit where it is not 0, so that a script needs nothing more than the call.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from corenet.limits import SERVE_BACKLOG, SERVE_GRACEFUL_TIMEOUT, SERVE_WORKERS
from corenet.serving.sockets import Address, open_sockets
from corenet.serving.supervisor import Supervisor
from corenet.serving.worker import App, ServiceConfig, kind_of, run_worker
from corenet.transports.options import SocketOptions

if TYPE_CHECKING:
    import ssl as ssl_module

__all__ = ["serve"]

logger = logging.getLogger("corenet.serve")


def serve(
    app: App,
    listen: Address | Iterable[Address] = (),
    *,
    workers: int | None = SERVE_WORKERS.default,
    mode: Literal["reuseport", "exclusive"] = "reuseport",
    grace: float = SERVE_GRACEFUL_TIMEOUT.default,
    backlog: int = SERVE_BACKLOG.default,
    ssl: "ssl_module.SSLContext | None" = None,
    debug: bool | None = None,
    options: SocketOptions | None = None,
) -> None:
    """Serve `app` from several processes, each with a loop of its own, until SIGTERM or SIGINT.

    `app` is a protocol factory (each connection gets a protocol, with TLS where `ssl` is given), a coroutine function
    that takes a `Worker`, an object with coroutines ``start(worker)`` and ``stop()``, or ``"module:name"`` of any of
    these, which each worker imports for itself, so that SIGHUP brings new code into force.

    `listen` is one address or several: a port of 127.0.0.1, ``"host:port"``, ``"[v6]:port"``, ``":port"`` for every
    address of the machine, ``"unix:path"``, a (host, port) pair, or a bound socket. The sockets are opened before the
    workers are forked and are in `Worker.sockets`.

    `workers`: how many processes; None is one for each processor, 0 serves in this process, without a supervisor.
    `mode`: "reuseport" gives each worker a socket of its own, and the kernel spreads connections by their addresses;
    "exclusive" lets all accept from one, each in its turn. `grace`: seconds that open connections have after a stop.
    `options` are set on every listening socket, which hands them down to the connections that it accepts.

    Signals: SIGTERM and SIGINT stop accepting, wait for `grace`, then cut off; a second one cuts off at once. SIGHUP
    replaces the workers one by one, each by a new one that is ready before the old one stops; no connection is lost.
    A worker that dies is started again after a pause that doubles up to ten seconds.

    Raises:
        ValueError, TypeError: an argument is not right.
        OSError: an address cannot be bound.
        RuntimeError: called outside the main thread, or while a loop is running.
        SystemExit: 1 when workers die too often, 3 when the application could not be started.
    """
    grace, backlog = checked_grace(grace), SERVE_BACKLOG.check(backlog, "backlog")
    if not isinstance(app, str) and kind_of(app) != "protocols" and ssl is not None:
        raise ValueError("ssl is for protocol factories; other applications give it to the servers that they make")
    if mode not in ("reuseport", "exclusive"):
        raise ValueError(f"mode must be 'reuseport' or 'exclusive', not {mode!r}")
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    SERVE_WORKERS.check(workers, "workers")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() needs signals and so the main thread")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("serve() cannot be called while a loop is running")
    if isinstance(listen, int | str | socket.socket) or is_pair(listen):
        listen = [listen]  # type: ignore[list-item]
    if options is not None:
        if options.reuse_port is False and mode == "reuseport" and workers > 1:
            raise ValueError("options.reuse_port=False contradicts mode='reuseport'; mode='exclusive' does without")
        backlog = backlog if options.backlog is None else options.backlog
    sockets = open_sockets(listen, workers, reuseport=mode == "reuseport", backlog=backlog, options=options)
    plan = ServiceConfig(app, sockets.shared(), grace, backlog, ssl, debug, options)
    try:
        status = Supervisor(plan, sockets).run() if workers else serve_here(plan, sockets.per_worker[0])
    finally:
        sockets.close()
    if status:
        raise SystemExit(status)


def serve_here(plan: ServiceConfig, sockets: list[socket.socket]) -> int:
    """Serve in this process; SIGTERM and SIGINT are handed back to whoever had them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return run_worker(plan, 0, sockets, None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_pair(listen: object) -> bool:
    """Tell a (host, port) pair from a pair of addresses."""
    return isinstance(listen, tuple) and len(listen) == 2 and isinstance(listen[0], str) and isinstance(listen[1], int)


def checked_grace(grace: float) -> float:
    """`grace` as seconds in the permitted range."""
    if not isinstance(grace, int | float) or isinstance(grace, bool) or math.isnan(grace):
        raise TypeError(f"grace must be seconds, not {grace!r}")
    return float(SERVE_GRACEFUL_TIMEOUT.check(grace, "grace"))
