"""Signs messages with a shared key and checks such signatures (RFC 8945), also those of transfers of many messages.

A MAC is accepted in its full length only; a truncated one that matches gets BADTRUNC (section 5.2.4). The clock is an
argument. Nothing of an unsigned or wrongly signed message is used: `Verifier.check` raises before its caller reads the
content.
"""

import hmac
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.errors import WireError
from resolver.wire.records import parse_records

__all__ = ["Key", "SignedMessage", "TsigError", "Verifier", "refuse", "sign", "split"]

DIGESTS = {f"hmac-{name}": name for name in ("sha1", "sha224", "sha256", "sha384", "sha512")}
MOST_UNSIGNED = limits.TSIG_UNSIGNED
FUDGE = limits.TSIG_FUDGE
SIGNED_ERRORS = (c.BADTIME, c.BADTRUNC)  # the MAC of the message is right (RFC 8945 section 5.3.2)
ERRORS = {0: "no error", c.BADKEY: "BADKEY", c.BADTIME: "BADTIME", 16: "BADSIG", c.BADTRUNC: "BADTRUNC"}
BADSIG = 16  # RFC 8945 section 5.2.2; as an rcode of EDNS the number is BADVERS
TIMES_SIZE = 8  # time signed (48 bits) and fudge
MAC_LEAST = 10  # octets of a truncated MAC, and at least half of the full one (RFC 8945 section 5.2.2.1)


class TsigError(ValueError):
    """A message without the signature that it must have. `code` is the TSIG error for the reply, or `FORMERR`, the
    rcode of a reply without TSIG."""

    def __init__(self, text: str, code: int = BADSIG) -> None:
        super().__init__(text)
        self.code = code


class Key(NamedTuple):
    """A shared key; `name` is in lower case, `algorithm` one of `DIGESTS`."""

    name: bytes
    algorithm: str
    secret: bytes

    @property
    def algorithm_name(self) -> bytes:
        """The algorithm as a domain name."""
        return names.from_text(self.algorithm)

    def mac(self, *parts: bytes) -> bytes:
        """The MAC of all parts together."""
        made = hmac.new(self.secret, digestmod=DIGESTS[self.algorithm])
        for part in parts:
            made.update(part)
        return made.digest()


class SignedMessage(NamedTuple):
    """A message without its TSIG record, with its original id, and the fields of that record."""

    message: bytes
    key: bytes
    algorithm: bytes
    times: bytes
    mac: bytes
    error: int
    other: bytes

    @property
    def signed_at(self) -> int:
        """The time of the signature, in seconds since 1970."""
        return int.from_bytes(self.times[:6], "big")

    @property
    def fudge(self) -> int:
        """The permitted difference of the clocks, in seconds."""
        return int.from_bytes(self.times[6:], "big")


def split(message: bytes) -> SignedMessage | None:
    """Take the TSIG record off a message; None when it has none.

    Raises:
        WireError: the message is malformed, or the record is not the last one, or malformed (RFC 8945 section 5.1).
    """
    _, records = parse_records(message)
    found = [place for place, record in enumerate(records) if record[3] == c.TSIG]
    if not found:
        return None
    section, offset, owner, _, rclass, ttl, rdata = records[-1]
    if found != [len(records) - 1] or section != c.ADDITIONAL or rclass != c.CLASS_ANY or ttl:
        raise WireError("the TSIG record is not the last one")
    at = 0
    while at < len(rdata) and 0 < rdata[at] < 64:
        at += 1 + rdata[at]
    start = at + 1
    size = int.from_bytes(rdata[start + TIMES_SIZE : start + TIMES_SIZE + 2], "big")
    mac = start + TIMES_SIZE + 2
    rest = rdata[mac + size :]
    if len(rest) < 6 or len(rest) != 6 + int.from_bytes(rest[4:6], "big"):
        raise WireError("the TSIG record is malformed")
    plain = rest[:2] + message[2:10] + (int.from_bytes(message[10:12], "big") - 1).to_bytes(2, "big")
    return SignedMessage(
        plain + message[HEADER_SIZE:offset], owner, names.lower(rdata[:start]), rdata[start : start + TIMES_SIZE],
        rdata[mac : mac + size], int.from_bytes(rest[2:4], "big"), rest[6:],
    )


def _prior(mac: bytes) -> bytes:
    return len(mac).to_bytes(2, "big") + mac if mac else b""


def _variables(key: Key, times: bytes, error: int, other: bytes) -> bytes:
    """RFC 8945 section 4.3.3."""
    return b"%b\0\xff\0\0\0\0%b%b%b%b%b" % (
        key.name, key.algorithm_name, times, error.to_bytes(2, "big"), len(other).to_bytes(2, "big"), other
    )


def sign(
    message: bytes, key: Key, now: int, *, prior: bytes = b"", timers_only: bool = False, error: int = 0,
    other: bytes = b"", times: bytes = b"", unsigned: bool = False, algorithm: bytes = b"",
) -> tuple[bytes, bytes]:
    """The message with a TSIG record, and its MAC. `prior` is the MAC of the query or of the previous message of a
    transfer, whose later messages have `timers_only`. `times` are those of the query in a reply that reports a TSIG
    error. Those for BADKEY and BADSIG are `unsigned` and have the `algorithm` of the query (RFC 8945 section 5.3.2)."""
    stamp = times or now.to_bytes(6, "big") + FUDGE.to_bytes(2, "big")
    tail = stamp if timers_only else _variables(key, stamp, error, other)
    mac = b"" if unsigned else key.mac(_prior(prior), message, tail)
    rdata = b"%b%b%b%b%b%b%b%b" % (
        algorithm or key.algorithm_name, stamp, len(mac).to_bytes(2, "big"), mac, message[:2], error.to_bytes(2, "big"),
        len(other).to_bytes(2, "big"), other,
    )
    record = b"%b\0\xfa\0\xff\0\0\0\0%b%b" % (key.name, len(rdata).to_bytes(2, "big"), rdata)
    count = (int.from_bytes(message[10:12], "big") + 1).to_bytes(2, "big")
    return message[:10] + count + message[HEADER_SIZE:] + record, mac


def refuse(reply: bytes, signed: SignedMessage, problem: TsigError, key: Key | None, now: int) -> bytes:
    """The reply to a message whose signature is not accepted: `reply`, which has the rcode NOTAUTH, with the TSIG error
    of `problem` (RFC 8945 section 5.2).

    `key` is the one that has made the signature; None: none here has. Replies with BADTIME and BADTRUNC are signed with
    it, so that the client can trust them; BADTIME has the time here (section 5.2.3). All others are unsigned.
    """
    if problem.code in SIGNED_ERRORS and key is not None:
        other = now.to_bytes(6, "big") if problem.code == c.BADTIME else b""
        return sign(reply, key, now, prior=signed.mac, error=problem.code, times=signed.times, other=other)[0]
    named = Key(signed.key, "hmac-sha256", b"")
    return sign(reply, named, now, error=problem.code, times=signed.times, unsigned=True,
                algorithm=signed.algorithm)[0]


class Verifier:
    """Checks the messages of one exchange in their order. `prior` is the MAC of the query, empty for a query itself.

    A transfer signs its first message and at least every hundredth, and the last (RFC 8945 section 5.3.1): the caller
    asks `complete` when it has all.
    """

    def __init__(self, key: Key, prior: bytes = b"") -> None:
        self._key = key
        self.mac = prior
        """The MAC of the last signed message."""
        self._first = True
        self._since = b""
        self._unsigned = 0

    def check(self, message: bytes, now: int) -> bytes:
        """The message without its TSIG record.

        Raises:
            TsigError: it is not signed as it must be.
            WireError: it is malformed.
        """
        found = split(message)
        if found is None:
            if self._first or self._unsigned >= MOST_UNSIGNED:
                raise TsigError("the message is not signed", c.BADKEY)
            self._unsigned += 1
            self._since += message
            return message
        key = self._key
        if found.key != key.name or found.algorithm != key.algorithm_name:
            raise TsigError(f"the message is signed with key {names.to_text(found.key)}", c.BADKEY)
        if found.error and not found.mac:
            raise TsigError(f"the peer reports {ERRORS.get(found.error, found.error)}")
        tail = _variables(key, found.times, found.error, found.other) if self._first else found.times
        expected = key.mac(_prior(self.mac), self._since, found.message, tail)
        if not max(MAC_LEAST, len(expected) // 2) <= len(found.mac) <= len(expected):
            raise TsigError(f"the MAC has {len(found.mac)} octets, and its algorithm makes {len(expected)}", c.FORMERR)
        if not hmac.compare_digest(expected[: len(found.mac)], found.mac):
            raise TsigError("the signature does not match the message")
        self.mac, self._since, self._unsigned, self._first = found.mac, b"", 0, False
        if found.error:
            raise TsigError(f"the peer reports {ERRORS.get(found.error, found.error)}")
        if abs(found.signed_at - now) > found.fudge:
            raise TsigError("the clocks differ by more than the signature permits", c.BADTIME)
        if len(found.mac) < len(expected):
            raise TsigError("the MAC is truncated", c.BADTRUNC)
        return found.message

    @property
    def complete(self) -> bool:
        """Whether the last message was signed."""
        return not self._first and not self._unsigned
