"""The reference loop for tests in which asyncio's own loop is wrong: uvloop, where installed, then our loop.

A test that uvloop fails is a wrong test.
"""

import asyncio
import importlib.util
from collections.abc import Callable

import pytest

import corenet

__all__ = ["LOOPS", "Factory", "keeps_open"]

Factory = Callable[[], asyncio.AbstractEventLoop]


def uvloop_factory() -> asyncio.AbstractEventLoop:
    """A loop of uvloop."""
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


LOOPS = [pytest.param(corenet.new_event_loop, id="corenet")]
if importlib.util.find_spec("uvloop"):
    LOOPS.insert(0, pytest.param(uvloop_factory, id="uvloop"))

keeps_open = pytest.mark.parametrize("factory", LOOPS)
"""A socket object that the program closes stays open to the kernel as long as the loop needs it."""
