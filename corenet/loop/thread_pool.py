"""The thread pool behind ``run_in_executor(None, ...)``, which passes results directly to the loop.

`concurrent.futures` creates its own future for each call, with a lock and a condition, chains it to asyncio's with two
closures, and counts idle threads in a semaphore, all in Python. That is half of the cost of a call, apart from thread
switches. Here a call is a tuple in a queue, and its result is one `call_soon_threadsafe`. Visible behaviour is as in
asyncio: number and names of the threads, a call that is cancelled before it starts never runs, exceptions are
converted, and the interpreter waits for the calls at its end. One thing differs: a thread counts as idle before its
result arrives in the loop, so that successive calls share one thread. Between these two moments a thread runs no user
code: a destructor or done-callback that waited for a call assigned to its own thread would wait forever.

``loop._default_executor`` is a working `concurrent.futures.ThreadPoolExecutor`. This module uses no internals of the
standard executor, because they differ between Python versions.
"""

import asyncio
import atexit
import concurrent.futures
import os
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from corenet.limits import EXECUTOR_EXTRA_THREADS, EXECUTOR_MAX_THREADS
from corenet.loop.threads import call_in_loop

__all__ = ["LoopThreadPool"]

# One call: the loop (None when `future` is a concurrent.futures.Future), the future, the function, its arguments.
Call = tuple[Any, Any, Callable[..., Any], tuple[Any, ...]]

#: Registers a function that runs before the interpreter joins its threads. Where it is missing, threads are daemons.
_register_exit: Callable[..., Any] | None = getattr(threading, "_register_atexit", None)


class ThreadPoolState:
    """The state shared by the pool and its threads. Threads hold no reference to the pool, so it can be collected."""

    def __init__(self, max_threads: int) -> None:
        self.max_threads = max_threads
        self.calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # One entry for each waiting thread that no call is assigned to; append and pop are atomic.
        self.idle: deque[None] = deque()
        # Not a set: a set that fails to grow (MemoryError) keeps the new entry, here a thread that was never started.
        self.threads: dict[threading.Thread, None] = {}
        self.lock = threading.Lock()
        self.shutdown_message: str | None = None

    def submit_call(self, call: Call) -> None:
        """Run `call` in a thread; a new thread is started when all are busy.

        Raises:
            RuntimeError: the pool or the interpreter is shut down, or no thread can be started.
        """
        with self.lock:
            if self.shutdown_message is not None:
                raise RuntimeError(self.shutdown_message)
            try:
                self.idle.pop()
            except IndexError:
                if len(self.threads) < self.max_threads:
                    thread = threading.Thread(
                        target=work,
                        args=(self.calls, self.idle),
                        name=f"asyncio_{len(self.threads)}",
                        daemon=_register_exit is None,
                    )
                    self.threads[thread] = None
                    try:
                        thread.start()
                    except BaseException:
                        del self.threads[thread]
                        raise
            self.calls.put(call)

    def stop(self, shutdown_message: str = "cannot schedule new futures after shutdown", *, drop: bool = False) -> None:
        """Refuse further calls. Threads end when the queued calls have run; `drop` cancels the queued calls."""
        with self.lock:
            if self.shutdown_message is None:
                self.shutdown_message = shutdown_message
            while drop:
                try:
                    call = self.calls.get_nowait()
                except queue.Empty:
                    break
                if call is not None:
                    cancel(call[0], call[1])
            self.calls.put(None)

    def join(self) -> None:
        """Wait for the threads."""
        for thread in list(self.threads):
            thread.join()

    def reinit_after_fork(self) -> None:
        """In the child of a fork: the threads exist only in the parent, so their calls are dropped here."""
        self.calls = queue.SimpleQueue()
        self.idle = deque()
        self.threads.clear()
        self.lock = threading.Lock()


class LoopThreadPool(concurrent.futures.ThreadPoolExecutor):
    """The default executor of a loop."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        processors = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        workers = ThreadPoolState(min(EXECUTOR_MAX_THREADS, processors + EXECUTOR_EXTRA_THREADS))
        self._workers = workers
        # Named as in the standard executor, for programs that inspect the pool.
        self._threads = cast(Any, workers.threads)
        self._work_queue = cast(Any, workers.calls)
        #: Run a call: ``submit_call((loop, future, function, arguments))``.
        self.submit_call = workers.submit_call
        weakref.finalize(self, workers.stop).atexit = False
        with _alive_lock:
            if _exiting:
                workers.shutdown_message = AT_EXIT
            _alive.add(workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        """Call ``fn(*args, **kwargs)`` in a thread; the future is one of concurrent.futures."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.submit_call((None, future, call_with, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; `cancel_futures` cancels those that have not started, `wait` waits for the threads."""
        self._workers.stop(drop=cancel_futures)
        if wait:
            self._workers.join()


# --- in the threads ---------------------------------------------------------------------------------------------------


def work(calls: "queue.SimpleQueue[Call | None]", idle: "deque[None]") -> None:
    """The main function of a thread: run calls until a None comes out of the queue."""
    while True:
        call = calls.get()
        if call is None:
            calls.put(None)  # for the next thread
            return
        loop, future, function, args = call
        # Result and exception. Created before the call, because after it there may be no memory.
        outcome: Any = [None, None]
        try:
            if future.cancelled() if loop is not None else not future.set_running_or_notify_cancel():
                outcome = None
            else:
                try:
                    outcome[0] = function(*args)
                except BaseException as error:  # noqa: BLE001 - passed to the future
                    outcome[1] = error
                if loop is None:
                    set_outcome(future, outcome)
        except BaseException:  # noqa: BLE001 - MemoryError, a done-callback's SystemExit: the thread must not end
            report_exception()
        # An idle thread holds no references. They are dropped before it counts as idle, because destructors may run.
        call = function = args = None  # type: ignore[assignment]
        if loop is None:
            future = outcome = None
        idle.append(None)
        if outcome is not None:
            try:
                # If the loop has been closed, no task waits.
                call_in_loop(loop, set_outcome, future, outcome)
            except BaseException:  # noqa: BLE001 - as above: the thread is counted as idle and must not end
                report_exception()
        loop = future = outcome = None


def report_exception() -> None:
    """Report the exception being handled to `threading.excepthook`; if that raises, print what it has raised."""
    try:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
    except BaseException:  # noqa: BLE001 - the thread must not end
        sys.__excepthook__(*cast(Any, sys.exc_info()))


def cancel(loop: Any, future: Any) -> None:
    """Cancel `future`, in its loop if it has one."""
    if loop is None:
        future.cancel()
    else:
        call_in_loop(loop, future.cancel)


def call_with(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call with keywords, for `LoopThreadPool.submit`; `run_in_executor` takes none."""
    return function(*args, **kwargs)


# --- in the loop ------------------------------------------------------------------------------------------------------


def set_outcome(future: Any, outcome: list[Any]) -> None:
    """Set the result or exception of `future`, unless it was cancelled meanwhile.

    `outcome` is emptied: the thread shares the list and must not be the last to hold a reference to its contents.
    """
    result, failure = outcome
    outcome.clear()
    if failure is None:
        if not future.done():
            future.set_result(result)
        return
    if not future.done():
        future.set_exception(failure if isinstance(future, concurrent.futures.Future) else converted(failure))


def converted(failure: BaseException) -> BaseException:
    """Convert an exception to asyncio's class, as asyncio does for executor futures.

    StopIteration cannot be set on a future. It becomes a RuntimeError, as in asyncio from Python 3.12 on; before that,
    the awaiting task hangs on asyncio.
    """
    kind = type(failure)
    if kind is concurrent.futures.CancelledError:
        return asyncio.CancelledError(*failure.args)
    if kind is concurrent.futures.InvalidStateError:
        return asyncio.InvalidStateError(*failure.args)
    if isinstance(failure, StopIteration):
        wrapped = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        wrapped.__cause__ = wrapped.__context__ = failure
        return wrapped
    return failure


# --- the end of the process -------------------------------------------------------------------------------------------

AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_alive: "weakref.WeakSet[ThreadPoolState]" = weakref.WeakSet()
_alive_lock = threading.Lock()
_exiting = False


def at_exit() -> None:
    """The interpreter exits: run the queued calls and wait for them, as the standard thread pool does."""
    global _exiting
    with _alive_lock:
        _exiting = True
        found = list(_alive)
    for workers in found:
        workers.stop(AT_EXIT)
    for workers in found:
        workers.join()


def reinit_in_child() -> None:
    """In the child of a fork. The lock is replaced, because another thread of the parent may have held it."""
    global _alive_lock
    _alive_lock = threading.Lock()
    for workers in list(_alive):
        workers.reinit_after_fork()


(_register_exit or atexit.register)(at_exit)
os.register_at_fork(after_in_child=reinit_in_child)
