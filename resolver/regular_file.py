"""Opens the files that a configuration names, and refuses what is no regular file.

Opening a FIFO waits for a writer: a start, a check of the configuration or a thread of a pool would wait for ever. A
device may have no end.
"""

import errno
import os
import stat
from typing import BinaryIO

__all__ = ["irregular_kind", "irregular_path", "open_regular"]


def irregular_kind(mode: int) -> str:
    """What a file of `mode` (`os.stat_result.st_mode`) is; "" for a regular one."""
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO (named pipe)", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def irregular_path(path: str) -> str:
    """As `irregular_kind`, of the file `path`; "" also when there is none: opening it says why."""
    try:
        return irregular_kind(os.stat(path).st_mode)
    except OSError:
        return ""


def open_regular(path: "str | os.PathLike[str]") -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is not a regular file; `strerror` says why.
    """
    # O_NONBLOCK: not to wait for the writer of a FIFO. O_NOCTTY: a terminal must not become that of this process.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY))
    kind = irregular_kind(os.fstat(file.fileno()).st_mode)
    if kind:
        file.close()
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
    return file
