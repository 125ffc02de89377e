"""What newer versions of asyncio added to loops, offered on every supported version.

Rule: a keyword is passed on only when it was given, so that a task factory written for an older version keeps working;
where the interpreter's own method does the same already, it is left alone.
"""

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from corenet.loop import compat

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Backports"]


class Backports(asyncio.BaseEventLoop):
    """Task keywords of 3.13.3 and the executor's shutdown timeout of 3.12, right as in 3.13."""

    _default_executor: "ThreadPoolExecutor | None"
    _task_factory: Callable[..., Any] | None

    if not compat.PASSES_TASK_KEYWORDS:

        def create_task(  # type: ignore[override]
            self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None, **kwargs: Any
        ) -> Any:
            """Run `coro` as a task; further keywords, such as eager_start, go to the task or its factory.

            Raises:
                TypeError: the task of this Python version, or the factory, does not take a keyword.
            """
            self._check_closed()  # type: ignore[attr-defined]
            if self._task_factory is None:
                if "eager_start" in kwargs and not compat.STARTS_TASKS_EAGERLY:
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
        """Wait for the threads of the default executor, at most `timeout` seconds when it is given.

        A RuntimeWarning says that they had not finished; then they are left to end by themselves.
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
    """Wait for the threads of `executor` and tell the loop, unless it was closed meanwhile."""
    executor.shutdown(wait=True)
    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(finish, done)
        except RuntimeError:
            # Closed between the question and the call.
            return


def finish(done: "asyncio.Future[None]") -> None:
    """Finish `done` unless nobody waits any more."""
    if not done.done():
        done.set_result(None)
