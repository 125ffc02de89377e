"""The supervisor of `serve`: which workers are replaced, restarted and stopped, and when. It accepts no connections.

A worker is replaced by starting the new one first, on the same sockets, so one always accepts.
"""

import contextlib
import logging
import signal
import socket
import time
from collections import deque

from corenet.limits import SERVE_DEATH_WINDOW, SERVE_KILL_DELAY, SERVE_MAX_DEATHS, SERVE_START_TIMEOUT
from corenet.serving.processes import Child, Processes, WorkerSlot, describe_exit
from corenet.serving.sockets import Sockets
from corenet.serving.worker import FORCE_STOP, STATUS_FAILED, STATUS_NO_START, ServiceConfig, run_worker

__all__ = ["Supervisor"]

logger = logging.getLogger("corenet.serve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor(Processes):
    """Keeps one worker running for each entry of `Sockets.per_worker`."""

    def __init__(self, plan: ServiceConfig, sockets: Sockets) -> None:
        super().__init__(len(sockets.per_worker), SIGNALS, SERVE_START_TIMEOUT, plan.grace + SERVE_KILL_DELAY, logger)
        self.plan = plan
        self.sockets = sockets
        self.deaths: deque[float] = deque(maxlen=SERVE_MAX_DEATHS + 1)
        self.to_reload: deque[WorkerSlot] = deque()
        self.all_up = False

    def work(self, number: int, channel: socket.socket) -> int:
        """In the child: run the application with the worker's own sockets."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the supervisor handles it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        mine = self.sockets.per_worker[number]
        for share in self.sockets.per_worker:
            for sock in share:
                if sock not in mine:
                    sock.close()
        return run_worker(self.plan, number, mine, channel)

    def on_ready(self, child: Child) -> None:
        """Stop the worker that `child` replaces, and continue a reload."""
        for other in child.slot.active():
            if other is not child:
                self.stop(other)
        if not self.all_up and all(any(c.ready for c in slot.children) for slot in self.slots):
            self.all_up = True
            logger.info("listening on %s with %d workers", ", ".join(self.sockets.names()), len(self.slots))
        self.reload_next()

    def on_start_failed(self, slot: WorkerSlot, error: OSError) -> None:
        """End the service if it has not started yet; else try again later."""
        if self.all_up:
            super().on_start_failed(slot, error)
            return
        logger.error("worker %d: cannot be started: %s", slot.number, error)
        self.finish(STATUS_NO_START)

    def on_death(self, child: Child, code: int) -> None:
        """Restart the worker, unless it has a replacement, or workers die too often."""
        number = child.slot.number
        why = describe_exit(code)
        if child.slot.active() and child.ready:
            logger.error("worker %d: the old one ended (%s) before the new one was ready", number, why)
            return
        if child.slot.active():
            logger.error("worker %d: the new one did not start (%s); the old one stays", number, why)
            self.to_reload.clear()
            return
        if not child.ready and not self.all_up:
            logger.error("worker %d: did not start (%s)", number, why)
            self.finish(STATUS_NO_START)
            return
        now = time.monotonic()
        self.deaths.append(now)
        if len(self.deaths) > SERVE_MAX_DEATHS and now - self.deaths[0] < SERVE_DEATH_WINDOW:
            logger.error("worker %d: ended (%s); workers die too often, giving up", number, why)
            self.finish(STATUS_FAILED)
            return
        super().on_death(child, code)

    def on_signal(self, number: signal.Signals) -> None:
        """SIGHUP reloads. The first SIGTERM or SIGINT starts the grace of every worker, the second ends it."""
        if number == signal.SIGHUP:
            self.on_reload()
        elif self.status is None:
            logger.info("stopping on %s", number.name)
            self.finish(0)
        else:
            logger.info("stopping at once on %s", number.name)
            for child in self.children():
                with contextlib.suppress(OSError):  # it has exited
                    child.channel.send(FORCE_STOP)
                if child.kill_at:
                    # Further signals do not postpone it.
                    child.kill_at = min(child.kill_at, time.monotonic() + SERVE_KILL_DELAY)

    def on_reload(self) -> None:
        """Replace all workers, one after the other."""
        if self.status is not None:
            return
        logger.info("reload: replacing the workers one after the other")
        self.to_reload = deque(self.slots)
        self.reload_next()

    def reload_next(self) -> None:
        """Start the next replacement unless one is starting. When it is ready, `on_ready` stops the old worker."""
        if self.status is not None or any(not child.ready for slot in self.slots for child in slot.active()):
            return
        if self.to_reload:
            self.start(self.to_reload.popleft())

    def finish(self, status: int) -> None:
        """Stop all workers and any reload."""
        self.to_reload.clear()
        super().finish(status)
