"""Signals: handlers set on the loop, and the wake-up descriptor that lets Python run handlers while the loop sleeps.

The interpreter writes the number of each caught signal to a socket pair. That wakes the loop, whichever thread the
kernel delivered the signal to, so Ctrl-C ends an idle program. Only the main thread may handle signals; loops in other
threads do not install a wake-up descriptor.
"""

import contextvars
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from corenet.core.engine import Engine
from corenet.limits import SIGNAL_READ_SIZE

__all__ = ["Signals"]


def ignore_in_python(_number: int, _frame: object) -> None:
    """The Python handler set for each signal: the interpreter writes to the wake-up descriptor only if there is one."""


class Signals:
    """The signal handlers and the wake-up descriptor of one loop."""

    def __init__(self, loop: Engine) -> None:
        self.loop = loop
        self.handlers: dict[int, tuple[contextvars.Context, Callable[..., object], tuple[Any, ...]]] = {}
        self.receiver: socket.socket | None = None
        self.sender: socket.socket | None = None
        self.installed = False

    # --- the wake-up descriptor -----------------------------------------------------------------------------------

    def attach(self) -> None:
        """Let signals wake the loop while it runs; does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.install(keep_existing=True)

    def detach(self) -> None:
        """Remove the wake-up descriptor unless a handler still needs it."""
        if self.installed and not self.handlers:
            self.uninstall()

    def install(self, *, keep_existing: bool) -> None:
        """Make the interpreter write signals to this loop; `keep_existing` keeps a wake-up descriptor of other code."""
        if self.installed:
            return
        if self.receiver is None:
            self.receiver, self.sender = socket.socketpair()
            self.receiver.setblocking(False)
            self.sender.setblocking(False)
        assert self.sender is not None
        previous = signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)
        if keep_existing and previous not in (-1, self.sender.fileno()):
            signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
            return
        self.installed = True
        self.loop._set_handler(self.receiver.fileno(), False, self.on_wakeup, ())

    def uninstall(self) -> None:
        """Remove the wake-up descriptor and the reader of its other end."""
        assert self.receiver is not None and self.sender is not None
        self.installed = False
        if threading.current_thread() is threading.main_thread():
            current = signal.set_wakeup_fd(-1)
            if current not in (-1, self.sender.fileno()):
                signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        self.loop._clear_handler(self.receiver.fileno(), False)

    def reinit_after_fork(self) -> None:
        """In the child of a fork: close the copies of the parent's socket pair; handlers stay installed."""
        if self.receiver is None or self.sender is None:
            return
        current = signal.set_wakeup_fd(-1)
        self.loop._clear_handler(self.receiver.fileno(), False)
        mine = current == self.sender.fileno()
        self.receiver.close()
        self.sender.close()
        self.receiver = self.sender = None
        self.installed = False
        if self.handlers:
            self.install(keep_existing=False)
        elif current != -1 and not mine:
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)

    def on_wakeup(self) -> None:
        """Read the numbers of the caught signals and schedule their handlers."""
        assert self.receiver is not None
        while True:
            try:
                numbers = self.receiver.recv(SIGNAL_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            if not numbers:
                return
            for number in numbers:
                found = self.handlers.get(number)
                if found is not None:
                    context, callback, args = found
                    self.loop.call_soon(callback, *args, context=context)

    # --- handlers -------------------------------------------------------------------------------------------------

    def add(self, number: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Call ``callback(*args)`` in the loop for each signal `number`.

        Raises:
            ValueError: there is no such signal.
            RuntimeError: the signal cannot be caught, or this is not the main thread.
        """
        check(number)
        try:
            self.install(keep_existing=False)
        except (ValueError, OSError) as error:
            raise RuntimeError(str(error)) from error
        self.handlers[number] = (contextvars.copy_context(), callback, args)
        try:
            signal.signal(number, ignore_in_python)
            signal.siginterrupt(number, False)
        except (OSError, ValueError) as error:
            # ValueError: this is not the main thread, but the wake-up descriptor was installed before by that one.
            del self.handlers[number]
            if not self.handlers and not self.loop_runs():
                self.uninstall()
            if isinstance(error, ValueError):
                raise RuntimeError(str(error)) from error
            raise RuntimeError(f"sig {number} cannot be caught") from error

    def loop_runs(self) -> bool:
        """Return whether the loop is running and so must still be woken by signals."""
        running: bool = self.loop.is_running()  # type: ignore[attr-defined]
        return running

    def remove(self, number: int) -> bool:
        """Restore the default action of signal `number`; False when it had no handler here."""
        check(number)
        if self.handlers.pop(number, None) is None:
            return False
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(number, default)
        except OSError as error:
            raise RuntimeError(f"sig {number} cannot be caught") from error
        if not self.handlers and not self.loop_runs():
            self.uninstall()
        return True

    def close(self) -> None:
        """Remove every handler and close the socket pair."""
        for number in list(self.handlers):
            self.remove(number)
        if self.installed:
            self.uninstall()
        if self.receiver is not None and self.sender is not None:
            self.receiver.close()
            self.sender.close()
            self.receiver = self.sender = None
        # Breaks the reference cycle of loop and handlers, so that a closed loop is freed without the garbage collector.
        del self.loop


def check(number: int) -> None:
    """Raise TypeError or ValueError when `number` is not a signal number."""
    if not isinstance(number, int):
        raise TypeError(f"sig must be an int, not {number!r}")
    if number not in signal.valid_signals():
        raise ValueError(f"invalid signal number {number}")
