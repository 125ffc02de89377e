"""Request bodies made of files and sequences of parts, most of which can be sent again.

A body is sent again after a redirect, a challenge, or a failure that is retried. An iterator cannot be. A `BodySource`
can if it is `repeatable`: each call of `pieces` starts at the beginning.

A regular file is read with `pread` in a thread. So a slow disk does not stop the loop, the position of the caller's
file object stays where it is, and several readers of one source are independent. Any other file object is read by its
own `read`, in the thread of the loop.
"""

import asyncio
import io
import os
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from corenet.limits import HTTP_FILE_READ

__all__ = ["BodySource", "BytesSource", "FileSource", "JoinedSource", "file_source", "is_file_object"]


@runtime_checkable
class BodySource(Protocol):
    """A body. `repeatable`: it can be read more than once. `length` is in bytes, -1 when it is not known before."""

    length: int
    repeatable: bool

    def pieces(self) -> AsyncIterator[bytes]:
        """Return a new iterator over the whole body."""
        ...


class BytesSource:
    """Bytes in memory."""

    repeatable = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield slices of `HTTP_FILE_READ` bytes."""
        for at in range(0, len(self.data), HTTP_FILE_READ):
            yield self.data[at : at + HTTP_FILE_READ]


class FileSource:
    """`length` bytes of a regular file, from the offset `start` on. Each call of `pieces` uses its own descriptor.

    The caller may close its file meanwhile. Its descriptor's number may then mean another file, which must not be sent.
    """

    repeatable = True

    def __init__(self, file: "Path | io.BufferedReader | io.FileIO", start: int, length: int) -> None:
        self.file = file
        self.start = start
        self.length = length

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the file, read in a thread; fewer than `length` when it was truncated meanwhile.

        Raises:
            OSError: the file cannot be opened or read.
        """
        run = asyncio.get_running_loop().run_in_executor
        # Opened here, because a cancelled call in a thread would leave the descriptor open.
        if isinstance(self.file, Path):
            file = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        else:
            file = os.dup(self.file.fileno())
        at, end = self.start, self.start + self.length
        try:
            while at < end and (piece := await run(None, os.pread, file, min(HTTP_FILE_READ, end - at), at)):
                at += len(piece)
                yield piece
        finally:
            os.close(file)


class _StreamSource:
    """A file object that is not a regular file: seekable, or read once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.length = -1
        self.start = 0
        seekable = getattr(file, "seekable", None)
        self.repeatable = seekable is not None and bool(seekable())
        if self.repeatable:
            self.start = file.tell()
            self.length = file.seek(0, os.SEEK_END) - self.start
            file.seek(self.start)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what `read` returns."""
        if self.repeatable:
            self.file.seek(self.start)
        while piece := self.file.read(HTTP_FILE_READ):
            yield piece


class JoinedSource:
    """Several sources one after another."""

    def __init__(self, parts: Sequence[BodySource]) -> None:
        self.parts = parts
        self.repeatable = all(part.repeatable for part in parts)
        known = all(part.length >= 0 for part in parts)
        self.length = sum(part.length for part in parts) if known else -1

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces of each part."""
        for part in self.parts:
            reading = part.pieces()
            try:
                async for piece in reading:
                    yield piece
            finally:
                await reading.aclose()  # type: ignore[attr-defined]


def is_file_object(value: object) -> bool:
    """Return whether `value` is a file object."""
    return callable(getattr(value, "read", None))


def file_source(file: Any, where: str) -> BodySource:
    """Make a source of a path or a binary file object, from its present position on.

    Raises:
        TypeError: the file was opened as text; `where` names the argument.
        OSError: the path cannot be read, or is not a regular file.
    """
    if isinstance(file, Path):
        facts = file.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{where}: {file} is not a regular file")
        return FileSource(file, 0, facts.st_size)
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{where}: the file was opened as text; open it with mode 'rb'")
    # Subclasses, and other objects with a descriptor, may give other bytes than the file has.
    if type(file) is io.BufferedReader or type(file) is io.FileIO:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode):
            start = file.tell()
            return FileSource(file, start, max(facts.st_size - start, 0))
    return _StreamSource(file)
