"""Several workers: one process that forks them, restarts the dead and passes signals on; it serves nobody itself.

The memory of the cache is mapped before the fork, so every worker profits from every miss; the sockets are opened
before it too, one set for each worker, and stay open here, so a worker that dies loses no query that waits in its
queue. The supervisor has no event loop: it waits for signals, which is all that ever happens to it, and for the time of
the next restart. Each worker holds the reading end of a pipe whose writing end only the supervisor has, and leaves when
that end is gone.

A worker is running or waits for its restart (`Restarts`). Deaths are counted for each worker alone, so that what kills
all at once, as a shortage of memory does, counts once; one that dies again and again is started ever later, and never
given up: as long as the sockets are ours, nobody else can serve in our place.
"""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

from resolver import limits
from resolver.api import make_store
from resolver.daemon import cache_file, config_reload, worker
from resolver.daemon.sockets import Endpoint
from resolver.settings import Settings, replace

__all__ = ["Restarts", "run"]

logger = logging.getLogger(__name__)

SIGNALS = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, config_reload.RELOAD_DONE}
)


def run(
    settings: Settings, shares: list[list[Endpoint]], *, reload: Callable[[], Settings], options: worker.Options
) -> int:
    """Keep one worker for each of `shares` alive until a signal ends it; the exit status of the daemon.

    Raises:
        OSError: when the cache's memory or a process cannot be had.
    """
    return _Supervisor(settings, shares, reload, options).run()


class Restarts:
    """When dead workers are started again; without a clock: `now` are seconds of any."""

    def __init__(self) -> None:
        self._started: dict[int, float] = {}
        self._short_lives: dict[int, int] = {}
        self._due: dict[int, float] = {}

    def started(self, number: int, now: float) -> None:
        """Worker `number` runs."""
        self._started[number] = now
        self._due.pop(number, None)

    def exited(self, number: int, now: float) -> float:
        """Worker `number` has ended, or could not be started: seconds until it is to be started again."""
        lived = now - self._started.pop(number, now)
        short = 0 if lived >= limits.WORKER_RESTART_WINDOW else self._short_lives.get(number, 0)
        self._short_lives[number] = short + 1
        delay: float = min(limits.WORKER_RESTART_DELAY << min(short, 32), limits.WORKER_RESTART_LONGEST)
        self._due[number] = now + delay / 1000
        return delay / 1000

    def due(self, now: float) -> list[int]:
        """The workers whose time has come."""
        return [number for number, when in self._due.items() if when <= now]

    def rest(self, now: float) -> float | None:
        """Seconds until the next one's time; None when all run."""
        return max(min(self._due.values()) - now, 0.0) if self._due else None


def signal_name(number: int) -> str:
    """The name of a signal; a worker may have died of one for which Python has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class _Supervisor:
    def __init__(
        self, settings: Settings, shares: list[list[Endpoint]], reload: Callable[[], Settings], options: worker.Options
    ) -> None:
        self.settings = settings
        self.shares = shares
        self.reload = reload
        self.options = options
        self.store = make_store(settings, shared=True)
        cache_file.load_at_start(self.store, settings)
        self.children: dict[int, int] = {}
        self.restarts = Restarts()
        self.parent_pipe = os.pipe()
        assert options.management is not None and options.management.links is not None
        self.reloads = options.management.links.reloads
        self.asked = 0
        self.answered = 0

    def run(self) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        gc.collect()
        gc.freeze()  # the children share these pages as long as nobody writes to them
        gc.enable()
        try:
            for number in range(len(self.shares)):
                self.start(number)
            return self.watch()
        finally:
            self.stop()
            cache_file.save_at_stop(self.store, self.settings)
            os.close(self.parent_pipe[0])
            os.close(self.parent_pipe[1])
            while signal.sigtimedwait((config_reload.RELOAD_DONE,), 0) is not None:
                pass  # what a worker said last would end this process, once it is let in
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def start(self, number: int) -> None:
        """Fork worker `number`."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.children[pid] = number
            self.restarts.started(number, time.monotonic())
            return
        status = 1
        try:
            status = self.worker_main(number)
        except BaseException:
            # The parent sees a number only; what happened is known here and nowhere else.
            logger.critical("worker %d ends on a fault of its own", number, exc_info=True)
        finally:
            sys.stderr.flush()
            os._exit(status)  # nothing of the parent's may be unwound in a child

    def worker_main(self, number: int) -> int:
        """Run in the child: only this worker's sockets stay open."""
        os.close(self.parent_pipe[1])
        for other, share in enumerate(self.shares):
            if other != number:
                for endpoint in share:
                    endpoint.close()
        # The worker lets in SIGHUP and SIGUSR1 itself, when it can hear them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS - {signal.SIGHUP, signal.SIGUSR1})
        try:
            return worker.run(
                self.settings,
                self.shares[number],
                reload=self.reload,
                store=self.store,
                parent_pipe=self.parent_pipe[0],
                options=replace(
                    self.options, number=number, show_example=self.options.show_example and not number
                ),
            )
        except OSError as error:
            logger.error("worker %d: %s", number, error.strerror or error)
            return 1

    def watch(self) -> int:
        """Handle signals until one of them ends the service."""
        while True:
            rest = self.restarts.rest(time.monotonic())
            info = signal.sigwaitinfo(SIGNALS) if rest is None else signal.sigtimedwait(SIGNALS, rest)
            if info is None:
                self.restart()
                continue
            caught = info.si_signo
            if caught in (signal.SIGTERM, signal.SIGINT):
                logger.info("stopping on %s", signal.Signals(caught).name)
                return 0
            if caught == signal.SIGHUP:
                self.asked += 1
                self.request_reload()
            elif caught == config_reload.RELOAD_DONE:
                self.on_reload_done()
            elif caught == signal.SIGUSR1:
                for pid in self.children:
                    os.kill(pid, signal.SIGUSR1)
            else:
                self.reap_children()

    def request_reload(self) -> None:
        """Have the first worker reload, and the others with it; it says what is wrong, once for all."""
        for pid, number in self.children.items():
            if not number:
                try:
                    self.reloads.request(self.asked)
                except OSError as error:
                    # It is stopped, with as many requests before it as the socket holds: the last of those will do.
                    logger.warning("reload: the first worker does not take requests: %s", error.strerror)
                os.kill(pid, signal.SIGHUP)

    def on_reload_done(self) -> None:
        """A reload has ended: where the workers have new settings, one that dies is to start with them."""
        try:
            results = self.reloads.results()
        except (OSError, MemoryError) as error:
            logger.error("reload: its result cannot be had: %s; workers that die get the settings before these",
                         config_reload.describe_error(error))
            return
        for number, settings in results:
            self.answered = max(self.answered, number)
            if settings is not None:
                self.settings = settings

    def reap_children(self) -> None:
        """Arrange for workers that have died to be started again."""
        for pid, number in list(self.children.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if not gone:
                continue
            del self.children[pid]
            code = os.waitstatus_to_exitcode(status)
            why = f"signal {signal_name(-code)}" if code < 0 else f"status {code}"
            delay = self.restarts.exited(number, time.monotonic())
            logger.error("worker %d ended (%s); starting it again in %.1f seconds", number, why, delay)

    def restart(self) -> None:
        """Start the workers whose time has come."""
        for number in self.restarts.due(time.monotonic()):
            try:
                self.start(number)
            except OSError as error:
                delay = self.restarts.exited(number, time.monotonic())
                logger.error("worker %d cannot be started (%s); trying again in %.1f seconds", number,
                             error.strerror or error, delay)
                continue
            if self.answered != self.asked and not number:
                self.request_reload()  # the one before died without an answer

    def stop(self) -> None:
        """End all workers: politely, then not."""
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + limits.STOP_GRACE / 1000
        while self.children and (left := until - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            for pid in list(self.children):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self.children[pid]
        for pid, number in self.children.items():
            logger.warning("worker %d does not stop; killed", number)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.children.clear()
