"""Tells whether a file has been replaced or written since it was read, without reading it again.

A file with the same numbers has the same content, unless a program has reset its modification time.
"""

import os

__all__ = ["identity", "identity_of"]


def identity(path: str) -> tuple[int, ...]:
    """Numbers that change with each new content of the file; empty when it does not exist."""
    try:
        return identity_of(os.stat(path))
    except OSError:
        return ()


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """As `identity`, of a file that `os.stat` or `os.fstat` has looked at."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
