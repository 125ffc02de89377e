"""Composes the reply from an `Outcome`: which records are included, and the flags.

All decisions on what may be sent are here. Bogus data is sent only to clients that set CD. AD is set only for secure
data, and `fastpath.finish` clears it for clients that do not understand it (RFC 6840 sections 5.7 and 5.8). Signatures
and denial proofs are sent only to clients that set DO (RFC 4035 section 3.2.1). The packet is complete and has no OPT
record, as the answer cache stores it. `fastpath.finish` adds what depends on the client.
"""

from collections.abc import Sequence

from resolver import limits
from resolver.effects import Outcome
from resolver.net.fastpath import ClientQuery
from resolver.verdict import VERDICT_BOGUS, VERDICT_SECURE
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.consts import AA, AD, ADDITIONAL, ANSWER, ANY, CD, HEADER_SIZE, MESSAGE_MAX, QR, RA, SERVFAIL
from resolver.wire.edns import encode_ede, options_to_wire
from resolver.wire.rrset import RRset

__all__ = ["compose", "error_reply", "extended_errors"]

_KEPT_FLAGS = 0x7800 | c.RD | c.CD      # opcode, RD and CD are copied from the query (RFC 1035 4.1.1, RFC 4035 3.2.2)
_DNSSEC_TYPES = frozenset({c.RRSIG, c.NSEC, c.NSEC3})
_EDE_TEXT = limits.EDE_TEXT
_EDES = limits.REPLY_EDES


def compose(query: ClientQuery, outcome: Outcome, *, minimal: bool, minimal_any: bool) -> bytes:
    """Return the complete reply without OPT, as the answer cache stores it. AD means secure, for every client.

    `minimal` leaves out what the client does not need (`server.minimal-responses`), but not the SOA records of response
    policy zones, by which operators see what has changed an answer. `minimal_any` answers ANY with one
    set of the name (RFC 8482 section 4.1), whichever module made the outcome.
    """
    rcode = outcome.rcode
    bogus = outcome.verdict == VERDICT_BOGUS and not query.flags & CD
    if bogus:
        rcode = SERVFAIL
    flags = QR | RA | (query.flags & _KEPT_FLAGS) | (rcode & 0xF)
    if outcome.authoritative:
        flags |= AA
    if outcome.verdict == VERDICT_SECURE and not query.flags & CD and outcome.failure is None:
        flags |= AD
    builder: Builder = Builder(MESSAGE_MAX)
    builder.start(query.id, flags, query.qname, query.qtype, query.qclass)
    if bogus:
        return builder.finish()
    # A failure has an answer only when the target of a CNAME failed: the chain up to it (RFC 1034 section 3.6.2).
    do = query.do
    answer = outcome.answer
    if minimal_any and query.qtype == ANY and len(answer) > 1:
        answer, minimal = _with_one_set(answer), True
    rrset: RRset
    for rrset in answer:
        if not builder.add(ANSWER, rrset, sigs=do):
            builder.truncate()
            return builder.finish()
    minimal = minimal and not outcome.referral
    if outcome.authority:
        _add_authority(builder, query, outcome, minimal)
    if outcome.additional:
        for rrset in outcome.additional:
            if minimal and rrset.rtype != c.SOA:
                continue
            if not builder.add(ADDITIONAL, rrset, sigs=do):
                break
    return builder.finish()


def _with_one_set(answer: list[RRset]) -> list[RRset]:
    """The alias chain of an answer to ANY, and the smallest set of its last name. That is a set of the zone with its
    signatures, so a client that validates can use it."""
    last = answer[-1].name
    chain = [rrset for rrset in answer if not names.equal(rrset.name, last)]
    return [*chain, min(answer[len(chain):], key=_size_and_type)]


def _size_and_type(rrset: RRset) -> tuple[int, int]:
    return sum(map(len, rrset.rdatas())) + rrset.sig_len, rrset.rtype


def _add_authority(builder: Builder, query: ClientQuery, outcome: Outcome, minimal: bool) -> None:
    do = query.do
    positive = bool(outcome.answer) and outcome.answer[-1].rtype != c.CNAME
    for rrset in outcome.authority:
        rtype = rrset.rtype
        if rtype in _DNSSEC_TYPES:
            shown = do
        elif rtype == c.SOA:
            shown = not positive or not minimal
        else:
            shown = not minimal
        if shown and not builder.add(c.AUTHORITY, rrset, sigs=do):
            builder.truncate()
            return


def extended_errors(edes: Sequence[tuple[int, str]]) -> bytes:
    """EDNS options for the extended errors `edes` (RFC 8914): each code once, with limits on number and text length."""
    if not edes:
        return b""
    found: dict[int, str] = {}
    for code, sentence in edes:
        if code not in found and len(found) < _EDES:
            found[code] = sentence
    return options_to_wire([(c.OPTION_EDE, encode_ede(code, _shorten(words))) for code, words in found.items()])


def _shorten(words: str) -> str:
    return words.encode("utf-8", "replace")[:_EDE_TEXT].decode("utf-8", "ignore")


def error_reply(wire: bytes, rcode: int, question_end: int = HEADER_SIZE, *, recursion_available: bool = True,
                truncated: bool = False) -> bytes:
    """A reply with the header and the question (up to `question_end`) of the query `wire`, without EDNS.

    `recursion_available` False clears RA. `truncated` sets TC.
    """
    return b"%b%c%c\0%c\0\0\0\0\0\0%b" % (
        wire[:2],
        0x80 | (wire[2] & 0x79) | (0x02 if truncated else 0),
        (0x80 if recursion_available else 0) | (wire[3] & 0x10) | rcode,
        1 if question_end > HEADER_SIZE else 0,
        wire[HEADER_SIZE:question_end],
    )
