"""The supervisor of several workers: forks and restarts them and forwards signals. It serves no clients.

The cache is mapped before the fork, so all workers share it. The sockets are opened before the fork, one set for each
worker, and stay open here, so queries in the queue of a dead worker are not lost. The supervisor has no event loop: it
waits for signals with a timeout until the next restart. Each worker holds the read end of a pipe whose write end only
the supervisor has, and exits when that end closes.

A worker is running or waiting for its restart (`Restarts`). Deaths are counted for each worker separately, so an event
that kills all at once, such as lack of memory, counts once for each. The delay grows with repeated deaths up to a
maximum. Restarts never stop, because no other program can use the port as long as the sockets are open.
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
    """Run one worker for each of `shares` until a signal stops it; return the exit status of the daemon.

    Raises:
        OSError: the memory of the cache or a process cannot be created.
    """
    return _Supervisor(settings, shares, reload, options).run()


class Restarts:
    """Schedule of restarts. `now` is in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._started: dict[int, float] = {}
        self._short_lives: dict[int, int] = {}
        self._due: dict[int, float] = {}

    def started(self, number: int, now: float) -> None:
        """Worker `number` was started."""
        self._started[number] = now
        self._due.pop(number, None)

    def exited(self, number: int, now: float) -> float:
        """Worker `number` has exited or could not be started; return the seconds until its restart."""
        lived = now - self._started.pop(number, now)
        short = 0 if lived >= limits.WORKER_RESTART_WINDOW else self._short_lives.get(number, 0)
        self._short_lives[number] = short + 1
        delay: float = min(limits.WORKER_RESTART_DELAY << min(short, 32), limits.WORKER_RESTART_LONGEST)
        self._due[number] = now + delay / 1000
        return delay / 1000

    def due(self, now: float) -> list[int]:
        """The workers that are due for a restart."""
        return [number for number, when in self._due.items() if when <= now]

    def rest(self, now: float) -> float | None:
        """Seconds until the next restart; None when all workers run."""
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
                pass  # a pending signal would kill this process when it is unblocked
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def rotate_ticket_keys(self) -> float | None:
        """Forget the session ticket keys of earlier periods, of which a new worker would get a copy. Returns the
        seconds until the next period; None without TLS."""
        certificates = self.options.certificates
        return None if certificates is None else certificates.rotate_ticket_keys(time.monotonic())

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
            # The parent sees only the exit status, so the traceback is logged here.
            logger.critical("worker %d: exiting after an unexpected exception; this is a bug", number, exc_info=True)
        finally:
            sys.stderr.flush()
            os._exit(status)  # the child must not run the cleanup of the parent

    def worker_main(self, number: int) -> int:
        """Run worker `number` in the child process, with only its own sockets open."""
        os.close(self.parent_pipe[1])
        for other, share in enumerate(self.shares):
            if other != number:
                for endpoint in share:
                    endpoint.close()
        # The worker unblocks SIGHUP and SIGUSR1 when it has handlers.
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
        """Handle signals until one stops the service."""
        while True:
            rests = [self.restarts.rest(time.monotonic()), self.rotate_ticket_keys()]
            rest = min((one for one in rests if one is not None), default=None)
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
        """Make the first worker lead a reload of all workers. It logs errors once for all."""
        for pid, number in self.children.items():
            if not number:
                try:
                    self.reloads.request(self.asked)
                except OSError as error:
                    # The worker does not run and the socket is full. The requests in it are sufficient.
                    logger.warning("reload: the first worker does not accept requests: %s", error.strerror)
                os.kill(pid, signal.SIGHUP)

    def on_reload_done(self) -> None:
        """Read the results of reloads. New settings are used for workers that are restarted."""
        try:
            results = self.reloads.results()
        except (OSError, MemoryError) as error:
            logger.error("reload: cannot receive the result: %s; restarted workers get the old settings",
                         config_reload.describe_error(error))
            return
        for number, settings in results:
            self.answered = max(self.answered, number)
            if settings is not None:
                self.settings = settings

    def reap_children(self) -> None:
        """Schedule the restart of workers that have exited."""
        for pid, number in list(self.children.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if not gone:
                continue
            del self.children[pid]
            code = os.waitstatus_to_exitcode(status)
            why = f"signal {signal_name(-code)}" if code < 0 else f"status {code}"
            delay = self.restarts.exited(number, time.monotonic())
            logger.error("worker %d: exited (%s); restarting in %.1f seconds", number, why, delay)

    def restart(self) -> None:
        """Start the workers that are due."""
        for number in self.restarts.due(time.monotonic()):
            try:
                self.start(number)
            except OSError as error:
                delay = self.restarts.exited(number, time.monotonic())
                logger.error("worker %d: cannot start (%s); retrying in %.1f seconds", number,
                             error.strerror or error, delay)
                continue
            if self.answered != self.asked and not number:
                self.request_reload()  # the previous first worker died before it reported a result

    def stop(self) -> None:
        """Stop all workers: SIGTERM, after the grace period SIGKILL."""
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + limits.STOP_GRACE / 1000
        while self.children and (left := until - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            for pid in list(self.children):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self.children[pid]
        for pid, number in self.children.items():
            logger.warning("worker %d: did not stop in time; killing it", number)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.children.clear()
