"""What of a reply may be believed: the records on the chain from the question, inside the zone whose server spoke.

Everything else in the packet is as if it had not been sent, because a server, or a forger who guesses one id, could
otherwise put names of others into the cache (Kashpureff 1997, Kaminsky 2008, MaginotDNS 2023, CVE-2025-40778).
The rules: answer records only along the alias chain that starts at the question, never past the zone's border;
in authority one SOA, the proofs and at most one referral, all inside the zone; in additional nothing but addresses of
that referral's name servers. The exchange has matched id, address, port and letter case before; the question is
compared here once more, because a stream can deliver the reply to another question of ours.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resolver.effects import Server

__all__ = ["ResponseType", "Scrubbed", "cut_chain", "glue_of", "question_matches", "scrub", "with_misplaced_rrsigs"]

ALIAS_STEPS = limits.MAX_ALIASES
NAME_SERVERS = limits.MAX_NAME_SERVERS
SIGNATURES = limits.RRSET_RECORDS
SIGNATURE_OCTETS = limits.RRSET_BYTES
# Replies without a question section are permitted for these: the server could not or would not read the question.
UNREAD = frozenset({c.FORMERR, c.NOTIMP, c.REFUSED, c.SERVFAIL, c.BADVERS})


class ResponseType(IntEnum):
    """The meaning of a reply."""

    ANSWER = 1
    CNAME = 2
    """The chain leads to a name that must be asked on its own."""
    NODATA = 3
    NXDOMAIN = 4
    REFERRAL = 5
    LAME = 6
    """The server does not serve the zone."""
    THROWAWAY = 7
    """A response code that answers nothing, or a reply that contradicts itself."""
    EMPTY = 8
    """NOERROR with nothing in it: another server may know more; if none does, it counts as NODATA."""
    YXDOMAIN = 9
    """A DNAME rewrote the name to more than 255 octets: YXDOMAIN (RFC 6672 section 2.2)."""


class Scrubbed:
    """The believable part of one reply. `kind`, what it means, and `server`, who sent it, the asker fills in."""

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
        """Where the chain ended."""
        self.complete = False
        """The chain ended in data of the type asked for."""
        self.alias = False
        """At least one alias was followed."""
        self.out_of_bailiwick = False
        """The chain has left what the server has a say about: the last name is to be asked for by itself."""
        self.dname_overflow = False
        """A DNAME made a name of more than 255 octets (RFC 6672 section 2.3)."""
        self.soa: RRset | None = None
        self.upward_soa = False
        """There was a SOA of a zone above ours: the server does not know that the zone was delegated to it."""
        self.ns: RRset | None = None
        """NS of a zone below ours on the way to the name, or of our zone itself."""
        self.upward_referral = False
        """There was an NS set of a zone above or beside ours: a referral to nowhere, the sign of a lame server."""
        self.ds: list[RRset] = []
        self.proofs: list[RRset] = []


def question_matches(view: MessageView, qname: bytes, qtype: int) -> bool:
    """Whether the reply is one to our question (or one that honestly could not repeat it)."""
    if view.question_count == 1:
        return view.qtype == qtype and view.qname is not None and names.equal(view.qname, qname)
    return view.question_count == 0 and view.rcode in UNREAD


def scrub(view: MessageView, qname: bytes, qtype: int, zone: bytes) -> Scrubbed:
    """Pick the believable records out of `view`, the reply of a server of `zone` to (`qname`, `qtype`)."""
    found = Scrubbed(view, qname)
    answer = view.answer
    if answer:
        _follow(found, answer, qname, qtype, zone)
    authority = view.authority
    if authority:
        _authority(found, authority, zone)
        if qtype == c.DS and not answer:
            _take_ds(found, qname, zone)
    return found


def with_misplaced_rrsigs(answer: list[RRset], others: Iterable[RRset]) -> list[RRset]:
    """`answer` with those signatures of it that the server put among `others`, the sets of its other sections.

    A signature proves itself wherever it stands. Each record of the reply is looked at once: that is for replies that
    are used and validated.
    """
    wanted = {rrset.key for rrset in answer}
    stray: dict[tuple[bytes, int], list[bytes]] = {}
    for other in others:
        if other.rtype == c.RRSIG and other.rclass == c.IN:
            owner = other.key[0]
            for rdata in other.rdatas():
                key = (owner, int.from_bytes(rdata[:2], "big"))
                if key in wanted:
                    stray.setdefault(key, []).append(rdata)
    if not stray:
        return answer
    return [_with_more(rrset, stray[rrset.key]) if rrset.key in stray else rrset for rrset in answer]


def _with_more(rrset: RRset, stray: list[bytes]) -> RRset:
    """`rrset` with as many of the signatures `stray` as a set has room for."""
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
        if rrset.rtype == c.CNAME and leaves_zone(rrset.targets()[0]):
            found.answer = found.answer[: position + 1]
            found.name, found.out_of_bailiwick = rrset.targets()[0], True
            found.complete = found.dname_overflow = False
            return


def glue_of(view: MessageView, ns: RRset, zone: bytes, *, harden: bool) -> dict[bytes, list[RRset]]:
    """Addresses that the reply gives for the name servers of the referral `ns`, by lower-cased name.

    With `harden` only for names inside `zone`, the zone of the server that spoke: it has no say about others.
    """
    wanted = {names.lower(target) for target in ns.targets()[:NAME_SERVERS]}
    found: dict[bytes, list[RRset]] = {}
    for rrset in view.additional:
        if rrset.rtype in (c.A, c.AAAA) and rrset.rclass == c.IN:
            owner = names.lower(rrset.name)
            if owner in wanted and (not harden or names.is_subdomain(owner, zone)):
                found.setdefault(owner, []).append(rrset)
    return found


# --- answer section -----------------------------------------------------------------------------------------------


def _follow(found: Scrubbed, answer: list[RRset], qname: bytes, qtype: int, zone: bytes) -> None:
    """Walk the alias chain through `answer` as far as our zone reaches."""
    first = answer[0]
    if first.rtype == qtype and len(answer) == 1 and first.rclass == c.IN and names.equal(first.name, qname):
        found.answer.append(first if first.name == qname else first.with_name(qname))
        found.complete = True
        return
    sets: dict[tuple[bytes, int], RRset] = {}
    dnames: list[RRset] = []
    for one in answer:
        if one.rclass == c.IN:
            sets[one.key] = one
            if one.rtype == c.DNAME:
                dnames.append(one)
    name = qname
    rrset: RRset | None
    for _ in range(ALIAS_STEPS + 1):
        lowered = names.lower(name)
        # A DNAME goes before whatever else the reply says about a name below it: nothing else can stand there.
        target = _through_dname(found, dnames, name, lowered, zone) if dnames else None
        if target is not None and qtype in (c.CNAME, c.ANY):
            found.complete = True
            break
        if target is None:
            if found.dname_overflow:
                break
            if qtype in (c.ANY, c.RRSIG):
                found.complete = _everything(found, answer, name, qtype)
            else:
                rrset = sets.pop((lowered, qtype), None)
                if rrset is not None:
                    found.answer.append(rrset if rrset.name == name else rrset.with_name(name))
                    found.complete = True
            if found.complete or qtype == c.CNAME:
                break
            rrset = sets.pop((lowered, c.CNAME), None)
            if rrset is None:
                break
            found.answer.append(rrset if rrset.name == name else rrset.with_name(name))
            target = rrset.targets()[0]
        name = target
        found.alias = True
        if not names.is_subdomain(name, zone):
            found.out_of_bailiwick = True
            break
    found.name = name


def _through_dname(found: Scrubbed, dnames: list[RRset], name: bytes, lowered: bytes, zone: bytes) -> bytes | None:
    """Rewrite `name` by a DNAME of an ancestor, adding it and the CNAME it stands for; None when none applies."""
    for rrset in dnames:
        owner = names.lower(rrset.name)
        if owner != lowered and names.is_subdomain(lowered, owner) and names.is_subdomain(owner, zone):
            if rrset not in found.answer:
                found.answer.append(rrset)
            target = names.replace_suffix(name, owner, rrset.targets()[0])
            if target is None:
                found.dname_overflow = True
                return None
            # RFC 6672 section 3.1: the synthesised CNAME has the TTL of the DNAME.
            found.answer.append(RRset(name, c.CNAME, rrset.ttl, [target]))
            return target
    return None


def _everything(found: Scrubbed, answer: list[RRset], name: bytes, qtype: int) -> bool:
    """ANY and RRSIG have no set of their own: take what stands at the name (RFC 8482, RFC 4035 section 3.1.1).

    False when that is nothing.
    """
    before = len(found.answer)
    for rrset in answer:
        if rrset.rclass == c.IN and names.equal(rrset.name, name):
            if qtype == c.ANY or rrset.rtype == c.RRSIG:
                found.answer.append(rrset)
            elif rrset.sigs():
                found.answer.append(RRset(name, c.RRSIG, rrset.ttl, rrset.sigs()))
    return len(found.answer) > before


def _take_ds(found: Scrubbed, qname: bytes, zone: bytes) -> None:
    """Take the DS set of a referral as the answer to the question for it, when it is signed.

    Some servers of a parent refer also those who ask for DS. The set is theirs (RFC 4035 section 3.1.4.1), and its
    signature proves it wherever it stands; without one it would be no better than the referral.
    """
    for rrset in found.ds:
        if rrset.sig_len and names.equal(rrset.name, qname) and not names.equal(qname, zone):
            found.answer.append(rrset)
            found.complete = True
            return


# --- authority section --------------------------------------------------------------------------------------------


def _authority(found: Scrubbed, authority: list[RRset], zone: bytes) -> None:
    name = found.name
    for rrset in authority:
        if rrset.rclass != c.IN:
            continue
        rtype = rrset.rtype
        owner = rrset.name
        if rtype == c.NS:
            if not names.is_subdomain(name, owner) or not names.is_subdomain(owner, zone):
                found.upward_referral = True
            elif found.ns is None:
                found.ns = rrset
        elif not names.is_subdomain(owner, zone):
            if rtype == c.SOA and names.is_subdomain(zone, owner):
                found.upward_soa = True
        elif rtype == c.SOA:
            if found.soa is None and names.is_subdomain(name, owner):
                found.soa = rrset
        elif rtype in (c.NSEC, c.NSEC3):
            found.proofs.append(rrset)
        elif rtype == c.DS:
            found.ds.append(rrset)
