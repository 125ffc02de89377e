"""The keys of TLS session tickets: equal in all workers, changed by the clock, and never sent anywhere.

The process that starts the workers draws one secret. Each process derives the key of the current period and the secret
of the next period from it, and then erases the secret. So all workers have the same keys at the same time without a
message between them: none can be lost, and a worker that is restarted has what the others have. A secret cannot be
derived from a later one. So an attacker who reads the memory of a process learns no key of earlier periods, except the
former one. Later keys can be derived until a restart (docs/adr/0021-session-ticket-keys-are-derived.md).

Periods are counted by the monotonic clock, which all processes of a machine share and which is never set back. Time is
an argument. Keys: that of the current period makes tickets; the former one is accepted for one more period (RFC 5077
section 5.5); the next one is accepted too, because another worker may be a moment ahead.
"""

import hmac

from resolver import limits

__all__ = ["TicketKeys"]

_NAME = 16  # octets of a key that every ticket begins with; the other 64 are secret (`corenet.tls.set_ticket_keys`)


class TicketKeys:
    """The keys of one daemon; `began` is the time in seconds at which the first period begins."""

    def __init__(self, secret: bytes, began: float) -> None:
        self._secret = secret
        self._began = began
        self._period = 0
        self._former: list[bytes] = []

    def advance(self, now: float) -> float:
        """Advance to the period of `now`, in seconds. Returns the seconds until the next one."""
        while now >= (end := self._began + (self._period + 1) * limits.TICKET_KEY_PERIOD):
            self._former = [_key(self._secret)]
            self._secret = _next(self._secret)
            self._period += 1
        return end - now

    def current(self) -> list[bytes]:
        """The key that makes tickets, and after it the others that are accepted."""
        return [_key(self._secret), *self._former, _key(_next(self._secret))]


def _key(secret: bytes) -> bytes:
    """The key of the period that has `secret`: name, HMAC key and AES key."""
    return hmac.digest(secret, b"name", "sha512")[:_NAME] + hmac.digest(secret, b"key", "sha512")


def _next(secret: bytes) -> bytes:
    """The secret of the next period."""
    return hmac.digest(secret, b"next", "sha512")
