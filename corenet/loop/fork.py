"""Forks: in the child every inherited loop is cut off from its parent, so that neither can disturb the other.

An epoll descriptor, an eventfd and the signal wake-up socket are shared by both sides of a fork: what the child removes
is removed for the parent, and a signal to the child is heard by the parent. The child gets its own under the same
numbers. A loop that was running counts as stopped there, and the child may close it and run a new one. Where the kernel
refuses the child descriptors of its own, the inherited loop is of no use there; it is cut off from its parent still.
Where it has no room for one registration (ENOMEM, ENOSPC), whoever waits for that descriptor is told: a wait fails, a
transport ends, a reader, writer or watch is reported to the exception handler and is none any more.

Bytes leave once. Before a fork in a callback, what callbacks have written so far is sent; what the kernel did not take
is sent by the parent alone, and the child forgets it. So it does with what the loops of other threads hold at that
moment. A TLS session of a loop that ran is the parent's alone: in the child, its connection ends with
ConnectionAbortedError, and nothing of it is sent.
"""

import asyncio
import os
import weakref

from corenet.loop.base import BaseLoop

__all__ = ["register"]

loops: weakref.WeakSet[BaseLoop] = weakref.WeakSet()


def register(loop: BaseLoop) -> None:
    """Take care of `loop` in every child from now on."""
    loops.add(loop)


def flush_before_fork() -> None:
    """Called by the interpreter before a fork, in the thread that forks: its loop sends what it holds."""
    loop = asyncio._get_running_loop()
    if loop in loops:
        loop._flush_before_fork()  # type: ignore[union-attr]


def reinit_in_child() -> None:
    """Called by the interpreter in the child, before anything else runs there."""
    asyncio._set_running_loop(None)
    failures: list[Exception] = []
    for loop in list(loops):
        if loop.is_closed():
            continue
        loop._thread_id = None  # type: ignore[attr-defined]
        for reinit_after_fork in (loop._reinit_after_fork, loop._signals.reinit_after_fork):
            try:
                reinit_after_fork()
            except OSError as error:
                failures.append(error)
    if failures:
        raise ExceptionGroup("loops that were running before the fork cannot be used in the child", failures)


os.register_at_fork(before=flush_before_fork, after_in_child=reinit_in_child)
