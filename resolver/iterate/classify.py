"""What a scrubbed reply means: answer, alias, referral, no data, no name, lame, broken.

The rule: be as tolerant as the large resolvers are, because the servers of the world are as they are. An answer
without AA is an answer when it contains what was asked, and so is an NS set of the zone itself when that was asked
for; a recursive server found where an authoritative one was promised is used only when nobody better answers. What
must never happen is the opposite: a referral sideways or upwards that leads in circles, or a denial by somebody
who does not know the zone.
"""

from resolver.iterate.scrub import ResponseType, Scrubbed
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

__all__ = ["classify"]


def classify(
    view: MessageView, found: Scrubbed, qname: bytes, qtype: int, zone: bytes, *, recursive: bool
) -> ResponseType:
    """Say what the reply means. `recursive` is True when a recursive server was asked on purpose (a forwarder)."""
    rcode = view.rcode
    if found.dname_overflow:
        return ResponseType.YXDOMAIN
    if rcode == c.NXDOMAIN:
        return _classify_nxdomain(found, qname, qtype, recursive=recursive)
    if rcode != c.NOERROR:
        return ResponseType.THROWAWAY
    if found.complete:
        return ResponseType.ANSWER
    if found.alias:
        # The rest of the chain is denied only by a SOA that speaks about its last name (RFC 2308 section 2.2).
        return ResponseType.NODATA if found.soa is not None and not found.out_of_bailiwick else ResponseType.CNAME
    soa = found.soa
    if soa is not None:
        return ResponseType.THROWAWAY if _wrong_side(soa.name, qname, qtype) else ResponseType.NODATA
    ns = found.ns
    if ns is not None:
        if names.equal(ns.name, zone):
            if recursive:
                return ResponseType.EMPTY
            return ResponseType.EMPTY if view.aa else ResponseType.LAME
        if recursive:
            return ResponseType.EMPTY
        # Asked for DS, the parent's servers must not send us to the child (RFC 4035 section 3.1.4.1).
        return ResponseType.THROWAWAY if _wrong_side(ns.name, qname, qtype) else ResponseType.REFERRAL
    if found.upward_referral:
        # With AA set the server has the zone, but not its wits about this type: no reason to avoid it for others.
        return ResponseType.THROWAWAY if recursive or view.aa else ResponseType.LAME
    if found.upward_soa:
        # A recursive server may well say so of a name outside the zone it was given for.
        return ResponseType.NODATA if recursive else ResponseType.LAME
    return ResponseType.EMPTY


def _classify_nxdomain(found: Scrubbed, qname: bytes, qtype: int, *, recursive: bool) -> ResponseType:
    if found.complete:
        # A server asked for the alias that a DNAME makes goes on and says how its target fares (RFC 6604 section 3).
        return (
            ResponseType.ANSWER
            if qtype in (c.CNAME, c.ANY) and found.answer[0].rtype == c.DNAME
            else ResponseType.THROWAWAY
        )
    if found.alias:
        return ResponseType.CNAME if found.out_of_bailiwick else ResponseType.NXDOMAIN
    if found.soa is None and (found.upward_soa or found.upward_referral) and not recursive:
        return ResponseType.LAME
    if found.soa is not None and _wrong_side(found.soa.name, qname, qtype):
        return ResponseType.THROWAWAY
    return ResponseType.NXDOMAIN


def _wrong_side(owner: bytes, qname: bytes, qtype: int) -> bool:
    """A question for DS was answered by the child, which cannot know (RFC 4035 section 2.4)."""
    return qtype == c.DS and len(qname) > 1 and names.equal(owner, qname)
