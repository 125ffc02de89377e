"""The extension modules of tests/native, from the build that is under test.

They are beside the packages: in the checkout, or in the folder of a debug or sanitizer build. An installed wheel does
not contain them, so tests that use them carry the mark `checkout`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import corenet

__all__ = ["begin_clear", "hold_locks", "producing", "set_echo", "time_of_line"]

FOLDER = Path(corenet.__file__).parents[1] / "tests" / "native"


@cache
def _module(name: str) -> Any:
    spec = PathFinder.find_spec(name, [str(FOLDER)])
    assert spec is not None and spec.loader is not None, f"no module {name} in {FOLDER}: build the checkout"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_echo(transport: Any) -> None:
    """Let `transport` send every datagram back without Python."""
    _module("echo").set_echo(transport)


def hold_locks(table: Any, kind: int, key: bytes, *, arena: bool = True) -> None:
    """Take the locks an insertion of `key` would hold and begin to change its bucket, as if killed right there. Without
    `arena` a change in place, which holds only that of the group."""
    _module("hold_locks").hold_locks(table, kind, key, arena=arena)


def begin_clear(table: Any) -> None:
    """Clear the table up to the change of its serial, as if killed right there."""
    _module("hold_locks").begin_clear(table)


@contextmanager
def producing(pieces: Any) -> Iterator[None]:
    """Be the producer of `pieces` within the context."""
    module = _module("hold_pieces")
    module.hold(pieces)
    try:
        yield
    finally:
        module.release(pieces)


def time_of_line(nanoseconds: int) -> str:
    """The time in a line of the query log for a query that was answered at this time since 1970."""
    return str(_module("log_lines").time_of_line(nanoseconds))
