"""The reply to a query that is signed with a key (TSIG, RFC 8945): this resolver shares keys with nobody.

Section 5.2.1 wants NOTAUTH with the TSIG error BADKEY, unsigned (section 5.3.2), so that the client learns that its key
is the trouble; FORMERR is for a TSIG record that is not alone, not last or not well-formed (section 5.2).
"""

from resolver.wire import consts as c
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.edns import opt_record

__all__ = ["bad_key_reply"]

FIXED = 10                  # type, class, TTL and length of a record
TIMES = 8                   # time signed and fudge
LAST = 6                    # original id, error, length of other data
LABELS = 128                # a name has at most 127 labels and the root


def bad_key_reply(query: bytes, question_end: int, payload: int) -> bytes | None:
    """The reply to `query`, whose message has been found well-formed, or None when it holds no proper TSIG record.

    `question_end` is where its one question ends; `payload` is announced when it had an OPT record.
    """
    records = sum(int.from_bytes(query[at : at + 2], "big") for at in (6, 8, 10))
    additional = int.from_bytes(query[10:12], "big")
    at, opt = question_end, b""
    for left in range(records, 0, -1):
        start, at = at, _skip_name(query, at)
        rtype, size = int.from_bytes(query[at : at + 2], "big"), int.from_bytes(query[at + 8 : at + FIXED], "big")
        fixed, rdata = query[at : at + FIXED], query[at + FIXED : at + FIXED + size]
        at += FIXED + size
        if rtype == c.OPT and left <= additional:
            opt = opt_record(payload, do=fixed[6] & 0x80 != 0)
        if rtype != c.TSIG:
            continue
        if left > 1 or not additional or fixed[2:8] != b"\0\xff\0\0\0\0":
            return None
        key, content = _key_name(query, start), _unsigned(rdata)
        if key is None or content is None:
            return None
        signed = key + fixed[:8] + len(content).to_bytes(2, "big") + content
        return b"%b%c%c\0\1\0\0\0\0\0%c%b%b%b" % (
            query[:2], 0x80 | (query[2] & 0x79), 0x80 | (query[3] & 0x10) | c.NOTAUTH, 2 if opt else 1,
            query[HEADER_SIZE:question_end], opt, signed,
        )
    return None


def _skip_name(query: bytes, at: int) -> int:
    while query[at]:
        if query[at] >= 0xC0:
            return at + 2
        at += query[at] + 1
    return at + 1


def _key_name(query: bytes, at: int) -> bytes | None:
    """The owner at `at`, written out; None when it is not to be read within the limits of a name."""
    found = b""
    for _ in range(2 * LABELS):
        if query[at] >= 0xC0:
            at = int.from_bytes(query[at : at + 2], "big") & 0x3FFF
            continue
        size = query[at] + 1
        found += query[at : at + size]
        if size == 1:
            return found
        at += size
    return None


def _unsigned(rdata: bytes) -> bytes | None:
    """The content of the reply's record (RFC 8945 section 4.2): as in the query, without a MAC, BADKEY."""
    at = 0
    while at < len(rdata) and 0 < rdata[at] < 0x40:
        at += rdata[at] + 1
    if at >= len(rdata) or rdata[at]:
        return None
    times = at + 1
    mac = times + TIMES
    last = mac + 2 + int.from_bytes(rdata[mac : mac + 2], "big")
    if len(rdata) < last + LAST or len(rdata) != last + LAST + int.from_bytes(rdata[last + 4 : last + LAST], "big"):
        return None
    return rdata[:mac] + bytes(2) + rdata[last : last + 2] + c.BADKEY.to_bytes(2, "big") + bytes(2)
