"""A pytest plugin: ``pytest -p corenet.adapters.pytest_plugin`` runs asynchronous tests on corenet.

It gives pytest-asyncio the loop factory, and anyio's plugin the fixture `anyio_backend`, which a test suite can
override as usual. pytest loads it only when it is named, so installing corenet changes no tests.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

import corenet

__all__ = ["backend", "pytest_asyncio_loop_factories", "pytest_configure"]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], Any]]:
    """The loop factories that pytest-asyncio runs each test with: only corenet's."""
    return {"corenet": corenet.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture after anyio's plugin: the plugin registered later overrides the earlier one."""
    late = ModuleType("corenet-anyio")
    late.__dict__["anyio_backend"] = backend
    config.pluginmanager.register(late, late.__name__)


@pytest.fixture(scope="module", name="anyio_backend")
def backend() -> tuple[str, dict[str, Any]]:
    """The backend of anyio's tests: asyncio with corenet's loop."""
    return "asyncio", {"loop_factory": corenet.new_event_loop}
