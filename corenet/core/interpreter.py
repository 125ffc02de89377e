"""Refuses to be loaded into a subinterpreter or a free-threaded Python, before any extension module is.

Cython's types and constants live once in a process. Loaded first by a subinterpreter they would be lost to the main
one and freed under it at the end, which ends in an abort; so the check is Python and comes first of all imports.
asyncio itself cannot be loaded into an isolated one of Python 3.12.1 without an abort, so nothing is imported before.
Handles, rings and write queues rely on the GIL for their reference counts and their order (docs/interpreters.md).
"""

import _thread
import sys

__all__ = ["refuse_free_threading", "refuse_subinterpreter"]


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process began with."""
    ask = getattr(_thread, "_is_main_interpreter", None)
    if ask is not None:
        return bool(ask())
    # Python 3.11 and the first 3.12: an extension module of its own, which takes longer to load.
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

    return bool(interpreters.get_current() == interpreters.get_main())


def refuse_subinterpreter() -> None:
    """Do nothing in the main interpreter.

    Raises:
        ImportError: this is another one.
    """
    if not in_main_interpreter():
        raise ImportError("corenet can be used in the main interpreter only: its C state exists once in a process")


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
