"""What is known about DNS over TLS at authoritative servers: the state of unilateral probing (RFC 9539 section 4).

Sans-IO: addresses and times come in, decisions go out. Times are seconds of a clock that is never set back. One record
per address (RFC 9539 section 4.5), with its status, the times of the last probe's begin (`initiated`) and end
(`completed`), and that of the last reply over TLS. States and events; an empty cell is no change::

    status   | wants a probe               | succeeded | failed | timed out | not tried | no reply for PERSISTENCE
    ---------+-----------------------------+-----------+--------+-----------+-----------+-------------------------
    UNKNOWN  | at once                     | SUCCESS   | FAIL   | TIMEOUT   |           |
    SUCCESS  | INTERVAL after `initiated`  | SUCCESS   | FAIL   | TIMEOUT   |           | UNKNOWN
    FAIL     | DAMPING after `completed`   | SUCCESS   | FAIL   | TIMEOUT   |           |
    TIMEOUT  | DAMPING after `completed`   | SUCCESS   | FAIL   | TIMEOUT   |           |

While a probe is in progress no other one of this address is due. "Not tried" means that this host could not probe,
which says nothing about the server. A server with SUCCESS is probed again only because its connection has ended.

A reload of the configuration keeps the table: the upstream before and the one after it share it until the former has no
queries left, so an address is still probed once at a time.

The table is bounded, because any zone can name addresses of servers: the least recently used record is dropped, and the
event of a probe whose record was dropped is ignored.
"""

from collections import OrderedDict
from enum import IntEnum

from resolver import limits

__all__ = ["Outcome", "ProbeTable", "Status"]

PERSISTENCE = limits.OPPORTUNISTIC_PERSISTENCE
DAMPING = limits.OPPORTUNISTIC_DAMPING
INTERVAL = limits.OPPORTUNISTIC_INTERVAL


class Status(IntEnum):
    """What the last probe of a server has shown."""

    UNKNOWN = 0
    SUCCESS = 1
    FAIL = 2
    TIMEOUT = 3


class Outcome(IntEnum):
    """How a probe has ended."""

    SUCCEEDED = 1
    FAILED = 2
    TIMED_OUT = 3
    NOT_TRIED = 4


_STATUS = {Outcome.SUCCEEDED: Status.SUCCESS, Outcome.FAILED: Status.FAIL, Outcome.TIMED_OUT: Status.TIMEOUT}


class _Record:
    """One address."""

    __slots__ = ("completed", "initiated", "probing", "replied", "status")

    def __init__(self) -> None:
        self.status = Status.UNKNOWN
        self.probing = False
        self.initiated = 0.0
        self.completed = 0.0
        self.replied = 0.0


class ProbeTable:
    """The records of all servers, least recently used first; at most `size`."""

    def __init__(self, size: int = limits.OPPORTUNISTIC_SERVERS) -> None:
        self._size = size
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def status(self, address: str, now: float) -> Status:
        """What is known about a server."""
        record = self._records.get(address)
        if record is None or (record.status is Status.SUCCESS and now - record.replied > PERSISTENCE):
            return Status.UNKNOWN
        return record.status

    def wants_probe(self, address: str, now: float) -> bool:
        """Whether a server that is not connected is to be probed now."""
        record = self._records.get(address)
        if record is None:
            return True
        self._records.move_to_end(address)
        if record.probing:
            return False
        status = self.status(address, now)
        if status is Status.SUCCESS:
            return now - record.initiated >= INTERVAL
        return status is Status.UNKNOWN or now - record.completed >= DAMPING

    def begin(self, address: str, now: float) -> None:
        """A probe begins."""
        record = self._records.get(address)
        if record is None:
            while len(self._records) >= self._size:
                self._records.popitem(last=False)
            record = self._records[address] = _Record()
        record.probing = True
        record.initiated = now

    def end(self, address: str, outcome: Outcome, now: float) -> None:
        """The probe of a server has ended."""
        record = self._records.get(address)
        if record is None or not record.probing:
            return
        record.probing = False
        if outcome is Outcome.NOT_TRIED:
            return
        record.status = _STATUS[outcome]
        record.completed = now
        if outcome is Outcome.SUCCEEDED:
            record.replied = now

    def note_reply(self, address: str, now: float) -> None:
        """A server has answered a query over TLS."""
        record = self._records.get(address)
        if record is not None:
            record.replied = now

    def note_unusable(self, address: str, now: float) -> None:
        """What answers over TLS is not the server that answers in plain text."""
        record = self._records.get(address)
        if record is not None:
            record.status = Status.FAIL
            record.completed = now

    def count(self, now: float) -> int:
        """How many servers are known to have TLS. It reads the whole table."""
        return sum(self.status(address, now) is Status.SUCCESS for address in self._records)
