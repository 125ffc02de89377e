"""Which records of a reply are used: those on the alias chain from the qname, inside the zone that was queried.

All others are ignored. Otherwise a server, or an attacker who guesses one id, could put records of other zones into the
cache (Kashpureff 1997, Kaminsky 2008, MaginotDNS 2023, CVE-2025-40778). Used are: in the answer section, the records of
the alias chain from the qname, up to the first name outside the zone; in the authority section, one SOA, DS, NSEC and
NSEC3 records and at most one referral, all inside the zone; in the additional section, addresses of the name servers of
that referral; and in all sections, RRSIG records of sets of the answer. The exchange has matched id, address, port and
letter case; the question is compared here again, because a stream can deliver the reply to another query.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from resolver import limits
from resolver.wire.consts import (
    AAAA,
    ANY,
    BADVERS,
    CNAME,
    DNAME,
    DS,
    FORMERR,
    IN,
    NOTIMP,
    NS,
    NSEC,
    NSEC3,
    REFUSED,
    RRSIG,
    SERVFAIL,
    SOA,
    A,
)
from resolver.wire.message import MessageView
from resolver.wire.name import equal, is_subdomain, lower, replace_suffix
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resolver.cache.scoped import Scope
    from resolver.effects import Server

__all__ = [
    "RESPONSE_ANSWER", "RESPONSE_CNAME", "RESPONSE_EMPTY", "RESPONSE_LAME", "RESPONSE_NODATA", "RESPONSE_NXDOMAIN",
    "RESPONSE_REFERRAL", "RESPONSE_THROWAWAY", "RESPONSE_YXDOMAIN", "ResponseType", "Scrubbed", "cut_chain", "glue_of",
    "question_matches", "scrub", "with_misplaced_rrsigs",
]

ALIAS_STEPS = limits.MAX_ALIASES
NAME_SERVERS = limits.MAX_NAME_SERVERS
SIGNATURES = limits.RRSET_RECORDS
SIGNATURE_OCTETS = limits.RRSET_BYTES
# With these response codes a reply may have no question section: the server did not parse the query.
UNREAD = frozenset({FORMERR, NOTIMP, REFUSED, SERVFAIL, BADVERS})


class ResponseType(IntEnum):
    """The kind of a reply."""

    ANSWER = 1
    CNAME = 2
    """The chain leads to a name that must be resolved by itself."""
    NODATA = 3
    NXDOMAIN = 4
    REFERRAL = 5
    LAME = 6
    """The server does not serve the zone."""
    THROWAWAY = 7
    """An error response code, or a reply that contradicts itself."""
    EMPTY = 8
    """NOERROR without usable records: used as NODATA when no server has a better reply."""
    YXDOMAIN = 9
    """The name made by a DNAME is longer than 255 octets (RFC 6672 section 2.2)."""


# The members by names of the module; `verdict` says why.
RESPONSE_ANSWER = ResponseType.ANSWER
RESPONSE_CNAME = ResponseType.CNAME
RESPONSE_NODATA = ResponseType.NODATA
RESPONSE_NXDOMAIN = ResponseType.NXDOMAIN
RESPONSE_REFERRAL = ResponseType.REFERRAL
RESPONSE_LAME = ResponseType.LAME
RESPONSE_THROWAWAY = ResponseType.THROWAWAY
RESPONSE_EMPTY = ResponseType.EMPTY
RESPONSE_YXDOMAIN = ResponseType.YXDOMAIN


class Scrubbed:
    """The usable records of one reply. The caller sets `kind`, `server` (the one that sent it) and `scope` (the clients
    that it is for, as `RawReply` has it)."""

    __slots__ = (
        "alias",
        "answer",
        "complete",
        "dname_overflow",
        "ds",
        "kind",
        "name",
        "ns",
        "out_of_bailiwick",
        "proofs",
        "scope",
        "server",
        "soa",
        "upward_referral",
        "upward_soa",
        "view",
    )

    kind: ResponseType
    server: Server

    def __init__(self, view: MessageView, qname: bytes) -> None:
        self.view = view
        self.answer: list[RRset] = []
        self.name = qname
        """The last name of the chain."""
        self.complete = False
        """The chain ended in data of the qtype."""
        self.alias = False
        """At least one alias was followed."""
        self.out_of_bailiwick = False
        """The chain has left the zone: its last name must be resolved by itself."""
        self.dname_overflow = False
        """The name made by a DNAME is longer than 255 octets (RFC 6672 section 2.2)."""
        self.soa: RRset | None = None
        self.upward_soa = False
        """There was a SOA of a zone above: the server does not serve the zone."""
        self.ns: RRset | None = None
        """The NS set of a zone below that encloses the name, or of the zone itself."""
        self.upward_referral = False
        """There was an NS set of a zone above, or of one that does not enclose the name: the sign of a lame server."""
        self.ds: list[RRset] = []
        self.proofs: list[RRset] = []
        self.scope: Scope | None = None


def question_matches(view: MessageView, qname: bytes, qtype: int) -> bool:
    """Whether the reply has the question of the query, or an error code without a question section."""
    if view.question_count == 1:
        return view.qtype == qtype and view.qname is not None and equal(view.qname, qname)
    return view.question_count == 0 and view.rcode in UNREAD


def scrub(view: MessageView, qname: bytes, qtype: int, zone: bytes) -> Scrubbed:
    """The usable records of `view`, the reply of a server of `zone` to (`qname`, `qtype`)."""
    found = Scrubbed(view, qname)
    answer = view.answer
    if answer:
        _follow(found, answer, qname, qtype, zone)
    authority = view.authority
    if authority:
        _authority(found, authority, zone)
        if qtype == DS and not answer:
            _take_ds(found, qname, zone)
    return found


def with_misplaced_rrsigs(answer: list[RRset], others: Iterable[RRset]) -> list[RRset]:
    """`answer` with the signatures of its sets that are among `others`, the sets of the other sections.

    A signature is verified, so its section does not matter. The cost is one pass over the reply, so this is called only
    for replies that are validated.
    """
    wanted = {rrset.key for rrset in answer}
    stray: dict[tuple[bytes, int], list[bytes]] = {}
    for other in others:
        if other.rtype == RRSIG and other.rclass == IN:
            owner = other.key[0]
            for rdata in other.rdatas():
                key = (owner, int.from_bytes(rdata[:2], "big"))
                if key in wanted:
                    stray.setdefault(key, []).append(rdata)
    if not stray:
        return answer
    return [_with_more(rrset, stray[rrset.key]) if rrset.key in stray else rrset for rrset in answer]


def _with_more(rrset: RRset, stray: list[bytes]) -> RRset:
    """`rrset` with as many of the signatures `stray` as `SIGNATURES` and `SIGNATURE_OCTETS` permit."""
    sigs = rrset.sigs()
    octets = len(rrset.packed_sigs)
    known = set(sigs)
    for rdata in stray:
        octets += 2 + len(rdata)
        if len(sigs) == SIGNATURES or octets > SIGNATURE_OCTETS:
            break
        if rdata not in known:
            known.add(rdata)
            sigs.append(rdata)
    return rrset.with_sigs(sigs)


def cut_chain(found: Scrubbed, leaves_zone: Callable[[bytes], bool]) -> None:
    """End the alias chain of `found` at the first target of which `leaves_zone` is true."""
    for position, rrset in enumerate(found.answer):
        if rrset.rtype == CNAME and leaves_zone(rrset.targets()[0]):
            found.answer = found.answer[: position + 1]
            found.name, found.out_of_bailiwick = rrset.targets()[0], True
            found.complete = found.dname_overflow = False
            return


def glue_of(view: MessageView, ns: RRset, zone: bytes, *, harden: bool) -> dict[bytes, list[RRset]]:
    """Addresses in the reply of the name servers of the referral `ns`, by lower-case name.

    With `harden`, only for names inside `zone`, the zone that was queried (in-bailiwick glue).
    """
    wanted = {lower(target) for target in ns.targets()[:NAME_SERVERS]}
    found: dict[bytes, list[RRset]] = {}
    for rrset in view.additional:
        if rrset.rtype in (A, AAAA) and rrset.rclass == IN:
            owner = lower(rrset.name)
            if owner in wanted and (not harden or is_subdomain(owner, zone)):
                found.setdefault(owner, []).append(rrset)
    return found


# --- answer section -----------------------------------------------------------------------------------------------


def _follow(found: Scrubbed, answer: list[RRset], qname: bytes, qtype: int, zone: bytes) -> None:
    """Follow the alias chain through `answer` up to the first name outside `zone`."""
    first = answer[0]
    if first.rtype == qtype and len(answer) == 1 and first.rclass == IN and equal(first.name, qname):
        found.answer.append(first if first.name == qname else first.with_name(qname))
        found.complete = True
        return
    sets: dict[tuple[bytes, int], RRset] = {}
    dnames: list[RRset] = []
    for one in answer:
        if one.rclass == IN:
            sets[one.key] = one
            if one.rtype == DNAME:
                dnames.append(one)
    name = qname
    rrset: RRset | None
    for _ in range(ALIAS_STEPS + 1):
        lowered = lower(name)
        # A DNAME precedes all other records for a name below it, because no others can exist there.
        target = _through_dname(found, dnames, name, lowered, zone) if dnames else None
        if target is not None and qtype in (CNAME, ANY):
            found.complete = True
            break
        if target is None:
            if found.dname_overflow:
                break
            if qtype in (ANY, RRSIG):
                found.complete = _everything(found, answer, name, qtype)
            else:
                rrset = sets.pop((lowered, qtype), None)
                if rrset is not None:
                    found.answer.append(rrset if rrset.name == name else rrset.with_name(name))
                    found.complete = True
            if found.complete or qtype == CNAME:
                break
            rrset = sets.pop((lowered, CNAME), None)
            if rrset is None:
                break
            found.answer.append(rrset if rrset.name == name else rrset.with_name(name))
            target = rrset.targets()[0]
        name = target
        found.alias = True
        if not is_subdomain(name, zone):
            found.out_of_bailiwick = True
            break
    found.name = name


def _through_dname(found: Scrubbed, dnames: list[RRset], name: bytes, lowered: bytes, zone: bytes) -> bytes | None:
    """The target of `name` by a DNAME of an ancestor, which is added with the CNAME; None when none applies."""
    for rrset in dnames:
        owner = lower(rrset.name)
        if owner != lowered and is_subdomain(lowered, owner) and is_subdomain(owner, zone):
            if rrset not in found.answer:
                found.answer.append(rrset)
            target = replace_suffix(name, owner, rrset.targets()[0])
            if target is None:
                found.dname_overflow = True
                return None
            # RFC 6672 section 3.1: the synthesised CNAME has the TTL of the DNAME.
            found.answer.append(RRset(name, CNAME, rrset.ttl, [target]))
            return target
    return None


def _everything(found: Scrubbed, answer: list[RRset], name: bytes, qtype: int) -> bool:
    """Add the records at `name` that answer a query for ANY or RRSIG (RFC 8482, RFC 4035 section 3.1.1).

    Returns False when there is none.
    """
    before = len(found.answer)
    for rrset in answer:
        if rrset.rclass == IN and equal(rrset.name, name):
            if qtype == ANY or rrset.rtype == RRSIG:
                found.answer.append(rrset)
            elif rrset.sigs():
                found.answer.append(RRset(name, RRSIG, rrset.ttl, rrset.sigs()))
    return len(found.answer) > before


def _take_ds(found: Scrubbed, qname: bytes, zone: bytes) -> None:
    """Use a signed DS set in a referral as the answer to a DS query.

    Some servers of a parent answer a DS query with a referral. They are authoritative for the set (RFC 4035 section
    3.1.4.1), and its signature is verified; an unsigned one would have no more trust than the referral.
    """
    for rrset in found.ds:
        if rrset.sig_len and equal(rrset.name, qname) and not equal(qname, zone):
            found.answer.append(rrset)
            found.complete = True
            return


# --- authority section --------------------------------------------------------------------------------------------


def _authority(found: Scrubbed, authority: list[RRset], zone: bytes) -> None:
    name = found.name
    for rrset in authority:
        if rrset.rclass != IN:
            continue
        rtype = rrset.rtype
        owner = rrset.name
        if rtype == NS:
            if not is_subdomain(name, owner) or not is_subdomain(owner, zone):
                found.upward_referral = True
            elif found.ns is None:
                found.ns = rrset
        elif not is_subdomain(owner, zone):
            if rtype == SOA and is_subdomain(zone, owner):
                found.upward_soa = True
        elif rtype == SOA:
            if found.soa is None and is_subdomain(name, owner):
                found.soa = rrset
        elif rtype in (NSEC, NSEC3):
            found.proofs.append(rrset)
        elif rtype == DS:
            found.ds.append(rrset)
