"""Passes the result of a pool thread to the loop in which a task waits for it.

Each of these threads ends by calling `call_in_loop`, whatever has happened in it: a failure is a result, too.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from corenet.limits import THREAD_RETRY_DELAY

__all__ = ["call_in_loop"]


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """Call ``callback(*args)`` in `loop`; return False when the loop is closed, so that no task waits any more.

    When there is no memory for the handle, it is tried again, because the waiting task would otherwise wait for ever.
    """
    while True:
        try:
            loop.call_soon_threadsafe(callback, *args)
        except MemoryError:
            time.sleep(THREAD_RETRY_DELAY / 1000)
        except RuntimeError:
            if loop.is_closed():
                return False
            raise
        else:
            return True
