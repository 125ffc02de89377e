"""Forks: in the child, every inherited loop is detached from the parent, so that neither process disturbs the other.

Parent and child share the epoll instance, the eventfd and the signal wake-up socket after a fork: a registration that
the child removes is removed for the parent too, and a signal to the child wakes the parent. The child therefore
replaces them, keeping the descriptor numbers. A loop that was running counts as stopped in the child, which may close
it and run a new one. When the kernel refuses the new descriptors, the inherited loop cannot be used in the child, but
is still detached. When the kernel refuses one registration (ENOMEM, ENOSPC), a wait for that descriptor fails, a
transport ends, and a reader, writer or watch is removed and reported to the exception handler.

Bytes are sent once. Before a fork inside a callback, what callbacks have written so far is sent. The rest, which the
kernel did not accept, is sent by the parent; the child discards it, and also what the loops of other threads have
queued. A TLS session of a running loop belongs to the parent: in the child its connection ends with
ConnectionAbortedError, and nothing is sent.
"""

import asyncio
import os
import weakref

from corenet.loop.base import BaseLoop

__all__ = ["register"]

loops: weakref.WeakSet[BaseLoop] = weakref.WeakSet()


def register(loop: BaseLoop) -> None:
    """Detach `loop` from its parent in every child that is forked from now on."""
    loops.add(loop)


def flush_before_fork() -> None:
    """Called by the interpreter before a fork, in the thread that forks: its running loop sends queued bytes."""
    loop = asyncio._get_running_loop()
    if loop in loops:
        loop._flush_before_fork()  # type: ignore[union-attr]


def reinit_in_child() -> None:
    """Called by the interpreter in the child, before other code runs there."""
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
