"""Differences between the supported Python versions, and backports of loop features of newer versions.

No other module of this package reads ``sys.version_info``. Each constant says how asyncio of the running version
behaves, so that a program behaves on this loop as on the standard loop of the same interpreter. A method is replaced
only where the interpreter's own one lacks the feature. A keyword is passed on only when the caller gave it, so that a
task factory written for an older version keeps working.
"""

import asyncio
import sys
import threading
import warnings
from asyncio import base_events, coroutines, events, format_helpers
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "CLOSES_CLIENTS_WHEN_CANCELLED",
    "HAS_THREADSAFE_HANDLE",
    "MAKES_TRANSPORTS_IN_CONTEXT",
    "NAMES_ARGUMENTS_IN_DEBUG",
    "PASSES_TASK_KEYWORDS",
    "POLICIES",
    "REMOVES_UNIX_SOCKETS",
    "STARTS_TASKS_EAGERLY",
    "WAIT_CLOSED_WAITS",
    "Backports",
    "is_coroutine_function",
    "policy_support",
]

#: `create_task` passes unknown keywords to the task or its factory.
PASSES_TASK_KEYWORDS = sys.version_info >= (3, 13, 3)

#: Messages about a callback contain its arguments in debug mode only.
NAMES_ARGUMENTS_IN_DEBUG = "debug" in (format_helpers._format_callback_source.__kwdefaults__ or {})

#: `asyncio.Task` takes `eager_start`.
STARTS_TASKS_EAGERLY = sys.version_info >= (3, 12)

#: `Server.wait_closed` waits for the connections that are still open.
WAIT_CLOSED_WAITS = sys.version_info >= (3, 12, 1)

#: `Server.serve_forever` closes the connections when it is cancelled. Bug-fix releases added this, so the code is read.
CLOSES_CLIENTS_WHEN_CANCELLED = "close_clients" in base_events.Server.serve_forever.__code__.co_names

#: Cancelling a handle of `call_soon_threadsafe` in another thread waits for its callback when that is running.
HAS_THREADSAFE_HANDLE = hasattr(events, "_ThreadSafeHandle")

#: `_make_socket_transport` and the other factories get the context in which the protocol's methods run (3.15).
_make_pair = base_events.BaseEventLoop._create_connection_transport  # type: ignore[attr-defined]
MAKES_TRANSPORTS_IN_CONTEXT = "context" in _make_pair.__code__.co_varnames

#: asyncio's own test for coroutine functions; the public one is deprecated from 3.14 on.
is_coroutine_function = getattr(coroutines, "_iscoroutinefunction", None) or asyncio.iscoroutinefunction

#: A Unix server removes its socket file when it is closed.
REMOVES_UNIX_SOCKETS = sys.version_info >= (3, 13)


def policy_support(version: tuple[int, ...]) -> str:
    """Status of event loop policies in asyncio of this version: "supported", "deprecated" (3.14), "removed" (3.16)."""
    if version >= (3, 16):
        return "removed"
    return "deprecated" if version >= (3, 14) else "supported"


POLICIES = policy_support(sys.version_info[:2])


class Backports(asyncio.BaseEventLoop):
    """Task keywords of 3.13.3, and the executor's shutdown timeout of 3.12 as corrected in 3.13."""

    _default_executor: "ThreadPoolExecutor | None"
    _task_factory: Callable[..., Any] | None

    if not PASSES_TASK_KEYWORDS:

        def create_task(  # type: ignore[override]
            self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None, **kwargs: Any
        ) -> Any:
            """Run `coro` as a task; further keywords, such as eager_start, go to the task or its factory.

            Raises:
                TypeError: the task of this Python version, or the factory, does not take a keyword.
            """
            self._check_closed()  # type: ignore[attr-defined]
            if self._task_factory is None:
                if "eager_start" in kwargs and not STARTS_TASKS_EAGERLY:
                    if kwargs.pop("eager_start"):
                        raise TypeError("eager_start=True needs Python 3.12, from which on tasks can start eagerly")
                task = asyncio.Task(coro, loop=self, name=name, context=context, **kwargs)
                if task._source_traceback:  # type: ignore[attr-defined]
                    del task._source_traceback[-1]  # type: ignore[attr-defined]
                return task
            if context is not None:
                kwargs["context"] = context
            made = self._task_factory(self, coro, **kwargs)
            if name is not None:
                made.set_name(name)
            return made

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the default executor, at most `timeout` seconds (None: without limit).

        When the time is over, a RuntimeWarning is issued, and the threads end without being waited for. What the
        executor's own `shutdown` raises is raised here.
        """
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
        done = self.create_future()
        thread = threading.Thread(target=join_executor, args=(self, executor, done), daemon=True)
        thread.start()
        await asyncio.wait([done], timeout=timeout)
        if done.done():
            thread.join()
            done.result()
            return
        warnings.warn(
            f"The executor did not finish joining its threads within {timeout} seconds.", RuntimeWarning, stacklevel=2
        )
        executor.shutdown(wait=False)


def join_executor(
    loop: asyncio.AbstractEventLoop, executor: "ThreadPoolExecutor", done: "asyncio.Future[None]"
) -> None:
    """Wait for the threads of `executor`, then finish `done` in the loop, unless the loop was closed meanwhile."""
    # Imported here, because few programs need it.
    from corenet.loop.threads import call_in_loop

    failure: BaseException | None = None
    try:
        executor.shutdown(wait=True)
    except BaseException as error:  # noqa: BLE001 - raised by `shutdown_default_executor`, which waits for it
        failure = error
    call_in_loop(loop, finish, done, failure)


def finish(done: "asyncio.Future[None]", failure: BaseException | None) -> None:
    """Finish `done` unless it was cancelled."""
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    elif isinstance(failure, StopIteration):
        # A future does not accept it.
        done.set_exception(RuntimeError(f"the executor raised {failure!r}"))
    else:
        done.set_exception(failure)
