"""The kind of a scrubbed reply: answer, CNAME, referral, NODATA, NXDOMAIN, lame, unusable.

It is as tolerant as the large resolvers, because many servers do not follow the standard. An answer without AA is
accepted when it contains the data that was queried, and so is the NS set of the zone itself when that was queried; a
recursive server in a delegation is used only when no other server answers (`query_servers`). Never accepted are
referrals to a zone that is not below the current one, which lead in circles, and denials by a server that does not
serve the zone.
"""

from resolver.iterate.scrub import (
    RESPONSE_ANSWER,
    RESPONSE_CNAME,
    RESPONSE_EMPTY,
    RESPONSE_LAME,
    RESPONSE_NODATA,
    RESPONSE_NXDOMAIN,
    RESPONSE_REFERRAL,
    RESPONSE_THROWAWAY,
    RESPONSE_YXDOMAIN,
    ResponseType,
    Scrubbed,
)
from resolver.wire.consts import ANY, CNAME, DNAME, DS, NOERROR, NXDOMAIN
from resolver.wire.message import MessageView
from resolver.wire.name import equal

__all__ = ["classify"]


def classify(
    view: MessageView, found: Scrubbed, qname: bytes, qtype: int, zone: bytes, *, recursive: bool
) -> ResponseType:
    """Return the kind of the reply. `recursive`: the server is a forwarder of the configuration."""
    rcode = view.rcode
    if found.dname_overflow:
        return RESPONSE_YXDOMAIN
    if rcode == NXDOMAIN:
        return _classify_nxdomain(found, qname, qtype, recursive=recursive)
    if rcode != NOERROR:
        return RESPONSE_THROWAWAY
    if found.complete:
        return RESPONSE_ANSWER
    if found.alias:
        # The last name of the chain is denied only by a SOA of its own zone (RFC 2308 section 2.2).
        return RESPONSE_NODATA if found.soa is not None and not found.out_of_bailiwick else RESPONSE_CNAME
    soa = found.soa
    if soa is not None:
        return RESPONSE_THROWAWAY if _wrong_side(soa.name, qname, qtype) else RESPONSE_NODATA
    ns = found.ns
    if ns is not None:
        if equal(ns.name, zone):
            if recursive:
                return RESPONSE_EMPTY
            return RESPONSE_EMPTY if view.aa else RESPONSE_LAME
        if recursive:
            return RESPONSE_EMPTY
        # The parent's servers must not answer a DS query with a referral to the child (RFC 4035 section 3.1.4.1).
        return RESPONSE_THROWAWAY if _wrong_side(ns.name, qname, qtype) else RESPONSE_REFERRAL
    if found.upward_referral:
        # With AA set, the server serves the zone but fails for this type, so it is not marked as lame.
        return RESPONSE_THROWAWAY if recursive or view.aa else RESPONSE_LAME
    if found.upward_soa:
        # A recursive server may give the SOA of a zone above the one it is configured for.
        return RESPONSE_NODATA if recursive else RESPONSE_LAME
    return RESPONSE_EMPTY


def _classify_nxdomain(found: Scrubbed, qname: bytes, qtype: int, *, recursive: bool) -> ResponseType:
    if found.complete:
        # After the CNAME made from a DNAME, the response code is that of the last name (RFC 6604 section 3).
        return (
            RESPONSE_ANSWER
            if qtype in (CNAME, ANY) and found.answer[0].rtype == DNAME
            else RESPONSE_THROWAWAY
        )
    if found.alias:
        return RESPONSE_CNAME if found.out_of_bailiwick else RESPONSE_NXDOMAIN
    if found.soa is None and (found.upward_soa or found.upward_referral) and not recursive:
        return RESPONSE_LAME
    if found.soa is not None and _wrong_side(found.soa.name, qname, qtype):
        return RESPONSE_THROWAWAY
    return RESPONSE_NXDOMAIN


def _wrong_side(owner: bytes, qname: bytes, qtype: int) -> bool:
    """Whether a DS query was answered by the child, which is not authoritative for it (RFC 4035 section 2.4)."""
    return qtype == DS and len(qname) > 1 and equal(owner, qname)
