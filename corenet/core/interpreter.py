"""Raises ImportError in a subinterpreter or a free-threaded Python, before any extension module is loaded.

Cython's types and constants exist once in a process. If a subinterpreter loaded them first, they would be freed with
it while the main interpreter uses them, and the process would abort. So the check is Python code and runs before all
other imports, also before that of asyncio, which aborts in an isolated subinterpreter of Python 3.12.1.
Handles, rings and write queues rely on the GIL for reference counts and order (docs/interpreters.md).
"""

import _thread
import sys

__all__ = ["refuse_free_threading", "refuse_subinterpreter"]


def in_main_interpreter() -> bool:
    """Return whether this is the main interpreter of the process."""
    is_main = getattr(_thread, "_is_main_interpreter", None)
    if is_main is not None:
        return bool(is_main())
    # Python 3.11 and the first 3.12 releases: this module takes longer to load.
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

    return bool(interpreters.get_current() == interpreters.get_main())


def refuse_subinterpreter() -> None:
    """Check that this is the main interpreter.

    Raises:
        ImportError: it is a subinterpreter.
    """
    if not in_main_interpreter():
        raise ImportError("corenet can be used in the main interpreter only: its C state exists once in a process")


def refuse_free_threading() -> None:
    """Check that this Python was built with the GIL.

    Raises:
        ImportError: it was built without, even when the GIL is switched on at run time.
    """
    # Not sysconfig: loading its table takes half as long as importing the rest of the package.
    if "t" in sys.abiflags:
        raise ImportError(
            f"corenet needs the GIL and this Python {sys.version_info[0]}.{sys.version_info[1]} was built without it "
            "(free-threaded); use the ordinary build of the same version"
        )


refuse_free_threading()
refuse_subinterpreter()
