"""The process that keeps the workers alive: it forks, replaces, and stops them, and serves nobody.

It has no event loop, only a poll on the signals' wake-up and on one channel to each worker, over which a worker says
once that it is ready and by whose end each side learns of the other's death. Children are waited for by their own
number, never by "any", so that other children of the program are left alone. A worker is replaced by starting the
new one first, on the same sockets: there is always one that accepts. A process that cannot be forked for want of
descriptors, processes or memory costs nobody anything: it is tried again, at growing intervals, while the others serve.
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
)
from corenet.serving.sockets import Sockets
from corenet.serving.worker import FORCE_STOP, STATUS_FAILED, STATUS_NO_START, ServiceConfig, run_worker

__all__ = ["Supervisor"]

logger = logging.getLogger("corenet.serve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(eq=False)
class Child:
    """One process."""

    pid: int
    slot: "WorkerSlot"
    channel: socket.socket
    started: float
    #: nothing has been heard from it yet; the poll has its channel.
    not_heard_from: bool = True
    ready: bool = False
    stopping: bool = False
    #: when it is killed: too long in starting, or in stopping.
    kill_at: float = 0.0


@dataclass(eq=False)
class WorkerSlot:
    """The place of one worker: its sockets, and the one or, while it is replaced, two processes in it."""

    number: int
    children: list[Child] = field(default_factory=list)
    pause: float = SERVE_RESTART_DELAY / 1000
    start_at: float | None = None

    def active(self) -> list[Child]:
        """The processes that are not about to end."""
        return [child for child in self.children if not child.stopping]


class Supervisor:
    """Keeps one worker for each share of the sockets."""

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
        """Serve until a signal, or workers that keep dying, end it; returns the exit status."""
        self.wake.setblocking(False)
        self.waker.setblocking(False)
        before = {number: signal.signal(number, on_signal) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.poll.register(self.wake, select.POLLIN)
        gc.collect()
        gc.freeze()  # the workers share these pages as long as nobody writes to them
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
        """Wait for something to happen and deal with it."""
        ready = [fd for fd, _events in self.poll.poll(self.poll_timeout())]
        for child in self.children():
            if child.not_heard_from and child.channel.fileno() in ready:
                self.on_channel(child)
        caught = b""
        if self.wake.fileno() in ready:
            caught = self.wake.recv(4096)
        for number in dict.fromkeys(caught):
            if number in (signal.SIGTERM, signal.SIGINT):
                self.on_stop(signal.Signals(number))
            elif number == signal.SIGHUP:
                self.on_reload()
        # A signal may be merged with another of its kind, so the children are asked whenever anything happened.
        self.reap()
        self.on_time(time.monotonic())

    def poll_timeout(self) -> float | None:
        """Milliseconds to the next thing that is due."""
        due = [child.kill_at for child in self.children() if child.kill_at]
        due += [slot.start_at for slot in self.slots if slot.start_at is not None]
        if not due:
            return None
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1

    def children(self) -> list[Child]:
        """Every process, whatever it is doing."""
        return [child for slot in self.slots for child in slot.children]

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self, slot: WorkerSlot) -> None:
        """Fork a worker for `slot`; when that cannot be, try again later. The other workers are left alone."""
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
        """A new process and our end of the channel to it.

        Raises:
            OSError: there are too many processes or descriptors, or there is no memory.
        """
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            flush_output()
            # Until the child has its own handlers, a signal for it must wait.
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
            signal.signal(signal.SIGTERM, leave)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the supervisor decides what it means
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
        except BaseException:  # noqa: BLE001 - the child must not come back into the parent's program
            traceback.print_exc()
        finally:
            try:
                flush_output()
            finally:
                os._exit(status)

    def on_channel(self, child: Child) -> None:
        """A worker says that it is ready, or is gone, of which `reap` will learn."""
        child.not_heard_from = False
        self.poll.unregister(child.channel)
        try:
            said = child.channel.recv(1)
        except BlockingIOError:
            said = b""  # it is dead, and a process that it forked has its end of the channel
        if not said or child.stopping:
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
        """Take note of every worker that has ended."""
        for child in self.children():
            pid, raw = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            if child.not_heard_from:
                self.on_channel(child)  # it may have become ready before it died
            child.slot.children.remove(child)
            child.channel.close()
            self.on_death(child, os.waitstatus_to_exitcode(raw))

    def on_death(self, child: Child, code: int) -> None:
        """Start the worker again unless it was to end, or it is of no use."""
        number = child.slot.number
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
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
        """Start what has waited long enough, kill what has taken too long."""
        for slot in self.slots:
            if slot.start_at is not None and slot.start_at <= now:
                self.start(slot)
        for child in self.children():
            if child.kill_at and child.kill_at <= now:
                what = "does not stop" if child.stopping else "is not ready"
                logger.warning("worker %d: %s; killing process %d", child.slot.number, what, child.pid)
                child.kill_at = 0.0
                os.kill(child.pid, signal.SIGKILL)

    # --- renewing and stopping ------------------------------------------------------------------------------------

    def on_reload(self) -> None:
        """Replace every worker, one after the other."""
        if self.status is not None:
            return
        logger.info("renewing the workers")
        self.to_reload = deque(self.slots)
        self.reload_next()

    def reload_next(self) -> None:
        """Start the next replacement unless one is under way; its being ready ends the old one."""
        if self.status is not None or any(not child.ready for slot in self.slots for child in slot.active()):
            return
        if self.to_reload:
            self.start(self.to_reload.popleft())

    def stop(self, child: Child) -> None:
        """Ask a worker to end within its grace."""
        child.stopping = True
        child.kill_at = time.monotonic() + self.plan.grace + SERVE_KILL_DELAY
        os.kill(child.pid, signal.SIGTERM)

    def finish(self, status: int) -> None:
        """Begin the end of the service."""
        self.status = status
        self.to_reload.clear()
        for slot in self.slots:
            slot.start_at = None
            for child in slot.active():
                self.stop(child)

    def on_stop(self, number: signal.Signals) -> None:
        """The first signal gives every worker its grace, the second ends it."""
        if self.status is None:
            logger.info("stopping on %s", number.name)
            self.finish(0)
            return
        logger.info("stopping at once on %s", number.name)
        for child in self.children():
            with contextlib.suppress(OSError):  # it has exited
                child.channel.send(FORCE_STOP)
            child.kill_at = time.monotonic() + SERVE_KILL_DELAY

    def kill_all(self) -> None:
        """Leave no process behind, whatever went wrong here."""
        for child in self.children():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.channel.close()


def flush_output() -> None:
    """Write what waits in the output's buffers, so that a child does not write it again; a full disk ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def on_signal(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor has the number; the interpreter writes to it only beside a handler of Python's."""


def leave(_number: int, _frame: FrameType | None) -> None:
    """End a worker that is told to stop before it has a loop."""
    raise SystemExit(0)
