"""Refuses to be loaded into a subinterpreter or a free-threaded Python, before any extension module is.

Cython's types and constants live once in a process. Loaded first by a subinterpreter they would be lost to the main
one and freed under it at the end, which ends in an abort; so the check is Python and comes first of all imports.
asyncio itself cannot be loaded into an isolated one of Python 3.12.1 without an abort, so nothing is imported before.
Handles, rings and write queues rely on the GIL for their reference counts and their order (docs/interpreters.md).
"""

import importlib
import sys
from typing import Any

__all__ = ["refuse_free_threading", "refuse_subinterpreter"]


def number_of(identity: Any) -> int:
    """The number of an interpreter: 3.13 gives it in a tuple with who owns it."""
    return int(identity[0] if isinstance(identity, tuple) else identity)


def refuse_subinterpreter() -> None:
    """Do nothing in the main interpreter.

    Raises:
        ImportError: this is another one.
    """
    # The older name first where it is the only one: a search for a module that is not there is not short.
    names = ("_interpreters", "_xxsubinterpreters")
    for name in names if sys.version_info >= (3, 13) else names[::-1]:
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        if number_of(interpreters.get_current()) != number_of(interpreters.get_main()):
            raise ImportError("corenet can be used in the main interpreter only: its C state exists once in a process")
        return


def refuse_free_threading() -> None:
    """Do nothing on a Python that was built with the GIL.

    Raises:
        ImportError: it was built without, also when the GIL was switched on by hand.
    """
    # Not by sysconfig, whose table of the whole build costs half of what the rest of the package does.
    if "t" in sys.abiflags:
        raise ImportError(
            f"corenet needs the GIL and this Python {sys.version_info[0]}.{sys.version_info[1]} was built without it "
            "(free-threaded); use the ordinary build of the same version"
        )


refuse_free_threading()
refuse_subinterpreter()
