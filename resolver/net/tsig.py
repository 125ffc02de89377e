"""The reply to a query with a TSIG record (RFC 8945). This resolver has no TSIG keys.

Section 5.2.1 requires NOTAUTH with the TSIG error BADKEY, unsigned (section 5.3.2), which shows the client that its key
is not accepted. FORMERR is for a TSIG record that is not the only one, not the last, or not well-formed (section 5.2).
"""

from resolver.wire import consts as c
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.edns import opt_record

__all__ = ["bad_key_reply"]

FIXED = 10                  # type, class, TTL and length of a record
TIMES = 8                   # time signed and fudge
LAST = 6                    # original id, error, length of other data
LABELS = 128                # a name has at most 127 labels and the root label


def bad_key_reply(query: bytes, question_end: int, payload: int) -> bytes | None:
    """The reply to the well-formed message `query`, or None when it has no valid TSIG record.

    `question_end` is the offset after its only question. The reply announces `payload` when the query had OPT.
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
    """The uncompressed owner name at `at`; None when it has too many labels and pointers."""
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
    """The rdata of the reply's TSIG record (RFC 8945 section 4.2): that of the query without MAC, with BADKEY. None
    when `rdata` is malformed."""
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
