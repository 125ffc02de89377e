"""`Loop`: the engine (Cython) for what runs often, `asyncio.BaseEventLoop` for the rest.

``Loop`` inherits executors, async generators and exception handlers from `asyncio.BaseEventLoop` and overrides what is
on a hot path. `_run_once` runs the engine until it is stopped, so that ``run_forever`` of each Python version does its
own setup and clean-up.
"""

import asyncio
import os
import sys
from asyncio import format_helpers
from asyncio.log import logger
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from corenet.core.engine import Engine
from corenet.core.handles import Handle
from corenet.core.poller import LEVEL, Watch
from corenet.core.scheduler import run_handle
from corenet.loop import compat, sockops
from corenet.loop.connecting import Connecting
from corenet.loop.fork import register
from corenet.loop.listening import Listening
from corenet.loop.name_resolution import NameResolution
from corenet.loop.signals import Signals

if TYPE_CHECKING:
    from corenet.loop.statistics import LoopStatistics
    from corenet.loop.subprocess import SubprocessTransport
    from corenet.loop.thread_pool import LoopThreadPool

__all__ = ["Loop", "new_event_loop", "run"]

T = TypeVar("T")


class Loop(Connecting, Listening, NameResolution, compat.Backports):  # type: ignore[misc]
    """An asyncio event loop on epoll, for Linux."""

    #: The default executor that this loop created; `set_default_executor` may have replaced it.
    _threads: "LoopThreadPool | None" = None

    #: Until `BaseEventLoop.__init__` sets it: a signal handler may raise before, and `__del__` reads it.
    _closed = True

    def __init__(self) -> None:
        asyncio.BaseEventLoop.__init__(self)
        if compat.HAS_THREADSAFE_HANDLE:
            self._use_threadsafe_handles()
        self._signals = Signals(self)
        # The objects given to `add_reader` and `add_writer`, by descriptor: a closed socket no longer has its number.
        self._read_files: dict[int, object] = {}
        self._write_files: dict[int, object] = {}
        self._pidfds = set()
        register(self)

    # --- life -----------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        Engine.run(self)

    def run_forever(self) -> None:
        """Run until `stop` is called."""
        self._check_open()
        self._signals.attach()
        try:
            asyncio.BaseEventLoop.run_forever(self)
        finally:
            self._signals.detach()

    def stop(self) -> None:
        """Stop the loop at the end of this iteration."""
        self._stopping = True
        Engine.stop(self)

    def close(self) -> None:
        """Close the loop and drop everything scheduled; further calls do nothing.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._signals.close()
        self._read_files.clear()
        self._write_files.clear()
        self._threads = None
        asyncio.BaseEventLoop.close(self)
        self._dispose()
        while self._pidfds:
            os.close(self._pidfds.pop())

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode: checks of callbacks and threads, tracebacks of handles, a log of slow callbacks."""
        asyncio.BaseEventLoop.set_debug(self, enabled)
        self._set_engine_debug(bool(enabled))

    @property
    def slow_callback_duration(self) -> float:
        """Seconds a callback may take; longer ones are logged in debug mode, and always counted in `statistics`."""
        return self._slow_callback_duration

    @slow_callback_duration.setter
    def slow_callback_duration(self, seconds: float) -> None:
        self._slow_callback_duration = seconds
        self._set_slow(seconds)

    def statistics(self) -> "LoopStatistics":
        """Return counters of the loop since it was created, and the current depth of its queues."""
        from corenet.loop.statistics import statistics_of

        return statistics_of(self.raw_statistics())

    # --- hooks of the engine --------------------------------------------------------------------------------------

    def _callback_failed(
        self, handle: Handle, callback: Callable[..., object], args: tuple[Any, ...], error: BaseException
    ) -> None:
        try:
            source = self._describe_callback(callback, args)
            context = {"message": f"Exception in callback {source}", "exception": error, "handle": handle}
            if handle._source_traceback:
                context["source_traceback"] = handle._source_traceback
            self.call_exception_handler(context)
        except MemoryError:
            pass  # not enough memory to report it; the loop must keep running

    def _describe_callback(self, callback: Callable[..., object], args: tuple[Any, ...]) -> str:
        debug = {"debug": self.get_debug()} if compat.NAMES_ARGUMENTS_IN_DEBUG else {}
        return str(format_helpers._format_callback_source(callback, args, **debug))

    def _handler_dropped(self, fd: int, writing: bool) -> None:
        files = self._write_files if writing else self._read_files
        files.pop(fd, None)

    def _watcher_failed(self, error: BaseException, fd: int) -> None:
        try:
            self.call_exception_handler(
                {"message": f"Exception in the watcher of descriptor {fd}", "exception": error}
            )
        except MemoryError:
            pass  # as in _callback_failed

    def _describe_source(self, source: Any, fd: int) -> str:
        task = getattr(source, "__self__", None)
        if isinstance(task, asyncio.Task):
            return repr(task)
        if callable(source):
            return str(format_helpers._format_callback_source(source, ()))
        get_protocol = getattr(source, "get_protocol", None)
        if get_protocol is not None:
            return f"{get_protocol()!r} on {source!r}"
        return Engine._describe_source(self, source, fd)

    def _check_call(self, callback: object, method: str, any_thread: bool) -> None:
        if not any_thread:
            self._check_thread()  # type: ignore[attr-defined]
        self._check_callback(callback, method)  # type: ignore[attr-defined]

    def _handle_created(self, handle: Handle) -> None:
        handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))

    def _run_in_debug(self, handle: Handle) -> None:
        if handle.cancelled():
            return
        callback: Any = handle._callback
        args: Any = handle._args
        started = self.time()
        self._current_handle = handle
        try:
            run_handle(handle)
            took = self.time() - started
            if took >= self.slow_callback_duration:
                logger.warning("Executing %s took %.3f seconds", describe(handle, callback, args), took)
        finally:
            self._current_handle = None  # type: ignore[assignment]
            # The traceback of a task that failed holds this frame. The frame must not hold the task.
            callback = args = None

    # --- descriptors and signals ----------------------------------------------------------------------------------

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call ``callback(*args)`` whenever `fd` (a number or an object with fileno) is readable."""
        self._add_handler(fd, False, callback, args)

    def add_writer(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call ``callback(*args)`` whenever `fd` is writable."""
        self._add_handler(fd, True, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        """Undo `add_reader`, also for an object that was closed meanwhile; False when it had no reader."""
        return self._remove_handler(fd, False)

    def remove_writer(self, fd: Any) -> bool:
        """Undo `add_writer`, also for an object that was closed meanwhile; False when it had no writer."""
        return self._remove_handler(fd, True)

    def _add_handler(self, target: Any, writing: bool, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        number = descriptor_of(target)
        self._set_handler(number, writing, callback, args)
        files = self._write_files if writing else self._read_files
        if number is not target:
            files[number] = target
        elif number in files:
            del files[number]

    def _remove_handler(self, target: Any, writing: bool) -> bool:
        files = self._write_files if writing else self._read_files
        try:
            number = descriptor_of(target)
        except ValueError:
            owned = [number for number, file in files.items() if file is target]
            if not owned:
                raise
            del files[owned[0]]
            try:
                return self._clear_handler(owned[0], writing)
            except RuntimeError:
                return False  # a transport uses the descriptor number now
        files.pop(number, None)
        return self._clear_handler(number, writing)

    def watch(self, fd: Any, events: int, callback: Callable[[int], object], mode: int = LEVEL) -> Watch:
        """Call ``callback(events)`` when `fd`, a number or an object with fileno, is ready; docs/edge-and-level.md.

        `events` is a union of READ, WRITE and PEER_CLOSED, `mode` LEVEL or a union of EDGE, ONESHOT and EXCLUSIVE (all
        in `corenet.core`). The callback runs during the poll, in the context of this call. It gets the bits that are
        set, HANGUP and ERROR included even if not in `events`. A watch replaces an earlier one of the descriptor. An
        exception of the callback goes to the exception handler, and the watch stays. Call `unwatch` before you close
        the descriptor.

        Raises:
            ValueError: the kernel does not support these events, this mode, or their combination.
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
            OSError: EPERM for a regular file, EBADF for a closed descriptor.
        """
        return Engine.watch(self, descriptor_of(fd), events, callback, mode)

    def unwatch(self, target: Any) -> bool:
        """Undo `watch`. `target` is the returned `Watch` or the descriptor; False when it is not watched.

        Raises:
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
        """
        return Engine.unwatch(self, target if isinstance(target, Watch) else descriptor_of(target))

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call ``callback(*args)`` in the loop for each signal `sig`; main thread only.

        Raises:
            RuntimeError: this is not the main thread, or the signal cannot be caught.
            ValueError: there is no such signal.
        """
        if asyncio.iscoroutine(callback) or compat.is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_open()
        self._signals.add(sig, callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Restore the default action of signal `sig`; False when it had no handler."""
        return self._signals.remove(sig)

    # --- threads --------------------------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """Call ``func(*args)`` in a thread of `executor` (None: the default executor); returns a future of the result.

        Raises:
            RuntimeError: the loop is closed, or its executor or the interpreter is shut down.
        """
        if executor is None and not self._executor_shutdown_called:
            own = self._threads
            if self._default_executor is None:
                own = self._make_threads()
            if own is not None and own is self._default_executor:
                self._check_open()
                if self.get_debug():
                    self._check_callback(func, "run_in_executor")  # type: ignore[attr-defined]
                future: asyncio.Future[T] = self.create_future()
                own.submit_call((self, future, func, args))
                return future
        return asyncio.BaseEventLoop.run_in_executor(self, executor, func, *args)

    def _make_threads(self) -> "LoopThreadPool":
        from corenet.loop.thread_pool import LoopThreadPool

        self._check_open()
        self._threads = self._default_executor = LoopThreadPool()
        return self._threads

    # --- child processes ------------------------------------------------------------------------------------------

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> "SubprocessTransport":
        from corenet.loop.subprocess import SubprocessTransport, watch_child

        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        watch_child(self, transport, cast(int, transport.get_pid()))
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            # Shielded: a second cancellation would leave a process that nothing waits for.
            await asyncio.shield(transport._wait())
            raise
        return transport

    call_soon = sockops.call_soon  # type: ignore[assignment]

    # --- sockets --------------------------------------------------------------------------------------------------

    sock_recv = sockops.sock_recv
    sock_recv_into = sockops.sock_recv_into
    sock_recvfrom = sockops.sock_recvfrom
    sock_recvfrom_into = sockops.sock_recvfrom_into
    sock_sendall = sockops.sock_sendall
    sock_sendto = sockops.sock_sendto
    sock_accept = sockops.sock_accept
    sock_connect = sockops.sock_connect
    _sock_sendfile_native = sockops.sock_sendfile_native

    # --- sendfile -------------------------------------------------------------------------------------------------

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        emptied = transp._make_empty_waiter()
        was_reading = transp.is_reading()
        # As asyncio does. The protocol may resume reading while the file is sent.
        transp.pause_reading()
        try:
            await emptied
            sock = transp._sock
            if sock is None or transp.is_closing():
                raise ConnectionAbortedError("Connection was closed before the file was sent")
            self._check_sendfile_params(sock, file, offset, count)  # type: ignore[attr-defined]

            async def until_writable() -> None:
                await transp._make_writable_waiter()

            return await sockops.send_file(self, sock, until_writable, file, offset, count)
        finally:
            transp._reset_empty_waiter()
            if was_reading:
                transp.resume_reading()


def descriptor_of(target: Any) -> int:
    """Return the descriptor number of `target`, an int or an object with fileno."""
    if isinstance(target, int):
        fd = target
    else:
        try:
            fd = int(target.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {target!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def describe(handle: Handle, callback: Any, args: Any) -> str:
    """Describe a slow callback: its task, or its function and where it was scheduled."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return repr(task)
    # Called in debug mode only.
    debug = {"debug": True} if compat.NAMES_ARGUMENTS_IN_DEBUG else {}
    source = format_helpers._format_callback_source(callback, args, **debug)
    text = f"<{type(handle).__name__} {source}"
    if handle._source_traceback:
        frame = handle._source_traceback[-1]
        text += f" created at {frame[0]}:{frame[1]}"
    return text + ">"


def new_event_loop() -> Loop:
    """Return a new loop, for ``asyncio.Runner(loop_factory=...)`` and other loop factories."""
    return Loop()


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
) -> T:
    """Run `main` on a new loop and return its result; then async generators and executors are shut down.

    Raises:
        RuntimeError: a loop is already running in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("corenet.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
