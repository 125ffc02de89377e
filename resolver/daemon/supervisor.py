"""The supervisor of several workers: shared cache and sockets, reloads, signals. It serves no clients.

The cache is mapped before the fork, so all workers share it. The sockets are opened before the fork, one set for each
worker, and stay open here, so queries in the queue of a dead worker are not lost. `corenet.serving.processes` forks,
restarts and stops the workers. Failed workers are always restarted, because no other program can use the port as long
as the sockets are open. The first worker leads each reload. It reports the new settings, which workers started later
get.
"""

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from corenet.serving.processes import Child, Processes, WorkerSlot, receive
from resolver import limits
from resolver.api import make_store
from resolver.daemon import cache_file, config_reload, privileges, worker
from resolver.daemon.sockets import Endpoint, close_all
from resolver.settings import Settings, replace

__all__ = ["run"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def run(
    settings: Settings, shares: list[list[Endpoint]], *, reload: Callable[[], Settings], options: worker.Options
) -> int:
    """Run one worker for each list of sockets in `shares` until a signal stops all; return the exit status.

    Raises:
        OSError: the memory of the cache or a process cannot be created.
    """
    return _Supervisor(settings, shares, reload, options).run()


class _Supervisor(Processes):
    """The parent process of the workers. `shares` has the sockets of each worker."""

    def __init__(
        self, settings: Settings, shares: list[list[Endpoint]], reload: Callable[[], Settings], options: worker.Options
    ) -> None:
        super().__init__(len(shares), SIGNALS, 0, limits.STOP_GRACE / 1000, logger)
        self.settings = settings
        self.shares = shares
        self.reload = reload
        self.options = options
        self.store = make_store(settings, shared=True)
        cache_file.load_at_start(self.store, settings)
        assert options.management is not None and options.management.links is not None
        self.reloads = options.management.links.reloads
        self.poll.register(self.reloads, select.POLLIN)
        #: numbers of the last reload that was requested, and of the last one whose result was received.
        self.requested = 0
        self.answered = 0
        self.all_started = False
        self.manager = options.manager
        self.reported_ready = False
        #: time.monotonic() of the last heartbeat of each ready worker, by pid.
        self.heartbeats: dict[int, float] = {}
        #: time.monotonic() of the next check of the heartbeats; 0: no watchdog.
        self.next_check = 0.0

    def run(self) -> int:
        gc.enable()
        try:
            return super().run()
        finally:
            cache_file.save_at_stop(self.store, self.settings)

    def poll_timeout(self) -> float | None:
        """Milliseconds until the next deadline, check of the watchdog, or change of session ticket keys."""
        keys = self.rotate_ticket_keys()
        due = [super().poll_timeout(), None if keys is None else keys * 1000]
        if self.next_check:
            due.append(max(0.0, self.next_check - time.monotonic()) * 1000 + 1)
        return min((one for one in due if one is not None), default=None)

    def rotate_ticket_keys(self) -> float | None:
        """Erase the session ticket keys of earlier periods, of which a new worker would get a copy.

        Returns the seconds until the next period; None without TLS.
        """
        certificates = self.options.certificates
        return None if certificates is None else certificates.rotate_ticket_keys(time.monotonic())

    def work(self, number: int, channel: socket.socket) -> int:
        """Run worker `number` in the child process, with only its own sockets open."""
        close_all([share for other, share in enumerate(self.shares) if other != number])
        options = replace(self.options, number=number, successor=self.all_started,
                          show_example=self.options.show_example and not number)
        try:
            return worker.run(
                self.settings, self.shares[number], reload=self.reload, store=self.store, channel=channel,
                options=options,
            )
        except (OSError, ImportError) as error:
            name = self.settings.server.user
            explanation = privileges.explain(name, error) if name else ""
            if isinstance(error, ImportError) and not explanation:
                raise
            logger.error("worker %d: %s", number, explanation or getattr(error, "strerror", None) or error)
            return 1

    def start(self, slot: WorkerSlot) -> None:
        """Fork a worker, with the settings that are in force now."""
        self.take_results()
        super().start(slot)
        if self.requested != self.answered and not slot.number:
            self.request_reload()  # the previous first worker died before it reported a result
        self.all_started = self.all_started or all(slot.children for slot in self.slots)

    def on_start_failed(self, slot: WorkerSlot, error: OSError) -> None:
        """Raise the error at the start of the daemon; later, try again."""
        if not self.all_started:
            raise error
        super().on_start_failed(slot, error)

    def on_signal(self, number: signal.Signals) -> None:
        """SIGHUP reloads, SIGUSR1 makes each worker log its counters, others stop the service."""
        if number == signal.SIGHUP:
            self.manager.reloading()
            self.requested += 1
            self.request_reload()
        elif number == signal.SIGUSR1:
            for child in self.children():
                os.kill(child.pid, signal.SIGUSR1)
        elif self.status is None:
            logger.info("stopping on %s", number.name)
            self.manager.stopping()
            self.finish(0)

    def on_ready(self, child: Child) -> None:
        """Notify the service manager when all workers serve for the first time."""
        now = time.monotonic()
        self.heartbeats[child.pid] = now
        if not self.reported_ready and all(any(one.ready for one in slot.children) for slot in self.slots):
            self.reported_ready = True
            self.manager.ready(self.describe())
            if self.manager.watchdog:
                self.next_check = now

    def on_time(self, now: float) -> None:
        """Also notify the watchdog of the service manager, and end workers without a heartbeat."""
        super().on_time(now)
        if self.next_check and now >= self.next_check and self.status is None:
            self.next_check = now + self.manager.watchdog / limits.WATCHDOG_HEARTBEATS
            self.manager.alive()
            self.check_workers(now)

    def check_workers(self, now: float) -> None:
        """End each worker whose loop has not run for the period of the watchdog. SIGABRT makes it print its stacks."""
        alive = self.children()
        self.heartbeats = {child.pid: self.heartbeats[child.pid] for child in alive if child.pid in self.heartbeats}
        for child in alive:
            if not child.ready or child.stopping:
                continue
            while receive(child.channel):
                self.heartbeats[child.pid] = now
            if now - self.heartbeats[child.pid] > self.manager.watchdog and not child.kill_at:
                logger.error("worker %d: no heartbeat for %.0f s; ending process %d", child.slot.number,
                             self.manager.watchdog, child.pid)
                child.kill_at = now + limits.STOP_GRACE / 1000
                os.kill(child.pid, signal.SIGABRT)

    def describe(self) -> str:
        """One line for the status of the service manager."""
        return f"{len(self.slots)} workers serve " + ", ".join(str(endpoint) for endpoint in self.shares[0])

    def on_readable(self, ready: set[int]) -> None:
        """Take the results of reloads from the first worker."""
        if self.reloads.fileno() in ready:
            self.take_results()

    def request_reload(self) -> None:
        """Make the first worker reload the configuration for all workers. It logs errors once for all of them."""
        for child in self.slots[0].active():
            try:
                self.reloads.request(self.requested)
            except OSError as error:
                # The worker does not read its socket, which is full. The requests in it are enough for a reload.
                logger.warning("reload: the first worker does not accept requests: %s", error.strerror)
            os.kill(child.pid, signal.SIGHUP)

    def take_results(self) -> None:
        """Read the results of reloads. New settings are used for workers that are restarted."""
        try:
            results = self.reloads.results()
        except (OSError, MemoryError) as error:
            # An exception would end the supervisor, and all workers with it. So the error is only logged.
            logger.error("reload: cannot receive the result: %s; restarted workers get the old settings",
                         config_reload.describe_error(error))
            return
        for number, settings in results:
            self.answered = max(self.answered, number)
            if settings is not None:
                self.settings = settings
        if results and self.reported_ready and self.requested == self.answered:
            refused = results[-1][1] is None
            self.manager.ready("the last reload was refused; see the log" if refused else self.describe())
