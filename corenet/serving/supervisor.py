"""The supervisor process: it forks, replaces and stops the workers. It accepts no connections.

It has no event loop, only a poll of the signal wake-up descriptor and of one channel (socket pair) for each worker. A
worker sends one byte on the channel when it is ready. Each side sees end of file when the other has died. Children are
waited for by pid, never by -1, so that other children of the program are not touched. A worker is replaced by starting
the new one first, on the same sockets, so one always accepts. When a fork fails for lack of descriptors, processes or
memory, it is retried with growing delays while the other workers serve.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from types import FrameType

from corenet.limits import (
    SERVE_DEATH_WINDOW,
    SERVE_KILL_DELAY,
    SERVE_MAX_DEATHS,
    SERVE_RESTART_DELAY,
    SERVE_RESTART_DELAY_MAX,
    SERVE_RESTART_RESET,
    SERVE_START_TIMEOUT,
    SIGNAL_READ_SIZE,
)
from corenet.serving.sockets import Sockets
from corenet.serving.worker import (
    FORCE_STOP,
    STATUS_FAILED,
    STATUS_NO_START,
    ServiceConfig,
    describe_exit,
    receive,
    run_worker,
)

__all__ = ["Supervisor"]

logger = logging.getLogger("corenet.serve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(eq=False)
class Child:
    """One worker process."""

    pid: int
    slot: "WorkerSlot"
    channel: socket.socket
    started: float
    #: its channel is registered with the poll: it has neither reported ready nor closed the channel.
    channel_polled: bool = True
    ready: bool = False
    stopping: bool = False
    #: time.monotonic() at which it is killed because it starts or stops too slowly; 0: never.
    kill_at: float = 0.0


@dataclass(eq=False)
class WorkerSlot:
    """One worker number with its sockets. It has one process, two while a worker is being replaced."""

    number: int
    children: list[Child] = field(default_factory=list)
    pause: float = SERVE_RESTART_DELAY / 1000
    start_at: float | None = None

    def active(self) -> list[Child]:
        """The processes that have not been told to stop."""
        return [child for child in self.children if not child.stopping]


class Supervisor:
    """Keeps one worker running for each entry of `Sockets.per_worker`."""

    def __init__(self, plan: ServiceConfig, sockets: Sockets) -> None:
        self.plan = plan
        self.sockets = sockets
        self.slots = [WorkerSlot(number) for number in range(len(sockets.per_worker))]
        self.deaths: deque[float] = deque(maxlen=SERVE_MAX_DEATHS + 1)
        self.to_reload: deque[WorkerSlot] = deque()
        self.status: int | None = None
        self.all_up = False
        self.poll = select.poll()
        self.wake, self.waker = socket.socketpair()

    # --- life -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal stops the service or workers die too often; returns the exit status."""
        self.wake.setblocking(False)
        self.waker.setblocking(False)
        before = {number: signal.signal(number, on_signal) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.poll.register(self.wake, select.POLLIN)
        gc.collect()
        gc.freeze()  # keeps the collector from writing to pages that the workers share with this process
        try:
            for slot in self.slots:
                if self.status is None:
                    self.start(slot)
            while self.status is None or any(slot.children for slot in self.slots):
                self.poll_once()
            return self.status
        finally:
            gc.unfreeze()
            self.kill_all()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.wake.close()
            self.waker.close()

    def poll_once(self) -> None:
        """Wait for an event or the next deadline and handle it."""
        ready = [fd for fd, _events in self.poll.poll(self.poll_timeout())]
        for child in self.children():
            if child.channel_polled and child.channel.fileno() in ready:
                self.on_channel(child)
        caught = b""
        if self.wake.fileno() in ready:
            caught = self.wake.recv(SIGNAL_READ_SIZE)
        for number in dict.fromkeys(caught):
            if number in (signal.SIGTERM, signal.SIGINT):
                self.on_stop(signal.Signals(number))
            elif number == signal.SIGHUP:
                self.on_reload()
        # Pending SIGCHLDs are merged into one (signal(7)), so every child is checked each time.
        self.reap()
        self.on_time(time.monotonic())

    def poll_timeout(self) -> float | None:
        """Milliseconds until the next deadline; None when there is none."""
        due = [child.kill_at for child in self.children() if child.kill_at]
        due += [slot.start_at for slot in self.slots if slot.start_at is not None]
        if not due:
            return None
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1

    def children(self) -> list[Child]:
        """All processes."""
        return [child for slot in self.slots for child in slot.children]

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self, slot: WorkerSlot) -> None:
        """Fork a worker for `slot`. When that fails, try again later; other workers are not affected."""
        slot.start_at = None
        try:
            pid, ours = self.fork(slot)
        except OSError as error:
            if not self.all_up:
                logger.error("worker %d: cannot be started: %s", slot.number, error)
                self.finish(STATUS_NO_START)
                return
            slot.start_at = time.monotonic() + slot.pause
            logger.error("worker %d: cannot be started: %s; trying again in %.1f s", slot.number, error, slot.pause)
            slot.pause = min(slot.pause * 2, SERVE_RESTART_DELAY_MAX / 1000)
            return
        now = time.monotonic()
        child = Child(pid, slot, ours, now, kill_at=now + SERVE_START_TIMEOUT)
        slot.children.append(child)
        self.poll.register(ours, select.POLLIN)
        logger.info("worker %d: started (process %d)", slot.number, pid)

    def fork(self, slot: WorkerSlot) -> tuple[int, socket.socket]:
        """Fork a process; returns its pid and our end of its channel.

        Raises:
            OSError: the limit of processes or descriptors is reached, or memory is short.
        """
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            flush_output()
            # Signals are blocked until the child has installed its own handlers.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                pid = os.fork()
                if not pid:
                    self.run_child(slot, ours, theirs, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    def run_child(self, slot: WorkerSlot, ours: socket.socket, theirs: socket.socket, mask: set[int]) -> None:
        """Run in the child; does not return."""
        status = STATUS_FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, exit_before_loop)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the supervisor handles it
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            ours.close()
            self.wake.close()
            self.waker.close()
            for child in self.children():
                child.channel.close()
            mine = self.sockets.per_worker[slot.number]
            for share in self.sockets.per_worker:
                for sock in share:
                    if sock not in mine:
                        sock.close()
            status = run_worker(self.plan, slot.number, mine, theirs)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - the child must not continue the parent's program
            traceback.print_exc()
        finally:
            try:
                flush_output()
            finally:
                os._exit(status)

    def on_channel(self, child: Child) -> None:
        """A worker has sent its ready byte, or closed the channel; `reap` handles its death."""
        child.channel_polled = False
        self.poll.unregister(child.channel)
        # Nothing: it is dead, and a process forked by it still holds its end of the channel.
        if not receive(child.channel) or child.stopping:
            return
        child.ready = True
        child.kill_at = 0.0
        logger.info("worker %d: ready (process %d)", child.slot.number, child.pid)
        for other in child.slot.active():
            if other is not child:
                self.stop(other)
        if not self.all_up and all(any(c.ready for c in slot.children) for slot in self.slots):
            self.all_up = True
            logger.info("listening on %s with %d workers", ", ".join(self.sockets.names()), len(self.slots))
        self.reload_next()

    # --- deaths ---------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Handle every worker that has ended."""
        for child in self.children():
            pid, raw = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            if child.channel_polled:
                self.on_channel(child)  # it may have become ready before it died
            child.slot.children.remove(child)
            child.channel.close()
            self.on_death(child, os.waitstatus_to_exitcode(raw))

    def on_death(self, child: Child, code: int) -> None:
        """Restart the worker, unless it was stopped, has a replacement, or workers die too often."""
        number = child.slot.number
        why = describe_exit(code)
        if child.stopping:
            logger.log(logging.WARNING if code else logging.INFO, "worker %d: ended (%s)", number, why)
            return
        if self.status is not None:
            return
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
        if now - child.started >= SERVE_RESTART_RESET:
            child.slot.pause = SERVE_RESTART_DELAY / 1000
        child.slot.start_at = now + child.slot.pause
        logger.error("worker %d: ended (%s); starting it again in %.1f s", number, why, child.slot.pause)
        child.slot.pause = min(child.slot.pause * 2, SERVE_RESTART_DELAY_MAX / 1000)

    def on_time(self, now: float) -> None:
        """Start workers whose delay is over, kill those that start or stop too slowly."""
        for slot in self.slots:
            if slot.start_at is not None and slot.start_at <= now:
                self.start(slot)
        for child in self.children():
            if child.kill_at and child.kill_at <= now:
                what = "does not stop" if child.stopping else "is not ready"
                logger.warning("worker %d: %s; killing process %d", child.slot.number, what, child.pid)
                child.kill_at = 0.0
                os.kill(child.pid, signal.SIGKILL)

    # --- reloading and stopping -----------------------------------------------------------------------------------

    def on_reload(self) -> None:
        """Replace all workers, one after the other."""
        if self.status is not None:
            return
        logger.info("reload: replacing the workers one after the other")
        self.to_reload = deque(self.slots)
        self.reload_next()

    def reload_next(self) -> None:
        """Start the next replacement unless one is starting. When it is ready, `on_channel` stops the old worker."""
        if self.status is not None or any(not child.ready for slot in self.slots for child in slot.active()):
            return
        if self.to_reload:
            self.start(self.to_reload.popleft())

    def stop(self, child: Child) -> None:
        """Send SIGTERM to a worker, and set the time at which it is killed."""
        child.stopping = True
        child.kill_at = time.monotonic() + self.plan.grace + SERVE_KILL_DELAY
        os.kill(child.pid, signal.SIGTERM)

    def finish(self, status: int) -> None:
        """Stop all workers; the service ends with `status` when they have exited."""
        self.status = status
        self.to_reload.clear()
        for slot in self.slots:
            slot.start_at = None
            for child in slot.active():
                self.stop(child)

    def on_stop(self, number: signal.Signals) -> None:
        """The first signal starts the grace of every worker, the second ends it."""
        if self.status is None:
            logger.info("stopping on %s", number.name)
            self.finish(0)
            return
        logger.info("stopping at once on %s", number.name)
        for child in self.children():
            with contextlib.suppress(OSError):  # it has exited
                child.channel.send(FORCE_STOP)
            if child.kill_at:
                # Further signals do not postpone it.
                child.kill_at = min(child.kill_at, time.monotonic() + SERVE_KILL_DELAY)

    def kill_all(self) -> None:
        """Kill and reap all processes, so that none is left behind after an error."""
        for child in self.children():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.channel.close()


def flush_output() -> None:
    """Flush stdout and stderr, so that the child does not write the buffered text again. Errors are ignored."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def on_signal(_number: int, _frame: FrameType | None) -> None:
    """Set only so that the interpreter writes the signal number to the wake-up descriptor, which `poll_once` reads."""


def exit_before_loop(_number: int, _frame: FrameType | None) -> None:
    """Handler of SIGTERM in a worker that has no loop yet."""
    raise SystemExit(0)
