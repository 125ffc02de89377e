"""Errors of standard output: closed at start, no space, or a closed pipe.

None of these is a bug, so none may print a traceback or the interpreter's message at exit about buffered output.
"""

import os
import sys

__all__ = ["discard", "prepare", "reason"]


def prepare() -> None:
    """Replace a closed standard output (``>&-``) by /dev/null."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")


def discard() -> None:
    """Discard buffered and later output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """The file of `error`, if it has one, and the message of the system."""
    place = repr(error.filename) if error.filename else "the output"
    return f"{place}: {error.strerror or error}"
