"""The threads behind ``run_in_executor(None, ...)``: a thread pool that hands its results straight to the loop.

`concurrent.futures` makes a future of its own for each call, with a lock and a condition, chains it to asyncio's by two
closures and counts idle threads in a semaphore, all in Python: half of what a call costs besides the switch of threads.
Here a call is a tuple in a queue, and its result one `call_soon_threadsafe`. What a program can see is asyncio's: the
number and names of the threads, that a call cancelled before it began never runs, the conversion of exceptions, and
that the interpreter ends only when the calls have. One thing is better: a thread counts as idle before its result
arrives in the loop, so that calls made one after another share one thread. Between that and its next call a thread runs
no code of the program: a call that waited for this very thread, from a done-callback in it, would wait for ever.

Whoever gets hold of the pool (``loop._default_executor``) has a `concurrent.futures.ThreadPoolExecutor` that works.
Nothing here relies on how the standard one works inside, which differs between versions.
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

__all__ = ["LoopThreadPool"]

# What is asked of a thread: the loop (None: nobody's, the future is one of concurrent.futures), the future, the call.
Call = tuple[Any, Any, Callable[..., Any], tuple[Any, ...]]

#: Called before the interpreter waits for its threads; without it they must not be waited for.
_register_exit: Callable[..., Any] | None = getattr(threading, "_register_atexit", None)


class ThreadPoolState:
    """The state that threads share with their pool; they do not hold the pool, so that it can be collected."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # An entry for each thread that waits and was not yet counted on; appending and popping are atomic.
        self.idle: deque[None] = deque()
        # No set: one that finds no memory to grow keeps what it refused, here a thread that was never started.
        self.threads: dict[threading.Thread, None] = {}
        self.lock = threading.Lock()
        self.shutdown_message: str | None = None

    def submit_call(self, call: Call) -> None:
        """Have `call` made by a thread, a new one when all are busy.

        Raises:
            RuntimeError: the pool or the interpreter is shut down, or no thread can be started.
        """
        with self.lock:
            if self.shutdown_message is not None:
                raise RuntimeError(self.shutdown_message)
            try:
                self.idle.pop()
            except IndexError:
                if len(self.threads) < self.most:
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
        """Refuse calls from now on; threads end when those in the queue are made, or were dropped."""
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
        """In the child of a fork: the threads have stayed in the parent, and so have their calls."""
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
        # For those who watch the pool by the standard one's names.
        self._threads = cast(Any, workers.threads)
        self._work_queue = cast(Any, workers.calls)
        #: Have a call made: ``submit_call((loop, future, function, arguments))``.
        self.submit_call = workers.submit_call
        weakref.finalize(self, workers.stop).atexit = False
        with _alive_lock:
            if _exiting:
                workers.shutdown_message = AT_EXIT
            _alive.add(workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        """Call ``fn(*args, **kwargs)`` in a thread, for whoever is no loop."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.submit_call((None, future, call_with, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; `cancel_futures` drops those that have not begun, `wait` waits for the others."""
        self._workers.stop(drop=cancel_futures)
        if wait:
            self._workers.join()


# --- in the threads ---------------------------------------------------------------------------------------------------


def work(calls: "queue.SimpleQueue[Call | None]", idle: "deque[None]") -> None:
    """What a thread does: calls, one after another, until there is a None instead of one."""
    while True:
        call = calls.get()
        if call is None:
            calls.put(None)  # for the next thread
            return
        loop, future, function, args = call
        # A result and an exception; made first, since there may be no memory for it later.
        outcome: Any = [None, None]
        try:
            if future.cancelled() if loop is not None else not future.set_running_or_notify_cancel():
                outcome = None
            else:
                try:
                    outcome[0] = function(*args)
                except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
                    outcome[1] = error
                if loop is None:
                    set_outcome(future, outcome)
        except Exception:  # noqa: BLE001 - a thread that does not end for want of memory
            report()
        # A thread that waits keeps nothing alive, and what it lets go of runs destructors: before it counts as idle.
        call = function = args = None  # type: ignore[assignment]
        if loop is None:
            future = outcome = None
        idle.append(None)
        if outcome is not None:
            try:
                deliver(loop, future, outcome)
            except Exception:  # noqa: BLE001 - as above; it counts as idle and must not end
                report()
        loop = future = outcome = None


def report() -> None:
    """Tell of the exception that is being handled."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def deliver(loop: Any, future: Any, outcome: list[Any]) -> None:
    """Finish `future` in its loop, unless that was closed meanwhile."""
    try:
        loop.call_soon_threadsafe(set_outcome, future, outcome)
    except RuntimeError:
        if not loop.is_closed():
            raise


def cancel(loop: Any, future: Any) -> None:
    """Cancel `future`, by its loop where it has one."""
    if loop is None:
        future.cancel()
        return
    try:
        loop.call_soon_threadsafe(future.cancel)
    except RuntimeError:
        if not loop.is_closed():
            raise


def call_with(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call with keywords, which only those outside a loop can ask for."""
    return function(*args, **kwargs)


# --- in the loop ------------------------------------------------------------------------------------------------------


def set_outcome(future: Any, outcome: list[Any]) -> None:
    """Give `future` what came of its call, a result or an exception, unless it was cancelled meanwhile.

    `outcome` is emptied: the thread of the call shares the list, and is not to be the last that holds what is in it.
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
    """An exception as asyncio has it.

    StopIteration cannot be raised into a coroutine. It becomes a RuntimeError, as it does from Python 3.12 on; before
    that, asyncio leaves whoever waits waiting.
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
    """The interpreter ends: calls that were asked for are made, as those of every other thread pool are."""
    global _exiting
    with _alive_lock:
        _exiting = True
        found = list(_alive)
    for workers in found:
        workers.stop(AT_EXIT)
    for workers in found:
        workers.join()


def reinit_in_child() -> None:
    """In the child of a fork; a lock that another thread held stays locked there."""
    global _alive_lock
    _alive_lock = threading.Lock()
    for workers in list(_alive):
        workers.reinit_after_fork()


(_register_exit or atexit.register)(at_exit)
os.register_at_fork(after_in_child=reinit_in_child)
