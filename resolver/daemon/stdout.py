"""Standard output of the tools where it is not as one expects: closed from the start, full, or its reader has gone.

None of these is a fault of the program, so none may end in a traceback, nor in the interpreter's complaint at exit
about what is still buffered.
"""

import os
import sys

__all__ = ["discard", "prepare", "reason"]


def prepare() -> None:
    """Let what is printed without a standard output (``>&-``) go nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")


def discard() -> None:
    """Drop what is still buffered, and everything written from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """What the system says about writing, or opening, something."""
    place = repr(error.filename) if error.filename else "the output"
    return f"{place}: {error.strerror or error}"
