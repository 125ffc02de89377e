"""The supervisor of several workers: shared cache and sockets, reloads, signals. It serves no clients.

The cache is mapped before the fork, so all workers share it. The sockets are opened before the fork, one set for each
worker, and stay open here, so queries in the queue of a dead worker are not lost. `corenet.serving.processes` forks,
restarts and stops the workers. The first worker leads each reload. It reports the new settings, which workers started
later get, and which ones are in force with the run-time changes, on which the content of the cache depends.

A worker has `server.start-timeout` to become ready, else it is killed: the queries in the sockets of a hung one are not
read. What the end of a worker means depends on the state of the daemon:

* starting: not all workers have been ready (`reported_ready` is False). The start fails with status 1, as that of a
  single worker does: its cause would most likely stop the next process, too, and the service manager would wait.
* serving: the worker is started again with growing delays, without end, because no other program can use the port as
  long as the sockets are open.
* upgrading to this process (`predecessor` is set): the upgrade fails, and the old process keeps serving.
* stopping: nothing.
"""

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from corenet.serving.processes import Child, Processes, WorkerSlot, describe_exit, receive
from resolver import limits
from resolver.api import make_store
from resolver.daemon import cache_file, config_reload, preflight, privileges, worker
from resolver.daemon.exit_status import EXIT_CONFIG, EXIT_FAILED, print_problems
from resolver.daemon.predecessor import Predecessor
from resolver.daemon.runtime_changes import in_force
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import Endpoint, close_all
from resolver.daemon.successor import REPLACED, Successor, pass_on_reload
from resolver.daemon.worker_commands import add_counters
from resolver.daemon.worker_ipc import NO_RELOAD, RELOAD_BEGINS
from resolver.daemon.worker_options import Options
from resolver.daemon.worker_upgrade import CONFIRMED, HANDED_OVER, IN_PROGRESS
from resolver.log_limit import LimitedWarning
from resolver.settings import Settings, replace

__all__ = ["run"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run(
    settings: Settings, shares: list[list[Endpoint]], *, reload: Callable[[], Settings], options: Options
) -> int:
    """Run one worker for each list of sockets in `shares` until a signal stops all; return the exit status.

    Raises:
        OSError: the memory of the cache or a process cannot be created.
    """
    return _Supervisor(settings, shares, reload, options).run()


class _Supervisor(Processes):
    """The parent process of the workers. `shares` has the sockets of each worker."""

    def __init__(
        self, settings: Settings, shares: list[list[Endpoint]], reload: Callable[[], Settings], options: Options
    ) -> None:
        super().__init__(len(shares), SIGNALS, settings.server.start_timeout, limits.STOP_GRACE / 1000, logger)
        self.start_hint = " (server.start-timeout); a hook module, a list or a file may hold it up"
        self.settings = settings
        #: `settings` with the run-time changes, on which the content of the cache depends.
        self.in_force = in_force(settings)
        self.shares = shares
        self.reload = reload
        self.options = options
        self.store = make_store(settings, shared=True)
        #: the process that this one replaces, until that has confirmed.
        self.predecessor = options.predecessor
        if self.predecessor is None:
            cache_file.load_at_start(self.store, self.in_force)
        else:
            self.predecessor.load_cache(self.store, self.in_force)
            self.poll.register(self.predecessor.fileno(), select.POLLIN)
        #: the process that is to replace this one, and the time.monotonic() of its next slice.
        self.successor: Successor | None = None
        self.next_slice = 0.0
        #: processes of upgrades that have failed, until they have ended.
        self.refused: list[Successor] = []
        #: the process that serves in place of this one, which completes its queries and ends; 0: none.
        self.replaced_by = 0
        #: a reload waits for the end of an upgrade.
        self.reload_after = False
        # A program that repeats the signal must not fill the disk.
        self.refusals = LimitedWarning(logger, different=limits.LOG_FAILURES)
        assert options.management is not None and options.management.channels is not None
        self.reloads = options.management.channels.reloads
        self.upgrades = options.management.channels.upgrades
        self.poll.register(self.reloads, select.POLLIN)
        self.poll.register(self.upgrades, select.POLLIN)
        #: numbers of the last reload that was requested, and of the last one whose result was received.
        self.requested = 0
        self.answered = 0
        #: the service manager was told that a reload begins, and not yet that it has ended.
        self.reload_shown = False
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
            if self.successor is not None:
                self.successor.kill()
                self.successor.close()
            if not self.replaced_by and self.predecessor is None:
                self.take_results()  # the last changes
                cache_file.save_at_stop(self.store, self.in_force)

    def poll_once(self) -> None:
        """An exception ends this process: before its workers are killed, it withdraws from an upgrade."""
        try:
            super().poll_once()
        except BaseException:
            if self.predecessor is not None:
                self.predecessor.withdraw(reload=self.reload_after)
            raise

    def poll_timeout(self) -> float | None:
        """Milliseconds until the next deadline, check of the watchdog, or change of session ticket keys."""
        keys = self.rotate_ticket_keys()
        due = [super().poll_timeout(), None if keys is None else keys * 1000]
        if self.next_check:
            due.append(max(0.0, self.next_check - time.monotonic()) * 1000 + 1)
        if self.successor is not None:
            due.append(max(0.0, self.next_slice - time.monotonic()) * 1000)
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
        for other in (self.predecessor, self.successor):
            if other is not None:
                other.close()
        options = replace(self.options, number=number, successor=self.all_started, predecessor=None,
                          confirmed=self.predecessor is None, upgrading=self.successor is not None,
                          show_example=self.options.show_example and not number)
        try:
            return worker.run(
                self.settings, self.shares[number], reload=self.reload, store=self.store, channel=channel,
                options=options,
            )
        except ValueError as error:
            print_problems(self.options.config, error)
            return EXIT_CONFIG
        except (OSError, ImportError) as error:
            name = self.settings.server.user
            explanation = privileges.explain(name, error) if name else ""
            if not explanation:
                if isinstance(error, ImportError):
                    raise
                explanation = preflight.explain(error)
            logger.error("worker %d: %s", number, explanation)
            return EXIT_FAILED

    def start(self, slot: WorkerSlot) -> None:
        """Fork a worker, with the settings that are in force now."""
        self.take_results()
        self.start_timeout = self.settings.server.start_timeout
        super().start(slot)
        if not slot.number:
            self.complete_reload()
        self.all_started = self.all_started or all(slot.children for slot in self.slots)

    def on_start_failed(self, slot: WorkerSlot, error: OSError) -> None:
        """Raise the error at the start of the daemon; later, try again."""
        if not self.all_started:
            raise error
        super().on_start_failed(slot, error)

    def on_signal(self, number: signal.Signals) -> None:
        """SIGHUP reloads, SIGUSR1 makes each worker log its counters, SIGUSR2 upgrades, others stop the service."""
        if number == signal.SIGHUP and self.replaced_by:
            pass_on_reload(self.replaced_by)
        elif number == signal.SIGHUP and (self.successor is not None or self.predecessor is not None):
            self.reload_after = True
        elif number == signal.SIGHUP and self.status is None:
            self.show_reloading()
            self.requested += 1
            self.request_reload()
        elif number == signal.SIGUSR1:
            for child in self.children():
                os.kill(child.pid, signal.SIGUSR1)
        elif number == signal.SIGUSR2:
            self.start_upgrade()
        elif self.status is None:
            logger.info("stopping on %s", number.name)
            self.finish(0)
            self.leave_upgrade(number)
            if self.predecessor is None:
                self.manager.stopping()
            if self.successor is not None:
                self.next_slice = time.monotonic()
                self.successor.stop(self.next_slice)
        elif self.replaced_by:
            logger.warning(REPLACED, number.name, self.replaced_by)
            for child in self.children():
                self.stop(child)

    def on_ready(self, child: Child) -> None:
        """Notify the service manager when all workers serve for the first time."""
        now = time.monotonic()
        self.heartbeats[child.pid] = now
        if not self.reported_ready and all(any(one.ready for one in slot.children) for slot in self.slots):
            self.reported_ready = True
            if self.predecessor is not None:
                self.predecessor.ready()
            else:
                self.begin_notifications()

    def begin_notifications(self) -> None:
        """This is the main process of the service, and all workers serve."""
        self.manager.ready(self.describe())
        if self.manager.watchdog:
            self.next_check = time.monotonic()

    def on_death(self, child: Child, code: int) -> None:
        """Restart the worker; when its end shows that the start or an upgrade to this process fails, say so and end."""
        if not child.ready:
            self.count_failed_start(child.slot.number)
        status = EXIT_CONFIG if code == EXIT_CONFIG else EXIT_FAILED
        why = f"worker {child.slot.number} ended ({describe_exit(code)}) before all served; the log says why"
        if self.predecessor is not None and self.status is None:
            if self.predecessor.fail(why, reload=self.reload_after):
                logger.error("upgrade: %s", why)
                self.finish(status)
                return
            self.take_over(self.predecessor)  # it has confirmed already, so no other process serves
        if self.predecessor is None and self.reported_ready:
            super().on_death(child, code)
        elif self.status is None:
            logger.error("start: %s", why)
            self.finish(status)

    def count_failed_start(self, number: int) -> None:
        """Count the start of a worker that has ended before it could count itself. Its successor continues with it."""
        assert self.options.management is not None and self.options.management.kept is not None
        kept = self.options.management.kept
        counters = kept.load(number)
        add_counters(counters, {"process": {"starts": 1, "start_failures": 1}})
        try:
            kept.save(number, counters)
        except ValueError as error:
            logger.warning("worker %d: its failed start is not counted: %s", number, error)

    def unfinished(self) -> bool:
        """Also wait for the end of a new process that was stopped."""
        return super().unfinished() or self.successor is not None

    def reap(self) -> None:
        """Also read the status of the processes of upgrades that have failed. SIGCHLD says when one ends."""
        super().reap()
        self.refused = [one for one in self.refused if not one.ended()]

    def on_time(self, now: float) -> None:
        """Also notify the watchdog of the service manager, and end workers without a heartbeat."""
        super().on_time(now)
        if self.successor is not None and now >= self.next_slice:
            self.advance_upgrade()
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
        # An upgrade to fewer workers gives several sockets of an address to one.
        return f"{len(self.slots)} workers serve " + ", ".join(dict.fromkeys(map(str, self.shares[0])))

    def on_readable(self, ready: set[int]) -> None:
        """Take what the first worker and the other process of an upgrade have said."""
        if self.reloads.fileno() in ready:
            self.take_results()
        if self.upgrades.fileno() in ready and self.upgrades.requested():
            self.start_upgrade()
        if self.successor is not None and self.successor.fileno() in ready:
            self.advance_upgrade()
        if self.predecessor is not None and self.predecessor.fileno() in ready:
            self.on_predecessor(self.predecessor)

    # --- upgrades -------------------------------------------------------------------------------------------------

    def on_predecessor(self, predecessor: Predecessor) -> None:
        """The old process has confirmed, or has ended."""
        confirmed = predecessor.confirmed()
        if confirmed:
            self.take_over(predecessor)
        if confirmed is not False:
            return
        self.poll.unregister(predecessor.fileno())
        predecessor.close()
        if self.status is None:
            logger.error("upgrade: the old process has ended before it confirmed")
            self.finish(1)

    def leave_upgrade(self, number: signal.Signals) -> None:
        """This process stops. Before the confirmation that ends the upgrade, and the old process keeps serving. After
        it, also when it was not read yet, this is the main process that stops."""
        if self.predecessor is not None and not self.predecessor.fail(
            f"stopped on {number.name}", reload=self.reload_after
        ):
            self.take_over(self.predecessor)

    def take_over(self, predecessor: Predecessor) -> None:
        """This is the main process now."""
        self.poll.unregister(predecessor.fileno())
        predecessor.close()
        self.predecessor = None
        assert self.options.management is not None
        self.options.management.owns_path = True
        if predecessor.flushed:
            self.clear_cache()
        for child in self.children():
            self.notify_child(child, CONFIRMED)
        if self.status is not None:
            return
        self.begin_notifications()
        if self.reload_after:
            self.reload_after = False
            self.on_signal(signal.SIGHUP)

    def clear_cache(self) -> None:
        """Flush the cache, of which the old process has flushed some during the upgrade."""
        try:
            self.store.clear()
            logger.info("cache: flushed, because the old process has flushed some of it during the upgrade")
        except BlockingIOError as error:
            logger.warning("upgrade: flushed answers stay cached until their TTL expires: %s", error)

    @staticmethod
    def notify_child(child: Child, what: bytes) -> None:
        """Tell a worker what has become of an upgrade, or end it when it does not read."""
        try:
            child.channel.send(what, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            os.kill(child.pid, signal.SIGTERM)

    def start_upgrade(self) -> None:
        """Start a new process, unless that is impossible now; tell the first worker."""
        trouble = ""
        if self.successor is not None or self.predecessor is not None:
            self.refusals.warn("upgrade: refused: %s", IN_PROGRESS)
            return  # the result of the other one is also that of this request
        if self.status is not None:
            trouble = IN_PROGRESS
        elif not self.reported_ready:
            trouble = "not all workers have started"
        elif self.requested != self.answered:
            trouble = "a reload is in progress"
        else:
            self.take_results()
            pieces = cache_file.snapshot(self.store, self.in_force)
            now = time.monotonic()
            try:
                self.successor = Successor(self.shares, self.options.management, self.manager, pieces,
                                           now + self.settings.server.upgrade_timeout,
                                           lambda: self.store.table.serial)
            except ValueError as error:
                trouble = str(error)
        if self.successor is None:
            self.refusals.warn("upgrade: refused: %s", trouble)
            self.upgrades.report({"running": False, "pid": 0, "error": trouble})
            return
        self.poll.register(self.successor.fileno(), select.POLLIN)
        self.next_slice = now
        self.upgrades.report({"running": True})

    def advance_upgrade(self) -> None:
        """Do a slice of the upgrade."""
        assert self.successor is not None
        now = time.monotonic()
        self.next_slice = now + self.successor.advance(now)
        if self.successor.ending:
            self.stop_watching(self.successor)
        error = self.successor.outcome
        if error or (error is not None and self.successor.confirm(now)):
            self.end_upgrade(self.successor, error)

    def end_upgrade(self, successor: Successor, error: str) -> None:
        """The upgrade has failed with `error`, or the new process serves."""
        self.successor = None
        self.stop_watching(successor)
        successor.close()
        if error:
            self.refused.append(successor)
            self.reload_after = self.reload_after or successor.reload_asked
        self.upgrades.report({"running": False, "pid": 0 if error else successor.pid, "error": error})
        if not error:
            self.hand_over(successor.pid)
        reload_after, self.reload_after = self.reload_after, False
        if reload_after:
            self.on_signal(signal.SIGHUP)

    def stop_watching(self, successor: Successor) -> None:
        """Do not poll its channel any more, if that is still done."""
        with suppress(KeyError):
            self.poll.unregister(successor.fileno())

    def hand_over(self, pid: int) -> None:
        """Process `pid` serves: let all workers complete their queries and end, and do not remove or write what it
        uses."""
        self.replaced_by = pid
        self.next_check = 0.0
        self.manager = ServiceManager()
        self.status = 0
        until = time.monotonic() + self.settings.iteration.query_timeout + limits.STOP_GRACE / 1000
        for slot in self.slots:
            slot.start_at = None
            for child in slot.active():
                child.stopping = True
                child.kill_at = until
                self.notify_child(child, HANDED_OVER)

    def request_reload(self) -> None:
        """Make the first worker reload the configuration for all workers. It logs errors once for all of them."""
        for child in self.slots[0].active():
            try:
                self.reloads.request(self.requested)
            except OSError as error:
                # The worker does not read its socket, which is full. The requests in it are enough for a reload.
                logger.warning("reload: the first worker does not accept requests: %s", error.strerror)
            os.kill(child.pid, signal.SIGHUP)

    def complete_reload(self) -> None:
        """After a start of the first worker: the one before may have died in a reload, and reports no result."""
        if self.requested != self.answered:
            self.request_reload()
        elif self.reload_shown:  # `resolverctl` has requested it and was told of the failure
            self.show_ready("the last reload was not completed; see the log")

    def take_results(self) -> None:
        """Read the results of reloads. New settings are used for workers that are restarted."""
        try:
            results = self.reloads.results()
        except (OSError, MemoryError) as error:
            # An exception would end the supervisor, and all workers with it. So the error is only logged.
            self._log_lost_result(error)
            return
        for number, settings in results:
            self.answered = max(self.answered, number)
            if isinstance(settings, OSError):
                self._log_lost_result(settings)
            elif settings is not None:
                self.settings, self.in_force = settings
            if not self.reported_ready or self.status is not None or number == NO_RELOAD:
                continue
            if number == RELOAD_BEGINS:
                self.show_reloading()
            elif self.requested == self.answered:
                self.show_ready("the last reload was refused; see the log" if settings is None else self.describe())

    def _log_lost_result(self, error: Exception) -> None:
        logger.error("reload: cannot receive the result: %s; restarted workers get the old settings",
                     config_reload.describe_error(error))

    def show_reloading(self) -> None:
        """Tell the service manager that a reload begins."""
        self.reload_shown = True
        self.manager.reloading()

    def show_ready(self, status: str) -> None:
        """Tell the service manager that the reload has ended."""
        self.reload_shown = False
        self.manager.ready(status)
