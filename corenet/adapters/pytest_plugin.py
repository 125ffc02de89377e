"""A pytest plugin: ``pytest -p corenet.adapters.pytest_plugin`` runs asynchronous tests on corenet.

For pytest-asyncio it offers the loop factory, for anyio's plugin the fixture `anyio_backend`, which a test suite may
override as ever. It is loaded only where it is asked for, so to have corenet installed changes nobody's tests.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

import corenet

__all__ = ["backend", "pytest_asyncio_loop_factories", "pytest_configure"]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], Any]]:
    """The factories that pytest-asyncio runs each test with: ours alone."""
    return {"corenet": corenet.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    """Bring in the fixture after anyio's plugin brought its own: of two fixtures of plugins the later one counts."""
    late = ModuleType("corenet-anyio")
    late.__dict__["anyio_backend"] = backend
    config.pluginmanager.register(late, late.__name__)


@pytest.fixture(scope="module", name="anyio_backend")
def backend() -> tuple[str, dict[str, Any]]:
    """anyio's tests run on asyncio with our loop."""
    return "asyncio", {"loop_factory": corenet.new_event_loop}
