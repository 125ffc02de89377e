"""The worker processes of a supervisor: forked, restarted with growing delays, and stopped by a deadline.

The supervisor has no event loop, only a poll of the signal wake-up descriptor and of one channel (socket pair) for each
process. A worker sends one byte on the channel when it is ready. Each side sees end of file when the other has died.
Children are waited for by pid, never by -1, so that other children of the program are not touched. When a fork fails
for lack of descriptors, processes or memory, it is retried with growing delays while the other workers serve. Delays
are counted for each worker separately, so an event that kills all at once counts once for each.

States of a `Child`: starting, `ready`, `stopping`. `kill_at` is its deadline to become ready or to end.
`Processes.status` is None until `finish`; `run` returns it when the last process has ended.
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
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FrameType

from corenet.limits import (
    SERVE_RESTART_DELAY,
    SERVE_RESTART_DELAY_MAX,
    SERVE_RESTART_RESET,
    SIGNAL_READ_SIZE,
)

__all__ = ["Child", "Processes", "WorkerSlot", "describe_exit", "receive"]


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
    #: time.monotonic() at which it is killed because it starts or stops too slowly; 0: it is ready, or was killed.
    kill_at: float = 0.0


@dataclass(eq=False)
class WorkerSlot:
    """One worker number. It has one process, two while a worker is being replaced."""

    number: int
    children: list[Child] = field(default_factory=list)
    #: seconds before the next restart; it doubles with each.
    delay: float = SERVE_RESTART_DELAY / 1000
    start_at: float | None = None

    def active(self) -> list[Child]:
        """The processes that were not asked to stop."""
        return [child for child in self.children if not child.stopping]

    def schedule(self) -> float:
        """Schedule a start; return the seconds until then."""
        delay, self.delay = self.delay, min(self.delay * 2, SERVE_RESTART_DELAY_MAX / 1000)
        self.start_at = time.monotonic() + delay
        return delay


class Processes:
    """Keeps one process running for each of `count` workers. A subclass defines what they do and what signals mean.

    `signals` are passed to `on_signal`. A process is killed when it is not ready `start_timeout` seconds after its
    start, or still runs `stop_timeout` seconds after SIGTERM. `on_death` is called for it as for any other that ends.
    """

    def __init__(
        self, count: int, signals: Iterable[signal.Signals], start_timeout: float, stop_timeout: float,
        log: logging.Logger,
    ) -> None:
        self.slots = [WorkerSlot(number) for number in range(count)]
        self.signals = {*signals, signal.SIGCHLD}
        self.start_timeout = start_timeout
        self.start_hint = ""
        """What the log says after the time that a process was not ready: where to look."""
        self.stop_timeout = stop_timeout
        self.log = log
        self.status: int | None = None
        #: signals that are blocked in workers when they start.
        self.mask: set[int] = set()
        self.poll = select.poll()
        self.wake, self.waker = socket.socketpair()

    # --- what a subclass defines ----------------------------------------------------------------------------------

    def work(self, number: int, channel: socket.socket) -> int:
        """In the child: be worker `number` and return its exit status. `channel` ends when the supervisor has died."""
        raise NotImplementedError

    def on_signal(self, number: signal.Signals) -> None:
        """A signal has arrived."""
        raise NotImplementedError

    def on_readable(self, ready: set[int]) -> None:
        """Descriptors that the subclass has registered with `poll` may be ready."""

    def on_ready(self, child: Child) -> None:
        """A worker has reported that it is ready."""

    def on_death(self, child: Child, code: int) -> None:
        """A worker has ended with `code`, as from `os.waitstatus_to_exitcode`: restart it."""
        # One that was killed because it was not ready has run for long, but its start has failed.
        if child.ready and time.monotonic() - child.started >= SERVE_RESTART_RESET:
            child.slot.delay = SERVE_RESTART_DELAY / 1000
        self.log.error("worker %d: ended (%s); starting it again in %.1f s", child.slot.number, describe_exit(code),
                       child.slot.schedule())

    def on_start_failed(self, slot: WorkerSlot, error: OSError) -> None:
        """A worker cannot be forked: try again later."""
        self.log.error("worker %d: cannot be started: %s; trying again in %.1f s", slot.number, error, slot.schedule())

    def unfinished(self) -> bool:
        """After `finish`: whether something has not ended yet."""
        return any(slot.children for slot in self.slots)

    # --- life -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start the workers and handle events until `finish` was called and all have ended; return the status."""
        self.wake.setblocking(False)
        self.waker.setblocking(False)
        before = {number: signal.signal(number, interrupt) for number in self.signals}
        wakeup = signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)
        self.poll.register(self.wake, select.POLLIN)
        gc.collect()
        gc.freeze()  # keeps the collector from writing to pages that the workers share with this process
        try:
            for slot in self.slots:
                if self.status is None:
                    self.start(slot)
            while self.status is None or self.unfinished():
                self.poll_once()
            return self.status
        finally:
            gc.unfreeze()
            self.kill_all()
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.wake.close()
            self.waker.close()

    def poll_once(self) -> None:
        """Wait for an event or the next deadline and handle it."""
        ready = {fd for fd, _events in self.poll.poll(self.poll_timeout())}
        # Signals first: one that has come before a message of another process is handled before it.
        caught = b""
        if self.wake.fileno() in ready:
            caught = self.wake.recv(SIGNAL_READ_SIZE)
        for number in dict.fromkeys(caught):
            if number in self.signals and number != signal.SIGCHLD:
                self.on_signal(signal.Signals(number))
        for child in self.children():
            if child.channel_polled and child.channel.fileno() in ready:
                self.on_channel(child)
        self.on_readable(ready)
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
        """Fork a worker for `slot`. When that fails, other workers are not affected."""
        slot.start_at = None
        try:
            pid, ours = self.fork(slot)
        except OSError as error:
            self.on_start_failed(slot, error)
            return
        now = time.monotonic()
        slot.children.append(Child(pid, slot, ours, now, kill_at=now + self.start_timeout))
        self.poll.register(ours, select.POLLIN)
        self.log.info("worker %d: started (process %d)", slot.number, pid)

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
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
            try:
                pid = os.fork()
                if not pid:
                    self.run_child(slot.number, ours, theirs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    def run_child(self, number: int, ours: socket.socket, theirs: socket.socket) -> None:
        """Run in the child; does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            # The handler of the other signals stays `interrupt`: to ignore one would discard it if it is pending.
            signal.signal(signal.SIGTERM, exit_before_loop)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            ours.close()
            self.wake.close()
            self.waker.close()
            for child in self.children():
                child.channel.close()
            status = self.work(number, theirs)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # the child must not continue the parent's program
            self.log.critical("worker %d: exiting after an unexpected exception", number, exc_info=True)
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
        self.log.info("worker %d: ready (process %d)", child.slot.number, child.pid)
        self.on_ready(child)

    # --- deaths and deadlines -------------------------------------------------------------------------------------

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
            code = os.waitstatus_to_exitcode(raw)
            if child.stopping:
                level = logging.WARNING if code else logging.INFO
                self.log.log(level, "worker %d: ended (%s)", child.slot.number, describe_exit(code))
            else:
                self.on_death(child, code)

    def on_time(self, now: float) -> None:
        """Start workers whose delay is over, kill those that start or stop too slowly."""
        for slot in self.slots:
            if slot.start_at is not None and slot.start_at <= now:
                self.start(slot)
        for child in self.children():
            if child.kill_at and child.kill_at <= now:
                self.log.warning("worker %d: %s; killing process %d", child.slot.number,
                                 "does not stop" if child.stopping or child.ready else
                                 f"is not ready {now - child.started:.0f} s after its start{self.start_hint}",
                                 child.pid)
                child.kill_at = 0.0
                os.kill(child.pid, signal.SIGKILL)

    def stop(self, child: Child) -> None:
        """Send SIGTERM to a worker, and set the time at which it is killed."""
        child.stopping = True
        child.kill_at = time.monotonic() + self.stop_timeout
        os.kill(child.pid, signal.SIGTERM)

    def finish(self, status: int) -> None:
        """Stop all workers; the service ends with `status` when they have exited."""
        self.status = status
        for slot in self.slots:
            slot.start_at = None
            for child in slot.active():
                self.stop(child)

    def kill_all(self) -> None:
        """Kill and reap all processes, so that none is left behind after an error."""
        for child in self.children():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.channel.close()


def receive(channel: socket.socket) -> bytes | None:
    """Return one byte that the other side has sent, b"" when it has ended, None when nothing has arrived.

    Data that it has sent before its end is processed first. The end is an error when the process has not read all sent
    data.
    """
    try:
        return channel.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def describe_exit(status: int) -> str:
    """Describe how a process has ended, from ``os.waitstatus_to_exitcode``. Not every signal has a name in Python."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def flush_output() -> None:
    """Flush stdout and stderr, so that the child does not write the buffered text again. Errors are ignored."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Does nothing: the interpreter writes the signal number to the wake-up descriptor, which `poll_once` reads."""


def exit_before_loop(_number: int, _frame: FrameType | None) -> None:
    """Handler of SIGTERM in a worker that has no loop yet."""
    raise SystemExit(0)
