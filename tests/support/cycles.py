"""Objects that only the garbage collector frees: what an operation leaves in reference cycles."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["left_in_cycles"]


async def left_in_cycles(operation: Callable[[], Awaitable[object]], times: int = 3) -> list[str]:
    """The name of the type of each object that `times` runs of `operation` leave in reference cycles, after one run
    that does not count."""
    await operation()
    await _settle()
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    before = len(gc.garbage)
    try:
        for _ in range(times):
            await operation()
        await _settle()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
    finally:
        gc.set_debug(0)
        if was_enabled:
            gc.enable()
    found: list[Any] = gc.garbage[before:]
    del gc.garbage[before:]
    return sorted(type(one).__name__ for one in found)


async def _settle() -> None:
    """Let callbacks of what has ended run."""
    for _ in range(30):
        await asyncio.sleep(0)
