"""`serve`: checks the arguments, opens the sockets, and runs the supervisor or a single worker.

All arguments are checked before the first fork, and errors are raised to the caller. An exit status other than 0 is
raised as SystemExit, so that a script only needs the call.
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
    """Serve `app` from several processes, each with its own loop, until SIGTERM or SIGINT.

    `app` is a protocol factory (called for each connection, which uses TLS when `ssl` is given), a coroutine function
    that takes a `Worker`, an object with coroutines ``start(worker)`` and ``stop()``, or ``"module:name"`` of one of
    these. Each worker imports such a name itself, so that SIGHUP loads new code.

    `listen` is one address or several: a port of 127.0.0.1, ``"host:port"``, ``"[v6]:port"``, ``":port"`` for every
    address of the machine, ``"unix:path"``, a (host, port) pair, or a bound socket. The sockets are opened before the
    workers are forked and are in `Worker.sockets`.

    `workers`: number of processes; None is one for each processor, 0 serves in this process, without a supervisor.
    `mode`: "reuseport" gives each worker its own sockets, and the kernel distributes connections by a hash of their
    addresses; "exclusive" lets all workers accept from the same sockets, in rotation. `grace`: seconds that open
    connections have after a stop. `options` are set on every listening socket; connections inherit them.

    Signals: SIGTERM and SIGINT stop accepting, wait for `grace`, then abort open connections; a second one aborts them
    at once. SIGHUP replaces the workers one by one: the new one is ready before the old one stops, and no connection is
    lost. A worker that dies is restarted after a delay that doubles up to ten seconds.

    Raises:
        ValueError, TypeError: an argument is wrong.
        OSError: an address cannot be bound.
        RuntimeError: called outside the main thread, or while a loop is running.
        SystemExit: 1 when workers die too often, 3 when the application could not be started.
    """
    grace, backlog = checked_grace(grace), SERVE_BACKLOG.check(backlog, "backlog")
    if not isinstance(app, str) and kind_of(app) != "protocols" and ssl is not None:
        raise ValueError("ssl is for protocol factories; other applications pass it to the servers that they create")
    if mode not in ("reuseport", "exclusive"):
        raise ValueError(f"mode must be 'reuseport' or 'exclusive', not {mode!r}")
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    SERVE_WORKERS.check(workers, "workers")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() handles signals and must be called in the main thread")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("serve() cannot be called while a loop is running")
    if isinstance(listen, int | str | socket.socket) or is_pair(listen):
        listen = [listen]  # type: ignore[list-item]
    if options is not None:
        if options.reuse_port is False and mode == "reuseport" and workers > 1:
            raise ValueError("options.reuse_port=False contradicts mode='reuseport'; use mode='exclusive' instead")
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
    """Serve in this process. The previous handlers of SIGTERM and SIGINT are restored at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return run_worker(plan, 0, sockets, None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_pair(listen: object) -> bool:
    """Return whether `listen` is one (host, port) pair rather than two addresses."""
    return isinstance(listen, tuple) and len(listen) == 2 and isinstance(listen[0], str) and isinstance(listen[1], int)


def checked_grace(grace: float) -> float:
    """Return `grace` as float seconds in the permitted range.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range.
    """
    if not isinstance(grace, int | float) or isinstance(grace, bool) or math.isnan(grace):
        raise TypeError(f"grace must be a number of seconds, not {grace!r}")
    return float(SERVE_GRACEFUL_TIMEOUT.check(grace, "grace"))
