"""CPython's own tests of asyncio's streams, run on ours: the semantics of the one are the specification of the other.

``test.test_asyncio.test_streams`` is loaded with an `asyncio` whose stream classes and functions are ours, once on our
loop and once on the standard one. What looks at the insides of asyncio's stands in `KNOWN` with its reason; a name in
that list that does not exist in this version of Python is ignored.
"""

import asyncio
import importlib.util
import types
import unittest
from typing import Any

import pytest

import corenet

pytest.importorskip("test.test_asyncio", reason="this interpreter was installed without the test package")

#: test: why it is not run.
KNOWN: dict[str, str] = {}

OURS = (
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
)


class Asyncio(types.ModuleType):
    """asyncio with our streams, and with our loop if wanted."""

    def __init__(self, new_event_loop: Any) -> None:
        super().__init__("asyncio")
        self.new_event_loop = new_event_loop
        for name in OURS:
            setattr(self, name, getattr(corenet, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def cases(label: str, new_event_loop: Any) -> dict[str, type]:
    """The test cases of CPython's module, on our streams and the loop given."""
    spec = importlib.util.find_spec("test.test_asyncio.test_streams")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.asyncio = Asyncio(new_event_loop)  # type: ignore[attr-defined]
    found = {}
    for name, case in vars(module).items():
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == spec.name:
            changes: dict[str, Any] = {test: None for test in dir(case) if test in KNOWN}
            found[f"{name}{label}"] = type(f"{name}{label}", (case,), {"__module__": __name__, **changes})
    return found


globals().update(cases("OnCorenet", corenet.new_event_loop))
globals().update(cases("OnAsyncio", asyncio.new_event_loop))
