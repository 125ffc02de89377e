"""A thread that takes pieces from a buffer and writes them, and never holds up the loop.

States of the thread: running, stopping (`stop` was called: it writes what is left, for a limited time), ended. The
thread owns its descriptor. The loop sets attributes that the thread reads, and wakes it. A thread that hangs, because a
disk does, is left behind when the process ends.

Each record is written, or counted with a reason. What an ended thread has left is `unwritten`, and counts as dropped
because the output was stopped.
"""

import errno
import logging
import os
import select
import threading
import time

from resolver import limits
from resolver.observe.pieces import Pieces

__all__ = ["Output"]

logger = logging.getLogger(__name__)


class Output:
    """The base of the query log's and dnstap's writers. Subclasses define `work`, which runs in the thread."""

    name = ""
    """What the log calls it."""
    group = ""
    """The group of its counters."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.stopping = False
        self.stop_by = float("inf")
        """When the thread must have ended, on the monotonic clock."""
        self.failure = ""
        """Why the last attempt to write has failed, which was logged; empty when it has not. The thread sets it."""
        self.written = 0
        """Records written."""
        self.octets = 0
        """Octets written."""
        self.lost = 0
        """Records lost because writing failed."""
        self.stalled = ""
        """What the log has said when records began to be dropped, because the buffer was full; empty when they fit
        again. The loop sets it."""
        self._dropped = 0
        """Records dropped until the last `check_room`."""
        self._room_since = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread.

        Raises:
            OSError: the system gives no thread. What the output has opened is closed.
        """
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.close()
            raise OSError(errno.EAGAIN, f"{self.name}: {error}") from None
        self._thread = thread

    @property
    def alive(self) -> bool:
        """Whether the thread runs: it was started, and neither `stop` nor an exception has ended it."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def unwritten(self) -> int:
        """Records that are neither written nor lost: the thread has them before it, or has ended."""
        return self.pieces.records - self.written - self.lost

    def note_unwritten(self) -> None:
        """Log how many records are left, when the output has ended."""
        left = self.unwritten
        if left:
            logger.warning("%s: it has ended, and the last %d records were not written", self.name, left)

    def check_room(self, now: float) -> None:
        """Log when records begin to be dropped because the buffer is full, and when they fit again. Called by the loop
        at the moment `now` of the monotonic clock. A writer that fails says so itself."""
        dropped = self.pieces.overrun
        if dropped > self._dropped:
            self._dropped, self._room_since = dropped, now
            if not self.stalled and not self.failure:
                self.stalled = "records are dropped: the buffer is full, because the reader does not take them in time"
                logger.warning("%s: %s", self.name, self.stalled)
        elif self.stalled and now - self._room_since >= limits.OBSERVE_STALL / 1000:
            self.stalled = ""
            logger.info("%s: records are written again; %d were dropped so far", self.name, dropped)

    def stop(self, seconds: float) -> None:
        """Let the thread write what is left, for at most `seconds`, and end. The producer must have flushed."""
        self.stop_by = time.monotonic() + seconds
        self.stopping = True
        self.pieces.wake()

    def join(self) -> None:
        """Wait for the end of the thread, which `stop` has limited."""
        if self._thread is not None:
            self._thread.join(max(self.stop_by - time.monotonic(), 0))

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        ended = self._thread is not None and not self.alive
        return {
            "records": self.pieces.records, "written": self.written, "bytes": self.octets,
            "dropped_buffer_full": self.pieces.overrun, "dropped_write_failed": self.lost,
            "dropped_stopped": self.unwritten if ended else 0,
        }

    def work(self) -> None:
        """Write pieces until `stopping`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what the constructor has opened."""

    # --- for subclasses, in the thread ---------------------------------------------------------------------------

    def wait(self, seconds: float | None = None) -> None:
        """Wait for a piece, for `stop`, or for other requests of the loop; at most `seconds`."""
        waiting = select.poll()
        waiting.register(self.pieces.fileno(), select.POLLIN)
        if waiting.poll(None if seconds is None else seconds * 1000):
            self.clear_wake()

    def wait_until(self, moment: float) -> None:
        """Wait until `moment` of the monotonic clock, or until `stop`."""
        while not self.stopping and (left := moment - time.monotonic()) > 0:
            self.wait(left)

    def clear_wake(self) -> None:
        """Forget that the loop has woken this thread; to be called before it looks for work."""
        os.eventfd_read(self.pieces.fileno())

    def note_failure(self, text: str) -> None:
        """Log that writing fails, once until it succeeds."""
        if not self.failure:
            logger.error("%s: %s", self.name, text)
        self.failure = text

    def note_success(self, text: str) -> None:
        """Log that writing works again, if it has failed before."""
        if self.failure:
            self.failure = ""
            logger.info("%s: %s", self.name, text)

    def _run(self) -> None:
        try:
            self.work()
        except Exception:
            logger.critical("%s: the thread has ended after an unexpected exception; this is a bug", self.name,
                            exc_info=True)
