"""Writes the query log to a file or to standard output, in a thread.

A piece consists of whole lines and is appended by one write, so lines of several workers do not mix in a file. To a
pipe or a terminal, where only short writes are not divided, lines are written in groups of at most PIPE_BUF octets.

A write that fails, because the disk is full or for any other reason, loses its piece: the lines are counted, and the
log of the daemon says so once, and again when writing works. If a part of a line was written before, the next line
begins on a line of its own. `reopen` opens the file of that name again after another program has renamed it; the old
one stays in use when that fails.

Descriptors: the thread owns the one it writes to. The one that `reopen` has opened belongs to `_next_fd` until the
thread takes it; both sides change that under `_lock`. When the thread has ended, none is open.
"""

import os
import select
import stat
import threading

from resolver.observe.output import Output
from resolver.observe.pieces import Pieces
from resolver.regular_file import irregular_kind
from resolver.settings.observe import STDOUT, QueryLogSettings

__all__ = ["QueryLogWriter", "open_log", "unusable_kind"]

NEWLINE = 10


def unusable_kind(path: str) -> str:
    """What `path` is when the query log cannot be written to it; "" for a regular file, a character device such as
    /dev/null, a FIFO, which /dev/stdout may be in a container, or a new file. A socket cannot be opened."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""  # it does not exist, or opening it says why it cannot be used
    return "" if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) else irregular_kind(mode)


def open_log(settings: QueryLogSettings) -> int:
    """Open the file for appending; the descriptor.

    Raises:
        ValueError: it cannot be opened; the text names the setting.
    """
    if settings.file == STDOUT:
        return os.dup(1)
    if kind := unusable_kind(settings.file):
        raise ValueError(f"query_log.file: cannot open {settings.file!r}: it is {kind}; name a file, or \"-\" for"
                         " standard output")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its reader.
        opened = os.open(settings.file, flags, int(settings.mode, 8))
    except OSError as error:
        raise ValueError(f"query_log.file: cannot open {settings.file!r}: {error.strerror}") from None
    os.set_blocking(opened, True)
    return opened


class QueryLogWriter(Output):
    """Writes to the file of `settings`, which is open when the constructor returns.

    Raises:
        ValueError: the file cannot be opened.
    """

    name = "query log"
    group = "query_log"

    def __init__(self, settings: QueryLogSettings, pieces: Pieces) -> None:
        super().__init__(pieces)
        self.settings = settings
        self._fd = open_log(settings)
        self._next_fd = -1
        self._ended = False
        self._lock = threading.Lock()
        """For `_next_fd` and `_ended`."""
        self._torn = False
        """Whether the last write has ended within a line."""
        self._group = 0
        self._examine()

    def reopen(self) -> None:
        """Open the file again, and use it from the next piece on. Called by the loop.

        Raises:
            ValueError: it cannot be opened. The old file stays in use.
        """
        if self.settings.file != STDOUT:
            opened = open_log(self.settings)
            with self._lock:
                unused = opened
                if not self._ended:
                    unused, self._next_fd = self._next_fd, opened
            if unused >= 0:
                os.close(unused)
            self.pieces.wake()

    def work(self) -> None:
        try:
            self._write_pieces()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file, and the one that `reopen` may have opened."""
        with self._lock:
            self._ended = True
        self._switch()
        os.close(self._fd)

    def _write_pieces(self) -> None:
        """Until `stop`, and then what was handed over before it."""
        while True:
            stopping = self.stopping  # before `take`, so that a piece handed over before `stop` is seen
            taken = self.pieces.take()
            self._switch()
            if taken is None:
                if stopping:
                    return
                self.wait()
                continue
            octets, lines = taken
            try:
                self._write(octets)
            except OSError as error:
                self.lost += lines
                self.note_failure(f"lines are lost: cannot write to {self.settings.file}: {error.strerror}")
            else:
                self.written += lines
                self.octets += len(octets)
                self.note_success(f"lines are written again; {self.lost} were lost so far")
            finally:
                octets.release()
                self.pieces.give_back()

    def _switch(self) -> None:
        """Switch to the file that the loop has opened, if there is one."""
        with self._lock:
            opened, self._next_fd = self._next_fd, -1
        if opened < 0:
            return
        os.close(self._fd)
        self._fd, self._torn = opened, False
        self._examine()

    def _examine(self) -> None:
        # Of a regular file, one write appends all octets at once.
        self._group = 0 if stat.S_ISREG(os.fstat(self._fd).st_mode) else select.PIPE_BUF

    def _write(self, octets: memoryview) -> None:
        """Write whole lines.

        Raises:
            OSError: not all of them were written.
        """
        if self._torn:
            os.write(self._fd, b"\n")
            self._torn = False
        at = 0
        try:
            while at < len(octets):
                at += os.write(self._fd, octets[at : self._end_of_group(octets, at)])
        except OSError:
            self._torn = at > 0 and octets[at - 1] != NEWLINE
            raise

    def _end_of_group(self, octets: memoryview, at: int) -> int:
        """The end of the last line that fits into one undivided write."""
        if not self._group or len(octets) - at <= self._group:
            return len(octets)
        return bytes(octets[at : at + self._group]).rfind(b"\n") + 1 + at or at + self._group
