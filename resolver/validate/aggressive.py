"""Aggressive use of cached denials: NXDOMAIN, NODATA and wildcards for names never queried (RFC 8198, RFC 8020).

The conclusions are only those that the same records in a reply would prove: `nsec` and `nsec3` check the proofs, and
only the records come from the index of verified ones. Four more restrictions apply. Records from outside a forward or
stub zone of the configuration do not apply inside it (CVE-2026-44687). Nothing is answered below a negative trust
anchor, or with records from above the closest trust anchor. Opt-out spans never deny a name (RFC 5155 section 6). Few
hashes are computed, because this runs before any server is queried (CVE-2023-50868). It absorbs random-subdomain
attacks against signed zones.
"""

from resolver import limits
from resolver.cache.aggressive_nsec import CachedNsec, NsecZone
from resolver.effects import Budget, Context, RawReply
from resolver.validate import nsec, nsec3
from resolver.validate.anchors import Anchors
from resolver.validate.crypto_budget import HashBudgetExceeded
from resolver.validate.fields import signatures
from resolver.validate.records import is_expanded
from resolver.validate.security_status import OptOutSpan, SecurityStatus, insecure
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["AggressiveNsec"]

ANCESTORS = limits.ALIAS_PROBES
HASHES = limits.NSEC3_HASHES_AHEAD
UNPROVABLE = frozenset({c.ANY, c.RRSIG, c.NSEC3})
"""Types whose absence no bitmap shows."""


class _CachedProver(nsec3.Prover):
    """A prover with the records of the index; `used` are those that the proof needed."""

    def __init__(self, cached: NsecZone, now: int, budget: Budget, most: int) -> None:
        salt = cached.parameters[3:]
        iterations = int.from_bytes(cached.parameters[:2], "big")
        super().__init__(
            [], zone=cached.zone, iterations=iterations, salt=salt, budget=budget, most=most, hashes=HASHES
        )
        self._held = cached
        self._now = now
        self.used: dict[bytes, CachedNsec] = {}

    def _record(self, digest: bytes) -> tuple[CachedNsec, nsec3.Nsec3] | None:
        proof = self._held.at_or_before_hash(digest, self._now)
        if proof is None:
            return None
        record = proof.parsed
        if record is None:
            record = proof.parsed = next(iter(nsec3.read(proof.rrset, self.zone)), None)
        return None if record is None else (proof, record)

    def matching(self, name: bytes) -> nsec3.Nsec3 | None:
        """The record of `name`, or None."""
        digest = self.digest(name)
        found = self._record(digest)
        if found is None or found[1].owner_hash != digest:
            return None
        self.used[digest] = found[0]
        return found[1]

    def covering(self, name: bytes) -> nsec3.Nsec3 | None:
        """A record whose span holds the hash of `name`, or None."""
        digest = self.digest(name)
        found = self._record(digest)
        if found is None or not found[1].covers(digest):
            return None
        self.used[found[1].owner_hash] = found[0]
        return found[1]

    def closest_encloser(self, qname: bytes) -> tuple[bytes, nsec3.Nsec3] | None:
        """As of a reply, but from the apex downwards: most enclosers are near it, so few hashes are needed however long
        the name is. A valid record covers no name that exists, except in an opt-out span, and no name below one that
        does not exist matters."""
        for count in range(names.label_count(self.zone), names.label_count(qname)):
            cover = self.covering(names.suffix(qname, count + 1))
            if cover is not None:
                encloser = names.suffix(qname, count)
                match = self.matching(encloser)
                if match is None or match.has(c.DNAME) or (match.has(c.NS) and not match.has(c.SOA)):
                    return None
                return encloser, cover
        return None


class AggressiveNsec:
    """Answers queries from verified denials. Each validator has one."""

    def __init__(self, anchors: Anchors, *, nsec3_iterations: int) -> None:
        self._anchors = anchors
        self._nsec3_iterations = nsec3_iterations

    def answer(
        self, qname: bytes, qtype: int, context: Context, budget: Budget, *, with_soa: bool
    ) -> tuple[RawReply, Verdict] | None:
        """A reply to (`qname`, `qtype`) with its verdict, or None. `with_soa`: a denial must have its SOA.

        The verdict is insecure only for the denial of a DS set by an opt-out span (RFC 5155 section 8.6).
        """
        if qtype in UNPROVABLE:
            return None
        name = names.lower(qname)
        place = names.zone_lookup_name(name, qtype)
        anchor = self._anchors.closest(place, context.now)
        if anchor is None:
            return None
        configured = context.delegations.forward_or_stub_for(place)
        border = anchor.zone if configured is None or len(configured.zone) < len(anchor.zone) else configured.zone
        cached = context.store.denials.closest(place)
        if cached is not None and len(cached.zone) >= len(border):
            raw = self._from_nsec(name, qname, qtype, cached, context) if cached.has_names else None
            if raw is None and cached.has_hashes:
                raw = self._from_nsec3(name, qname, qtype, cached, context, budget)
            if raw is not None and self._finish(raw, cached, context, with_soa=with_soa):
                return raw, Verdict.SECURE
            if qtype == c.DS and cached.has_hashes and not with_soa:
                found = self._insecure_by_opt_out(name, qname, cached, context, budget)
                if found is not None and self._finish(found[0], cached, context, with_soa=False):
                    return found[0], found[1].verdict
        raw = self._nxdomain_cut(name, qname, qtype, border, context)
        return None if raw is None else (raw, Verdict.SECURE)

    # --- NSEC ---------------------------------------------------------------------------------------------------

    def _from_nsec(self, name: bytes, qname: bytes, qtype: int, cached: NsecZone, context: Context) -> RawReply | None:
        now = context.now
        found = _read(cached, name, now)
        if found is None:
            return None
        proof, record = found
        raw = RawReply(qname, qtype)
        raw.proofs = [proof.with_remaining_ttl(now)]
        if record.owner == name:
            return _denied(raw, c.NOERROR) if nsec.proves_nodata([record], name, qtype) else None
        if not record.covers(name):
            return None
        if nsec.proves_nodata([record], name, qtype):
            return _denied(raw, c.NOERROR)  # an empty non-terminal
        encloser = nsec.closest_encloser(record, name)
        star = names.wildcard(encloser)
        second = _read(cached, star, now)
        if second is not None:
            both = [record, second[1]]
            proves_nxdomain = nsec.proves_nxdomain(both, name)
            if proves_nxdomain or nsec.proves_nodata(both, name, qtype):
                if second[0] is not proof:
                    raw.proofs.append(second[0].with_remaining_ttl(now))
                return _denied(raw, c.NXDOMAIN if proves_nxdomain else c.NOERROR)
        if not nsec.proves_wildcard_expansion([record], name, encloser):
            return None
        return _expand(raw, star, cached.zone, context)

    # --- NSEC3 --------------------------------------------------------------------------------------------------

    def _from_nsec3(
        self, name: bytes, qname: bytes, qtype: int, cached: NsecZone, context: Context, budget: Budget
    ) -> RawReply | None:
        prover = _CachedProver(cached, context.now, budget, self._nsec3_iterations)
        if prover.exceeds_iterations:
            return None
        raw = RawReply(qname, qtype)
        try:
            if prover.matching(name) is not None:
                proved, opt_out = prover.proves_nodata(name, qtype)
                return _denied(raw, c.NOERROR, prover, context.now) if proved and opt_out is None else None
            found = prover.closest_encloser(name)
            if found is not None and not found[1].opt_out:
                if prover.proves_nxdomain(name)[0]:
                    return _denied(raw, c.NXDOMAIN, prover, context.now)
                if prover.proves_nodata(name, qtype)[0]:
                    return _denied(raw, c.NOERROR, prover, context.now)
            return self._from_wildcard(raw, name, prover, cached, context)
        except HashBudgetExceeded:
            return None

    @staticmethod
    def _from_wildcard(
        raw: RawReply, name: bytes, prover: _CachedProver, cached: NsecZone, context: Context
    ) -> RawReply | None:
        """Expand a wildcard whose set is cached. The wildcard shows that its parent exists, so only the absence of a
        closer name must be proved (RFC 5155 sections 7.2.6 and 8.8)."""
        encloser = closer = name
        for _ in range(ANCESTORS):
            if len(encloser) <= len(cached.zone):
                break
            closer, encloser = encloser, names.parent(encloser)
            expanded = _expand(raw, names.wildcard(encloser), cached.zone, context)
            if expanded is not None:
                cover = prover.covering(closer)
                if cover is None or cover.opt_out:
                    return None
                raw.proofs = [prover.used[cover.owner_hash].with_remaining_ttl(context.now)]
                return expanded
        return None

    def _insecure_by_opt_out(
        self, name: bytes, qname: bytes, cached: NsecZone, context: Context, budget: Budget
    ) -> tuple[RawReply, SecurityStatus] | None:
        prover = _CachedProver(cached, context.now, budget, self._nsec3_iterations)
        if prover.exceeds_iterations:
            return None
        try:
            proved, opt_out = prover.proves_nodata(name, c.DS)
        except HashBudgetExceeded:
            return None
        if not proved or opt_out is None:
            return None
        return _denied(RawReply(qname, c.DS), c.NOERROR, prover, context.now), insecure(OptOutSpan(opt_out))

    # --- NXDOMAIN cut -------------------------------------------------------------------------------------------

    def _nxdomain_cut(
        self, name: bytes, qname: bytes, qtype: int, border: bytes, context: Context
    ) -> RawReply | None:
        """The NXDOMAIN that a secure NXDOMAIN of an ancestor implies (RFC 8020)."""
        rrsets, now = context.store.rrsets, context.now
        above = name
        for _ in range(ANCESTORS):
            if len(above) <= len(border) or len(above) == 1:
                break
            above = above[above[0] + 1 :]
            negative = rrsets.find_negative(above, 0, now)
            if negative is not None and negative.verdict == Verdict.SECURE and negative.soa is not None:
                raw = _denied(RawReply(qname, qtype), c.NXDOMAIN)
                raw.soa, raw.proofs, raw.ttl = negative.soa, list(negative.proofs), negative.ttl
                return raw
        return None

    @staticmethod
    def _finish(raw: RawReply, cached: NsecZone, context: Context, *, with_soa: bool) -> bool:
        """Set zone, SOA and TTL of a reply; False when it needs a SOA and none is cached."""
        raw.zone = cached.zone
        ttl = min(rrset.ttl for rrset in raw.proofs)
        if raw.denied:
            raw.soa = cached.soa(context.now)
            if raw.soa is None:
                if with_soa:
                    return False
            else:
                ttl = min(ttl, raw.soa.ttl)
                raw.soa = raw.soa.with_ttl(ttl)
            raw.proofs = [rrset.with_ttl(ttl) for rrset in raw.proofs]
        elif raw.answer[0].ttl > ttl:
            raw.answer[0] = raw.answer[0].with_ttl(ttl)
        raw.ttl = ttl
        return True


def _denied(raw: RawReply, rcode: int, prover: _CachedProver | None = None, now: int = 0) -> RawReply:
    raw.denied, raw.rcode = True, rcode
    if prover is not None:
        raw.proofs = [proof.with_remaining_ttl(now) for proof in prover.used.values()]
    return raw


def _expand(raw: RawReply, star: bytes, zone: bytes, context: Context) -> RawReply | None:
    """The answer expanded from the wildcard `star`, when the cache holds its set and `zone` signed it.

    The records of `zone` prove that no closer name exists. They prove nothing for names of another zone, where a
    delegation may be between the wildcard and the name.
    """
    find = context.store.rrsets.find
    # NSEC exists beside a CNAME (RFC 4035 section 2.5), so the CNAME is not followed for it.
    for rtype in (raw.qtype,) if raw.qtype == c.NSEC else (raw.qtype, c.CNAME):
        rrset: RRset | None = find(star, rtype, context.now, min_trust=Trust.VALIDATED)
        if rrset is None or rrset.verdict != Verdict.SECURE or is_expanded(rrset):
            continue  # it was expanded from a wildcard further up, and does not show that this one exists
        if signatures(rrset, 1)[0].signer == zone:
            raw.answer.append(rrset.with_name(raw.qname))
            if rtype == c.CNAME and raw.qtype != c.CNAME:
                raw.alias = raw.name = rrset.targets()[0]
            return raw
    return None


def _read(cached: NsecZone, name: bytes, now: int) -> tuple[CachedNsec, nsec.Nsec] | None:
    proof = cached.at_or_before(name, now)
    if proof is None:
        return None
    record = proof.parsed
    if record is None:
        record = proof.parsed = next(iter(nsec.read(proof.rrset, cached.zone)), None)
    return None if record is None else (proof, record)
