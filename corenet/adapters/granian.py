"""A builder of loops for granian, whose ``--loop`` knows only names of its own registry.

`register` puts ours under ``auto``, granian's default. Its workers are started after the registration and inherit it
or, where they are spawned, repeat it; see `corenet.launch`.
"""

import asyncio
import importlib
from typing import Any

import corenet

__all__ = ["register"]


def register() -> None:
    """Make corenet the loop of every granian server of this process.

    Raises:
        ImportError: granian is not installed.
    """
    loops: Any = importlib.import_module("granian").loops
    loops.register("auto")(build)


def build() -> corenet.Loop:
    """A loop, set as the thread's own, as granian wants it."""
    loop = corenet.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop
