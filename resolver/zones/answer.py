"""The sections of an authoritative answer: data, aliases within the zone, referrals with glue, and proofs.

A signed zone has its proofs in the answer, whether the client wants them or not; who sends the answer leaves them out
without DO. The proofs are those of RFC 4035 section 3.1.3 (NSEC) and RFC 5155 section 7.2 (NSEC3). Records and
signatures are those of the zone, none is made here.
"""

import base64
import hashlib
from bisect import bisect_right
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, negative_ttl
from resolver.zones.zone import Kind, Match, Zone

__all__ = ["Answer", "Answerer"]

ALIASES = limits.MAX_ALIASES


class Answer(NamedTuple):
    """One answer. `referral`: the name is in a zone that is delegated; `authority` then begins with its NS set."""

    rcode: int
    answer: list[RRset]
    authority: list[RRset]
    additional: list[RRset]
    referral: bool


class Answerer:
    """Answers questions from one zone."""

    __slots__ = ("zone",)

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def answer(self, qname: bytes, qtype: int) -> Answer:
        """The answer for a name in the zone, with aliases followed as long as they stay in it."""
        zone = self.zone
        answer: list[RRset] = []
        proofs: list[RRset] = []
        name = qname
        for _ in range(ALIASES):
            key = names.lower(name)
            found = zone.search(key, qtype)
            if found.kind is Kind.REFERRAL:
                return self._referral(found, answer, proofs)
            if found.kind is Kind.NXDOMAIN:
                proofs += self._prove_absence(found, key)
                return Answer(c.NXDOMAIN, answer, [self._negative_soa(), *_once(proofs)], [], False)
            if found.kind is Kind.DATA:
                return self._data(found, name, key, qtype, answer, proofs)
            target = self._follow(found, name, answer)
            if found.wildcard:
                proofs += self._prove_expansion(found, key)
            if target is None:
                return Answer(c.YXDOMAIN, answer, _once(proofs), [], False)
            # A CNAME made from a DNAME is what a query for type CNAME asks for.
            if qtype == c.CNAME or not names.is_subdomain(target, zone.origin) or any(
                rrset.rtype == c.CNAME and names.equal(rrset.name, target) for rrset in answer
            ):
                break
            name = target
        return Answer(c.NOERROR, answer, _once(proofs), [], False)

    def _follow(self, found: Match, name: bytes, answer: list[RRset]) -> bytes | None:
        """Add a CNAME, or a DNAME and the CNAME made from it (RFC 6672 section 3.1); returns the next name."""
        if found.kind is Kind.CNAME:
            cname = self.zone.rrset(found.owner, c.CNAME, name)
            assert cname is not None
            answer.append(cname)
            return cname.targets()[0]
        dname = self.zone.rrset(found.owner, c.DNAME)
        assert dname is not None
        if dname not in answer:  # a chain may use it several times
            answer.append(dname)
        target = names.replace_suffix(name, found.owner, dname.targets()[0])
        if target is not None:
            answer.append(RRset(name, c.CNAME, dname.ttl, [target]))
        return target

    def _data(
        self, found: Match, name: bytes, key: bytes, qtype: int, answer: list[RRset], proofs: list[RRset]
    ) -> Answer:
        zone = self.zone
        sets: list[RRset] = []
        if qtype == c.ANY:
            sets = zone.rrsets(found.owner, name)
        else:
            make = zone.signatures if qtype == c.RRSIG else lambda owner, shown: zone.rrset(owner, qtype, shown)
            one = None if qtype == c.NSEC3 else make(found.owner, name)
            sets = [] if one is None else [one]
        if not sets:
            proofs += self._prove_no_data(found, key)
            return Answer(c.NOERROR, answer, [self._negative_soa(), *_once(proofs)], [], False)
        if found.wildcard:
            proofs += self._prove_expansion(found, key)
        targets = [target for rrset in sets if rrset.rtype == c.NS for target in rrset.targets()]
        return Answer(c.NOERROR, answer + sets, _once(proofs), zone.addresses(targets), False)

    def _referral(self, found: Match, answer: list[RRset], proofs: list[RRset]) -> Answer:
        """RFC 4035 section 3.1.4: the NS set, DS or the proof that there is none, and glue."""
        zone = self.zone
        ns = zone.rrset(found.owner, c.NS)
        assert ns is not None
        ns = ns.without_sigs()  # the parent does not sign it
        ds = zone.rrset(found.owner, c.DS)
        if zone.soa.sig_len:
            proofs += [ds] if ds is not None else self._prove_no_data(found, found.owner)
        return Answer(c.NOERROR, answer, [ns, *_once(proofs)], zone.addresses(ns.targets()), True)

    def _negative_soa(self) -> RRset:
        """The SOA of negative answers: its TTL is the smaller of its own and MINIMUM (RFC 2308 section 3)."""
        return self.zone.soa.with_ttl(negative_ttl(self.zone.soa))

    # --- proofs ---------------------------------------------------------------------------------------------------

    @property
    def _signed(self) -> bool:
        chain = self.zone.chain()
        return bool(chain.names or chain.hashes)

    def _prove_absence(self, found: Match, key: bytes) -> list[RRset]:
        """NXDOMAIN: neither the name nor a wildcard that it would match exists."""
        if not self._signed:
            return []
        if not self.zone.chain().hashes:
            return _given(self._covering(key), self._covering(b"\1*" + found.encloser))
        encloser = self._provable(found.encloser)
        return [*self._encloser_proof(encloser, key), *_given(self._hash_covering(b"\1*" + encloser))]

    def _prove_no_data(self, found: Match, key: bytes) -> list[RRset]:
        """NODATA: the name, or the wildcard that it matches, has no records of the type."""
        if not self._signed:
            return []
        if not self.zone.chain().hashes:
            proofs = _given(self.zone.rrset(found.owner, c.NSEC) or self._covering(found.owner))
            return proofs + _given(self._covering(key)) if found.wildcard else proofs
        if found.wildcard:
            return [*self._encloser_proof(found.encloser, key), *_given(self._hash_matching(found.owner))]
        match = self._hash_matching(found.owner)
        # A delegation that opt-out left out of the chain, or a name that exists only because of one (7.2.4, 7.2.7).
        return [match] if match is not None else self._encloser_proof(self._provable(found.owner), key)

    def _prove_expansion(self, found: Match, key: bytes) -> list[RRset]:
        """The name itself does not exist, so that the wildcard applies to it."""
        if not self._signed:
            return []
        if not self.zone.chain().hashes:
            return _given(self._covering(key))
        return _given(self._hash_covering(names.suffix(key, names.label_count(found.encloser) + 1)))

    def _covering(self, name: bytes) -> RRset | None:
        """The NSEC at or before `name` in canonical order; the last one also covers what precedes the first."""
        chain = self.zone.chain()
        return self.zone.rrset(chain.names[bisect_right(chain.keys, names.canonical_key(name)) - 1], c.NSEC)

    def _provable(self, encloser: bytes) -> bytes:
        """`encloser`, or the closest name above it that is in the NSEC3 chain (RFC 5155 section 7.2.1)."""
        while encloser != self.zone.origin and self._hash_matching(encloser) is None:
            encloser = names.parent(encloser)
        return encloser

    def _encloser_proof(self, encloser: bytes, key: bytes) -> list[RRset]:
        """A match of the closest encloser, and a cover of the next closer name (RFC 5155 section 7.2.1)."""
        if encloser == key:
            return []
        closer = names.suffix(key, names.label_count(encloser) + 1)
        return _given(self._hash_matching(encloser), self._hash_covering(closer))

    def _hash_matching(self, name: bytes) -> RRset | None:
        return self.zone.rrset(self._hash(name), c.NSEC3)

    def _hash_covering(self, name: bytes) -> RRset | None:
        # All owners have one length, and base32hex keeps the order of the hashes (RFC 5155 section 1.3).
        hashes = self.zone.chain().hashes
        return self.zone.rrset(hashes[bisect_right(hashes, self._hash(name)) - 1], c.NSEC3)

    def _hash(self, name: bytes) -> bytes:
        """The owner of the NSEC3 record of `name` (RFC 5155 section 5)."""
        chain = self.zone.chain()
        digest = hashlib.sha1(name + chain.salt, usedforsecurity=False).digest()
        for _ in range(chain.iterations):
            digest = hashlib.sha1(digest + chain.salt, usedforsecurity=False).digest()
        return names.prepend(base64.b32hexencode(digest).lower(), self.zone.origin)


def _given(*rrsets: RRset | None) -> list[RRset]:
    return [rrset for rrset in rrsets if rrset is not None]


def _once(rrsets: list[RRset]) -> list[RRset]:
    """Each set once, in the order of the first."""
    return list({rrset.key: rrset for rrset in rrsets}.values())
