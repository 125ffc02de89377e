"""No test leaves an event loop open.

A loop that is collected later warns then, which fails whatever test is running. So the test that has left it fails
here. After a test that has failed anyway its loop is closed, because its traceback keeps it for some time.
"""

import asyncio
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

_made: "weakref.WeakSet[asyncio.BaseEventLoop]" = weakref.WeakSet()
_failed = False
_init = asyncio.BaseEventLoop.__init__


def _noted_init(self: asyncio.BaseEventLoop, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    _made.add(self)


def _left_open() -> list[asyncio.BaseEventLoop]:
    """Close the loops that are open and do not run. One that runs in a thread belongs to a fixture."""
    found = [loop for loop in _made if not loop.is_closed() and not loop.is_running()]
    for loop in found:
        loop.close()
    return found


@pytest.fixture(scope="session", autouse=True)
def _watched_loops() -> Iterator[None]:
    """Record each loop that is made while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "__init__", _noted_init)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Remember whether the test has failed."""
    global _failed
    _failed = True
    result = yield
    _failed = False
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Check after the fixtures have been torn down."""
    result = yield
    found = _left_open()
    if found and not _failed:
        pytest.fail(f"{item.nodeid} leaves open: {found!r}", pytrace=False)
    return result
