"""Messages among resolvers that share a second-level cache: flushes, and what else is told to all. Sans-IO.

A message is a JSON object behind a version and a MAC. It names its sender (a random number of the process), its number
there and the time. A message is accepted once: its number must be above the last one of its sender, and its time
recent. So a message that is written again has no effect on a process that has seen it, and none at all after
`FLEET_MESSAGE_LIFE`. Kinds in `SIGNED_KINDS` need a secret, because they change what is validated.
"""

import json
from typing import Any, NamedTuple

from resolver import limits
from resolver.cache.second_level import MAC_SIZE, EntryError, Signer

__all__ = ["SIGNED_KINDS", "FleetCodec", "Message"]

VERSION = 1
LARGEST = limits.FLEET_MESSAGE
LIFE = limits.FLEET_MESSAGE_LIFE
MOST_MEMBERS = limits.FLEET_MEMBERS
SKEW = limits.SECOND_LEVEL_CLOCK_SKEW
SIGNED_KINDS = frozenset({"nta-add", "nta-remove"})
"""Kinds that are sent and accepted only with a secret: negative trust anchors."""


class Message(NamedTuple):
    """One message: its `kind`, when it was sent (seconds since 1970), and what it says. `own`: this process sent it."""

    kind: str
    when: int
    fields: dict[str, Any]
    own: bool


class FleetCodec:
    """Writes and reads the messages of one process; `sender` is random text. It remembers the last number of each."""

    def __init__(self, signer: Signer, prefix: str, sender: str) -> None:
        self._signer = signer
        self._prefix = prefix.encode("ascii")
        self._sender = sender
        self._number = 0
        self._last: dict[str, int] = {}

    def continue_from(self, other: "FleetCodec") -> None:
        """Accept what `other`, of the same fleet, would accept next."""
        self._last = dict(other._last)

    def check(self, kind: str) -> None:
        """Check that messages of this kind may be sent.

        Raises:
            ValueError: it needs a secret.
        """
        if kind in SIGNED_KINDS and not self._signer.has_secret:
            raise ValueError(f"{kind} is told to other resolvers only with second-level-cache.secret-file")

    def encode(self, kind: str, fields: dict[str, Any], now: int) -> bytes:
        """The next message of this process.

        Raises:
            ValueError: it is too long, or needs a secret.
        """
        self.check(kind)
        self._number += 1
        content = {"kind": kind, "from": self._sender, "number": self._number, "time": now, "fields": fields}
        body = json.dumps(content).encode()
        version = bytes((VERSION,))
        data = version + self._signer.mac(b"fleet", version, self._prefix, body) + body
        if len(data) > LARGEST:
            raise ValueError(f"the message is longer than {LARGEST} bytes")
        return data

    def decode(self, data: bytes, now: int) -> Message:
        """The message in `data`, which is accepted once.

        Raises:
            EntryError: it is damaged, forged, old, or was accepted before.
        """
        if data[:1] != bytes((VERSION,)):
            raise EntryError("version")
        body = data[1 + MAC_SIZE :]
        if len(data) > LARGEST or not self._signer.is_valid(
            data[1 : 1 + MAC_SIZE], b"fleet", data[:1], self._prefix, body
        ):
            raise EntryError("checksum")
        try:
            content = json.loads(body)
            kind, sender, number = content["kind"], content["from"], content["number"]
            when, fields = content["time"], content["fields"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EntryError("malformed") from None
        if not (isinstance(kind, str) and isinstance(sender, str) and type(number) is int and type(when) is int
                and isinstance(fields, dict)):
            raise EntryError("malformed")
        if kind in SIGNED_KINDS and not self._signer.has_secret:
            raise EntryError("unsigned")
        if when > now + SKEW:
            raise EntryError("future")
        if when < now - LIFE:
            raise EntryError("expired")
        if number <= self._last.get(sender, 0):
            raise EntryError("repeated")
        self._last.pop(sender, None)
        self._last[sender] = number
        if len(self._last) > MOST_MEMBERS:
            del self._last[next(iter(self._last))]
        return Message(kind, when, fields, sender == self._sender)
