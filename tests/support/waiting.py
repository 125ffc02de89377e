"""Waiting in tests: for a named condition, never for time.

`tests/unit/test_waits.py` checks that all tests use it.
"""

import asyncio
import time
from collections.abc import Callable

__all__ = ["spin", "turns", "until"]

SECONDS = 30.0
"""Many times what anything takes that tests wait for so."""
BETWEEN = 0.001


async def until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Let the loop run until `condition()` holds, for what comes from outside it.

    Raises:
        AssertionError: when it does not within `seconds`; says `what` was awaited.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"did not happen within {seconds:g} s: {what}")
        await asyncio.sleep(BETWEEN)


async def spin(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Like `until`, but without a timer: for what the loop does itself, also while its clock stands still.

    Raises:
        AssertionError: when `condition()` does not hold within `seconds` of the machine's time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {seconds:g} s: {what}")
        await asyncio.sleep(0)


async def turns(number: int = 30) -> None:
    """Let the loop run for `number` iterations."""
    for _ in range(number):
        await asyncio.sleep(0)
