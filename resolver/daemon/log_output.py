"""Writes log lines to a descriptor without waiting for the program that reads them.

A pipe, a terminal (stopped by XOFF) or the socket of a journal accepts nothing more when its reader has stopped. A
process that waited for it would not serve its clients meanwhile. So a line that is not accepted at once is lost, and
counted. Lines that were accepted in part are completed first.

O_NONBLOCK belongs to the open file, which other programs share. So a pipe or terminal is opened once more; sockets have
MSG_DONTWAIT. When it cannot be opened, as by another user than its owner, each write is of at most PIPE_BUF octets and
follows a poll, which tells that there is space for them (pipe(7)). It then waits only if another process has taken that
space in between.
"""

import os
import select
import socket
import stat
from typing import TextIO

__all__ = ["LogOutput"]


class LogOutput:
    """The descriptor of a stream that may block. `lost` is the number of lines that it did not accept."""

    def __init__(self, descriptor: int, mode: int) -> None:
        """`mode` is that of fstat(2)."""
        self.descriptor = descriptor
        self.lost = 0
        self._rest = b""
        self._socket: socket.socket | None = None
        self._blocks = False
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(descriptor))
            return
        try:
            self.descriptor = os.open(
                f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
        except OSError:  # of another user, no /proc, or no reader at the moment
            self._blocks = True

    @classmethod
    def of(cls, stream: TextIO | None) -> "LogOutput | None":
        """The output of `stream`; None when writing to it does not wait for a reader, or it has no descriptor."""
        if stream is None:
            return None
        try:
            descriptor = stream.fileno()
            mode = os.fstat(descriptor).st_mode
            return cls(descriptor, mode) if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode) else None
        except (OSError, ValueError):  # it is closed, is no file, or there are no descriptors
            return None

    def close(self) -> None:
        """Close what was opened; the descriptor of the stream stays open."""
        if self._socket is not None:
            self._socket.close()
        elif not self._blocks:
            os.close(self.descriptor)

    def write(self, line: bytes) -> bool:
        """Write `line`, which ends with a newline; False when it was lost. Its end may be written by the next call."""
        if self._rest:
            self._rest = self._write(self._rest)
        if self._rest or (rest := self._write(line)) is line:
            self.lost += 1
            return False
        self._rest = rest
        return True

    def _write(self, data: bytes) -> bytes:
        """Write as much of `data` as is accepted now, and return the rest; `data` itself when that is all of it."""
        try:
            while data:
                if self._socket is not None:
                    written = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                elif self._blocks:
                    if not _accepts(self.descriptor):
                        break
                    written = os.write(self.descriptor, data[: select.PIPE_BUF])
                else:
                    written = os.write(self.descriptor, data)
                data = data[written:]
        except OSError:  # not now, or the reader has ended
            pass
        return data


def _accepts(descriptor: int) -> bool:
    """Whether the descriptor can be written."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poll.poll(0))
