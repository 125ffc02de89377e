"""Client queries with a TSIG record (RFC 8945): checked with the configured keys, and answered with signed replies.

`SignedQueries.check` takes the record off, so everything behind it sees an ordinary query, with `Query.tsig_key` set.
`SigningSink` signs its reply, whatever it says, after all limits of replies. A message whose signature is not accepted
gets the error of section 5.2 and nothing else of it is used. Nothing is remembered: a query can be repeated by others
for as long as its fudge permits, and is then answered to the address in the repetition.

Anybody may send such a message. Only those with at most `SIGNED_QUERY_RECORDS` records are parsed. Checking one costs
one HMAC, and each reply that is signed another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from resolver import limits
from resolver.net.reply import error_reply
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.edns import opt_record
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView
from resolver.zones.tsig import SIGNED_ERRORS, Key, SignedMessage, TsigError, Verifier, refuse, sign, split

if TYPE_CHECKING:
    from resolver.net.pending_queries import Peer, PendingQuery, Sink

__all__ = ["SignedQueries", "SignedQuery", "SigningSink", "keys_of"]

RECORD_COUNTS = (6, 8, 10)  # where the header has the numbers of records (RFC 1035 section 4.1.1)
QUESTION_FIXED = 4  # type and class


def keys_of(settings: Settings) -> dict[bytes, Key]:
    """The TSIG keys by name (lower case)."""
    made = [Key(names.lower(names.from_text(key.name)), key.algorithm, key.secret_octets) for key in settings.tsig_key]
    return {key.name: key for key in made}


class SignedQuery(NamedTuple):
    """A message that had a TSIG record. `key` is the one that verified its MAC; None: none did (BADKEY, BADSIG).
    `refusal` is the reply when the signature is not accepted, else None. `message` is the message without the record,
    `question_end` the offset after its question."""

    message: bytes
    question_end: int
    key: Key | None
    mac: bytes
    refusal: bytes | None

    def bounded_refusal(self, size: int, limit: int, *, stream: bool) -> bytes:
        """`refusal` to a message of `size` octets, in at most `limit` octets. What is larger has TC and no records (RFC
        8945 section 5.3).

        Anybody can send such a message from a forged address, so over UDP the reply is not larger than the message,
        unless the error is signed: then the sender had a signature that is right.
        """
        assert self.refusal is not None
        if not stream and self.key is None:
            limit = min(limit, size)
        if len(self.refusal) <= limit:
            return self.refusal
        return error_reply(self.message, c.NOTAUTH, self.question_end, truncated=True)


class SignedQueries:
    """Checks the signatures of client queries.

    `now` is the second of the real-time clock, `payload` the EDNS payload size of error replies.
    """

    def __init__(self, keys: Mapping[bytes, Key], now: Callable[[], int], payload: int) -> None:
        self._keys = keys
        self._now = now
        self._payload = payload

    def check(self, data: bytes) -> SignedQuery | None:
        """Check the message `data`. None when it has no TSIG record, or is malformed, or is no query with one question:
        such messages get the replies that they get without a signature (RFC 8945 section 5.1: FORMERR)."""
        records = sum(int.from_bytes(data[at : at + 2], "big") for at in RECORD_COUNTS)
        if not 0 < records <= limits.SIGNED_QUERY_RECORDS or data[2] & 0x80 or data[4:6] != b"\0\1":
            return None
        try:
            signed = split(data)
            if signed is None:
                return None
            # The id of the header may differ from the original one, which the signature covers (section 4.3.2).
            view = MessageView.parse(data[:2] + signed.message[2:])
        except WireError:
            return None
        key = self._keys.get(signed.key)
        if key is None:
            return self._refused(view, signed, None, TsigError("no such key", c.BADKEY))
        try:
            Verifier(key).check(data, self._now())
        except TsigError as error:
            if error.code == c.FORMERR:
                return None
            return self._refused(view, signed, key if error.code in SIGNED_ERRORS else None, error)
        return SignedQuery(view.wire, _question_end(view), key, signed.mac, None)

    def sink(self, query: SignedQuery, inner: Sink, limit: int) -> SigningSink:
        """Where the reply to `query` goes, which is `inner` in the end. `limit` is the largest reply in bytes."""
        return SigningSink(inner, query, self._now, limit)

    def _refused(self, view: MessageView, signed: SignedMessage, key: Key | None, problem: TsigError) -> SignedQuery:
        end = _question_end(view)
        reply = error_reply(view.wire, c.NOTAUTH, end)
        if view.edns is not None:
            reply = reply[:10] + b"\0\1" + reply[HEADER_SIZE:] + opt_record(self._payload, do=view.edns.do)
        refusal = refuse(reply, signed, problem, key, self._now())
        return SignedQuery(view.wire, end, key, signed.mac, refusal)


def _question_end(view: MessageView) -> int:
    assert view.qname is not None  # `check` has seen that there is one question
    return HEADER_SIZE + len(view.qname) + QUESTION_FIXED


class SigningSink:
    """A `Sink` that signs the reply to `query` with its key and passes everything on.

    A reply that is larger than `limit` with its signature is sent with TC and the question alone (RFC 8945 section
    5.3). The message of the query is not kept, because a pending query may wait for long.
    """

    __slots__ = ("_inner", "_key", "_limit", "_mac", "_now", "_question_end")

    def __init__(self, inner: Sink, query: SignedQuery, now: Callable[[], int], limit: int) -> None:
        assert query.key is not None
        self._inner = inner
        self._key = query.key
        self._mac = query.mac
        self._question_end = query.question_end
        self._now = now
        self._limit = limit

    @property
    def stream(self) -> bool:
        """That of the inner sink, as the next three."""
        return self._inner.stream

    @property
    def idle_timeout(self) -> float:
        return self._inner.idle_timeout

    @property
    def padding_block(self) -> int:
        return self._inner.padding_block

    @property
    def origin(self) -> tuple[str, str]:
        return self._inner.origin

    def send(self, packet: bytes, peer: Peer) -> None:
        """Sign `packet` and send it."""
        signed = self._signed(packet)
        if len(signed) > self._limit:
            signed = self._signed(error_reply(packet, c.NOERROR, self._question_end, truncated=True))
        self._inner.send(signed, peer)

    def _signed(self, packet: bytes) -> bytes:
        return sign(packet, self._key, self._now(), prior=self._mac)[0]

    def skip(self) -> None:
        self._inner.skip()

    def forget(self, pending: PendingQuery) -> None:
        self._inner.forget(pending)

    def abort(self) -> None:
        self._inner.abort()
