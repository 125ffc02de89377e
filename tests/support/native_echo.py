"""The native datagram handler of tests/native/echo.pyx, of the build that is under test.

It is an extension module beside the packages: in the checkout, or in the folder of a debug or sanitizer build. An
installed wheel has none, so tests that use it carry the mark `checkout`.
"""

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import corenet

__all__ = ["set_echo"]

FOLDER = Path(corenet.__file__).parents[1] / "tests" / "native"


@cache
def _echo() -> Any:
    spec = PathFinder.find_spec("echo", [str(FOLDER)])
    assert spec is not None and spec.loader is not None, f"no module echo in {FOLDER}: build the checkout"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_echo(transport: Any) -> None:
    """Let `transport` send every datagram back without Python."""
    _echo().set_echo(transport)
