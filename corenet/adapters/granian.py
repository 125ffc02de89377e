"""A loop builder for granian, whose ``--loop`` accepts only names in its own registry.

`register` registers corenet as ``auto``, granian's default. Forked workers inherit the registration, spawned ones
repeat it; see `corenet.launch`.
"""

import asyncio
import importlib
from typing import Any

import corenet

__all__ = ["register"]


def register() -> None:
    """Make every granian server of this process use corenet.

    Raises:
        ImportError: granian is not installed.
    """
    loops: Any = importlib.import_module("granian").loops
    loops.register("auto")(build)


def build() -> corenet.Loop:
    """Create a loop and set it as the thread's event loop, as granian requires."""
    loop = corenet.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop
