"""Counters that survive their worker: what each worker has shown last, in memory that the supervisor shares with all.

A counter of Prometheus must not go back. The counters of a worker are numbers of its process, so a worker that is
started again would begin at 0, and the sums of all workers would drop. Therefore each worker writes its counters to a
part of memory of its own whenever it reports them, and every few seconds (`limits.COUNTERS_KEPT`); its successor reads
them when it starts and adds them to its own. What a worker has counted after its last write is lost with it; it was
never reported.

A part has two halves, which are written in turns, the header last. A worker that is killed while it writes leaves the
other half valid. Only the worker with the number of the part writes to it, and only one runs at a time; the supervisor
writes when it has ended. The memory is anonymous: it ends with the daemon, whose restart Prometheus handles as such.
"""

import json
import mmap
import zlib
from struct import Struct
from typing import Any

from resolver import limits

__all__ = ["KeptCounters"]

HALF = limits.COUNTERS_OCTETS
HEADER = Struct("=QII")
"""Number of the writing (0: none), size of the JSON text that follows, and CRC-32 of number and text."""


class KeptCounters:
    """The parts of all workers. It is made before the fork."""

    def __init__(self, workers: int) -> None:
        """Raises:
        OSError: the memory cannot be had.
        """
        self._memory = mmap.mmap(-1, workers * 2 * HALF)

    def load(self, number: int) -> dict[str, Any]:
        """What worker `number` has written last; empty when it has written nothing."""
        return self._newest(number)[1]

    def save(self, number: int, counters: dict[str, Any]) -> None:
        """Keep `counters`, a value that JSON can express, as those of worker `number`.

        Raises:
            ValueError: they do not fit; the ones before are kept.
        """
        text = json.dumps(counters, separators=(",", ":")).encode()
        if HEADER.size + len(text) > HALF:
            raise ValueError(f"the counters take {len(text)} bytes, more than {HALF - HEADER.size}")
        turn = self._newest(number)[0] + 1
        at = self._offset(number, turn)
        self._memory[at:at + HEADER.size] = bytes(HEADER.size)  # this half is not valid until it is complete
        self._memory[at + HEADER.size:at + HEADER.size + len(text)] = text
        self._memory[at:at + HEADER.size] = HEADER.pack(turn, len(text), zlib.crc32(text, turn & 0xFFFFFFFF))

    def _offset(self, number: int, turn: int) -> int:
        return (2 * number + turn % 2) * HALF

    def _newest(self, number: int) -> tuple[int, dict[str, Any]]:
        """The last complete writing of a worker, and its number."""
        newest: tuple[int, dict[str, Any]] = (0, {})
        for half in range(2):
            at = self._offset(number, half)
            turn, size, checksum = HEADER.unpack_from(self._memory, at)
            text = self._memory[at + HEADER.size:at + HEADER.size + min(size, HALF)]
            if turn > newest[0] and zlib.crc32(text, turn & 0xFFFFFFFF) == checksum:
                newest = (turn, json.loads(text))
        return newest
