"""Limits the time of each phase of a test (set-up, call, clean-up) and reports what the test was waiting for.

SIGALRM interrupts whatever the main thread waits for: a poll of either loop, a lock, a thread, a child process, a
socket. The handler raises a KeyboardInterrupt, which both loops let through from each callback and task, which
Hypothesis does not treat as a failing example, and which `except Exception` does not catch. It is repeated every few
seconds until the phase ends, so that a clean-up cannot wait for ever, either. The phase then fails with Overdue. Where
the main thread cannot be interrupted (C code that does not return), faulthandler ends the run (pyproject.toml).

The limit is `SECONDS`, or the value of `pytest.mark.limit(seconds)`, times CORENET_TEST_SLOWNESS, which the slow builds
set.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SECONDS", "Overdue", "limited", "what_is_awaited"]

SECONDS = 120.0
"""Of a test that does not say more: many times what the longest of them takes where nothing else runs."""
AGAIN = 10.0
"""Until it is raised once more."""
MOST_TASKS = 20


class Overdue(AssertionError):
    """A phase took too long; the text says what everything waited for."""


class Alarm(KeyboardInterrupt):
    """What ends the wait."""


def slowness() -> float:
    """By how much this build is slower than others."""
    return float(os.environ.get("CORENET_TEST_SLOWNESS") or 1)


@contextmanager
def limited(name: str, seconds: float) -> Iterator[None]:
    """End what is inside after `seconds`; also where it swallowed that, it has failed.

    Only in the main thread, where signals arrive; elsewhere there is no limit.

    Raises:
        Overdue: it took longer.
        AssertionError: a handler for SIGALRM was left behind, so that there was no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    said: list[str] = []

    owner = os.getpid()

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A child of a fork that has set itself an alarm means to die of it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        said.append(f"{name}: not done after {seconds:g} s\n{what_is_awaited(frame)}")
        raise Alarm(name)

    before = signal.signal(signal.SIGALRM, on_alarm)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    except BaseException as error:
        if not said:
            raise
        raise Overdue(said[0]) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        # A test that set a handler and did not put ours back has lost its limit.
        replaced = signal.signal(signal.SIGALRM, before) is not on_alarm
    if said:
        raise Overdue(said[0])
    if replaced:
        raise AssertionError(f"{name}: keeps a handler for SIGALRM")


def what_is_awaited(frame: FrameType | None = None) -> str:
    """The main thread's stack, those of the other threads, and for each task that is not done its chain of awaits."""
    parts = ["main thread:\n" + "".join(traceback.format_stack(frame)[-12:])]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, top in sys._current_frames().items():
        if number != threading.main_thread().ident:
            parts.append(f"thread {names.get(number, number)}:\n" + "".join(traceback.format_stack(top)[-8:]))
    # By the collector, so that tasks of every loop in every thread are seen, in every version of Python.
    tasks: list[Any] = [o for o in gc.get_objects() if issubclass(type(o), asyncio.Task) and not o.done()]
    parts += [f"task {task.get_name()}:\n" + "".join(chain(task.get_coro())) for task in tasks[:MOST_TASKS]]
    if len(tasks) > MOST_TASKS:
        parts.append(f"and {len(tasks) - MOST_TASKS} tasks more\n")
    return "\n".join(parts)


def chain(awaited: Any) -> Iterator[str]:
    """What a coroutine awaits, from itself to what it all hangs on."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            if hasattr(awaited, f"{kind}_frame"):
                frame = getattr(awaited, f"{kind}_frame")
                if frame is None:
                    yield f"  {awaited!r}\n"
                else:
                    yield from traceback.format_list([traceback.FrameSummary(
                        frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
                    )])
                awaited = getattr(awaited, f"{kind}_await", None) or getattr(awaited, "gi_yieldfrom", None)
                break
        else:
            yield f"  waits for {awaited!r}\n"
            return
