"""Blocking functions in the loop's thread pool; the other modules of this package do not use the pool themselves.

When the system gives no thread (RLIMIT_NPROC, memory), `run_in_executor` raises RuntimeError at once. Callers could not
tell that from a fault of the program, and few expect it. Here it is an OSError, which each of them handles already as
it handles an error of the disk: what it wanted to do fails with a reason, and what was in force stays.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_thread"]

Result = TypeVar("Result")


async def in_thread(function: Callable[..., Result], *args: object) -> Result:
    """Call ``function(*args)`` in a thread and return its result.

    Raises:
        OSError: there is no thread for it. On asyncio's loop, which queues the call first, the function may still be
            called when a thread is free; its result is lost then.
        Exception: what the function raises.
    """
    loop = asyncio.get_running_loop()
    try:
        call = loop.run_in_executor(None, function, *args)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"the system gives no thread ({error})") from None
    try:
        return await call
    finally:
        # The traceback of an error holds this frame. The frame must not hold the error through `call`: only a
        # collection of all objects, which is rare in the daemon, would free both, and what the function worked on.
        del call
