"""Forks: in the child every inherited loop is cut off from its parent, so that neither can disturb the other.

An epoll descriptor, an eventfd and the signal wake-up socket are shared by both sides of a fork: what the child removes
is removed for the parent, and a signal to the child is heard by the parent. The child gets its own under the same
numbers. A loop that was running counts as stopped there, and the child may close it and run a new one. Where the kernel
refuses the child descriptors of its own, the inherited loop is of no use there; it is cut off from its parent still.
"""

import asyncio
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corenet.loop.loop import Loop

__all__ = ["remember"]

loops: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def remember(loop: "Loop") -> None:
    """Take care of `loop` in every child from now on."""
    loops.add(loop)


def in_child() -> None:
    """Called by the interpreter in the child, before anything else runs there."""
    asyncio._set_running_loop(None)
    failures: list[Exception] = []
    for loop in list(loops):
        if loop.is_closed():
            continue
        loop._thread_id = None  # type: ignore[attr-defined]
        for renew in (loop._renew_after_fork, loop._signals.renew):
            try:
                renew()
            except OSError as error:
                failures.append(error)
    if failures:
        raise ExceptionGroup("loops that were running before the fork cannot be used in the child", failures)


os.register_at_fork(after_in_child=in_child)
