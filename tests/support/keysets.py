"""DNSKEY sets of zones that change their keys: fake ones for thousands of histories, signed ones for a few.

The last octet of a fake signature says whether it is valid, so a test knows the result without a check. The key tags
are real, because the REVOKE bit changes them (RFC 5011 section 2.1).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from support.signing import ZoneKey

from resolver.validate.autotrust import Probe
from resolver.validate.records import REVOKED, Dnskey, parse_dnskey
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["DAY", "HOUR", "Made", "key_set", "made_set", "results_of"]

HOUR, DAY = 3600, 86_400


@dataclass(frozen=True)
class Made:
    """A key without a private half. `number` makes it different from others."""

    number: int
    flags: int = 257
    algorithm: int = 13

    @property
    def key(self) -> Dnskey:
        rdata = struct.pack("!HBB", self.flags, 3, self.algorithm) + self.number.to_bytes(8, "big") * 8
        found = parse_dnskey(rdata)
        assert found is not None
        return found

    @property
    def revoked(self) -> "Made":
        return Made(self.number, self.flags | REVOKED, self.algorithm)


def made_set(
    zone: str,
    keys: Iterable[Made],
    signers: Iterable[Made],
    now: int,
    *,
    ttl: int = 2 * DAY,
    left: int = 14 * DAY,
    good: bool = True,
) -> RRset:
    """A set of `keys` with signatures in the names of `signers`, whose checks come out as `good` says."""
    owner = names.from_text(zone)
    sigs = []
    for signer in signers:
        key = signer.key
        head = struct.pack(
            "!HBBIIIH", c.DNSKEY, key.algorithm, names.label_count(owner), ttl, now + left, now - DAY, key.tag
        )
        sigs.append(head + owner + bytes(63) + (b"\1" if good else b"\0"))
    return RRset(owner, c.DNSKEY, ttl, [key.key.rdata for key in keys], sigs=sigs)


def results_of(look: Probe) -> list[bool]:
    """What the checks of made-up signatures come to."""
    return [job.signature[-1] == 1 for job in look.jobs]


def key_set(
    zone: str,
    keys: Sequence[ZoneKey],
    signers: Sequence[ZoneKey],
    now: int,
    *,
    ttl: int = 2 * DAY,
    left: int = 14 * DAY,
) -> RRset:
    """A set of real keys with real signatures."""
    made = dns.rrset.RRset(dns.name.from_text(zone), dns.rdataclass.IN, dns.rdatatype.DNSKEY)
    for key in keys:
        made.add(key.dnskey, ttl)
    sigs = [signer.sign(made, inception=now - DAY, expiration=now + left).to_wire() for signer in signers]
    return RRset(names.from_text(zone), c.DNSKEY, ttl, [key.dnskey.to_wire() for key in keys], sigs=sigs)
