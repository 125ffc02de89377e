"""The closed sets of values that the labels of metrics have, and how a number of the protocol becomes one of them.

Each combination of label values is a time series that Prometheus keeps for weeks, so remote parties must not be able to
create one. Whatever has no value of its own in a set counts as `OTHER`. Names from the configuration, as those of lists
and zones, are labels too: they are as many as the operator has written.
"""

from typing import Final

from resolver.wire import consts as c

__all__ = [
    "NO_TYPE", "OTHER", "RCODES", "RCODE_LABELS", "RESULTS", "TRANSPORTS", "TYPES", "TYPE_LABELS", "TYPE_SLOTS",
]

OTHER: Final = "other"
"""Every value without a label of its own."""
NO_TYPE: Final = "none"
"""The type of messages without a question that could be read."""

TRANSPORTS: Final = ("udp", "tcp", "tls", "https", "quic")
"""Transports of clients and of upstream servers. The fast path counts by the position of a transport in this tuple."""

_COUNTED_TYPES = (
    c.A, c.NS, c.CNAME, c.SOA, c.PTR, c.HINFO, c.MX, c.TXT, c.AAAA, c.LOC, c.SRV, c.NAPTR, c.DNAME, c.DS, c.SSHFP,
    c.RRSIG, c.NSEC, c.DNSKEY, c.NSEC3, c.NSEC3PARAM, c.TLSA, c.CDS, c.CDNSKEY, c.SVCB, c.HTTPS, c.IXFR, c.AXFR, c.ANY,
    c.URI, c.CAA,
)
TYPES: Final = (OTHER, NO_TYPE, *(c.type_to_text(rtype) for rtype in _COUNTED_TYPES))
"""Types of queries. There are 32, so that the fast path finds the counters of a type by a shift."""
TYPE_SLOTS: Final = {rtype: slot for slot, rtype in enumerate(_COUNTED_TYPES, 2)}
"""Position in `TYPES` by the number of the type; the others are at 0."""
TYPE_LABELS: Final = {rtype: TYPES[slot] for rtype, slot in TYPE_SLOTS.items()}
"""The labels of types by number; `OTHER` is that of all types without one."""

_COUNTED_RCODES = (
    c.NOERROR, c.FORMERR, c.SERVFAIL, c.NXDOMAIN, c.NOTIMP, c.REFUSED, c.YXDOMAIN, c.NOTAUTH, c.BADVERS, c.BADCOOKIE,
)
RCODES: Final = (*(c.rcode_to_text(rcode) for rcode in _COUNTED_RCODES), OTHER)
"""Rcodes of replies."""
RCODE_LABELS: Final = {rcode: c.rcode_to_text(rcode) for rcode in _COUNTED_RCODES}
"""The labels of rcodes (12 bits) by number; `OTHER` is that of all rcodes without one."""

RESULTS: Final = ("hit", "rrsets", "aggressive", "stale", "local", "failure", "miss")
"""Where an answer came from:

* hit: a finished answer of the cache; most are given by the fast path
* rrsets: composed of cached RRsets
* aggressive: as rrsets, and at least one denial was made from NSEC or NSEC3 records of other names (RFC 8198)
* stale: expired data (RFC 8767)
* local: a policy, local data or an own zone
* failure: a failure that was remembered (RFC 9520)
* miss: name servers or forwarders were asked, or this was not possible
"""
