"""Errors of standard output: closed at start, no space, a closed pipe, or a locale without the characters of a text.

None of these is a bug, so none may print a traceback or the interpreter's message at exit about buffered output.

Text of other programs and of remote servers goes through `printable`, because control characters in it would be
commands for a terminal.
"""

import io
import os
import sys

__all__ = ["discard", "prepare", "printable", "reason"]


def prepare(encoding: str | None = None) -> None:
    """Replace a closed standard output (``>&-``) by /dev/null. What its encoding cannot represent is escaped. With
    `encoding`, use this one, for the content of a file that is read whatever the locale is."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def printable(text: str) -> str:
    """`text` in one line, with control characters as in names: backslash and decimal number (RFC 1035 section 5.1)."""
    return "".join(sign if sign.isprintable() else f"\\{ord(sign):03d}" for sign in text)


def discard() -> None:
    """Discard buffered and later output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """The file of `error`, if it has one, and the message of the system."""
    place = repr(error.filename) if error.filename else "the output"
    return f"{place}: {error.strerror or error}"
