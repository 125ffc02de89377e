"""The chain of trust: which keys may sign a zone, and where the signed part of the tree ends (RFC 4035 section 5).

Where there are signatures, it is followed upwards: the DNSKEY set of the signer of an RRSIG, its DS set, the DNSKEY set
of the parent, and so on to a trust anchor. Each step is a `Need`, so that it comes from the cache, is shared with other
queries and spends the same budget. Where signatures are missing, it is followed downwards: the DS set of each name from
the anchor to the zone, until one is proved absent at a delegation.

Invariants: missing keys never mean "insecure" without a proof (`security_status`), and the verdict of another reply is
no proof. A zone is insecure by validated records of its parent (`_ds_status`), by a validated DS set without a
supported record, or by the configuration. An alias instead of a DS or DNSKEY set shows that no zone begins at the name;
nothing is concluded from what follows it.
"""

from collections.abc import Iterable, Sequence

from resolver import limits
from resolver.cache.bounded import BoundedDict, SizedTable
from resolver.effects import FOR_DNSSEC, Budget, Context, Failure, FailureKind, Need, Outcome, Question, Steps, Task
from resolver.validate import nsec, nsec3
from resolver.validate.anchors import Anchor, Anchors
from resolver.validate.crypto_budget import (
    DS_DIGESTS,
    HashBudgetExceeded,
    ds_matches,
    signature_check,
    verified_signature_key,
)
from resolver.validate.fields import Dnskey, Ds, Rrsig
from resolver.validate.records import (
    REVOKED,
    is_expanded,
    is_timely,
    matching_keys,
    parse_dnskey,
    parse_ds,
    serial_before,
    signatures,
    signed_data,
    signer_labels,
)
from resolver.validate.security_status import (
    SECURE,
    InsecureDelegation,
    NoTrustAnchor,
    OptOutSpan,
    SecurityStatus,
    TooManyIterations,
    UnsupportedKeys,
    bogus,
    insecure,
    shows_insecure_delegation,
)
from resolver.validate.verify import ALGORITHMS, SHA1_ALGORITHMS
from resolver.verdict import VERDICT_BOGUS, VERDICT_INSECURE, VERDICT_SECURE, Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, octets_of

__all__ = ["NO_SKEW", "Chain", "apply_status"]


NO_SKEW = (0, 0)
# Result of `_ds_status` for a reply that proves nothing by itself.
_UNDECIDED = SecurityStatus(Verdict.INDETERMINATE)
# Extended errors of signatures that are expired or not yet valid by the local clock.
OUT_OF_TIME = frozenset((c.EDE_SIGNATURE_EXPIRED, c.EDE_SIGNATURE_NOT_YET_VALID))
SIGNATURES = limits.SIGNATURES_PER_RRSET
SIGNERS = limits.SIGNERS_PER_RRSET
KEYS_PER_TAG = limits.KEYS_PER_TAG
CHECKS = limits.CHECKS_PER_RRSET
KEY_SETS = limits.PARSED_KEY_SETS
KEY_OVERHEAD = limits.PARSED_KEY_OVERHEAD
KNOWN_SIGNATURES = limits.KNOWN_SIGNATURES
# Types whose sets come again with other denials; sets that answer queries are in the cache with their verdict.
REPEATED = frozenset((c.SOA, c.NSEC, c.NSEC3))
KNOWN = [True]
# Clocks may differ by one part in this many of the validity of a signature.
SKEW_PART = 10


def _rrset_text(rrset: RRset) -> str:
    return f"{names.to_text(rrset.name)} {c.type_to_text(rrset.rtype)}"


class Chain:
    """Keys and security status of zones, for one validator.

    Its state is the anchors, the parsed keys of recent zones, and a digest of each verified signature of a SOA, NSEC or
    NSEC3 set. The SOA set of a zone and the proof for its apex come with each of its denials, and whether a signature
    fits a key and data never changes. The validity period is checked each time.
    """

    def __init__(
        self,
        anchors: Anchors,
        *,
        sha1: bool,
        harden: bool = False,
        skew: tuple[int, int] = NO_SKEW,
        nsec3_iterations: int = limits.NSEC3_ITERATIONS.default,
    ) -> None:
        self.anchors = anchors
        self.nsec3_iterations = nsec3_iterations
        self.harden = harden
        self.skew = skew
        self.algorithms = ALGORITHMS if sha1 else ALGORITHMS - SHA1_ALGORITHMS
        self.parsed = BoundedDict("keys", limit=limits.PARSED_KEY_OCTETS, most=KEY_SETS)
        self._known: dict[bytes, None] = {}
        self.signatures = SizedTable(
            "signatures", most=KNOWN_SIGNATURES, size=limits.KNOWN_SIGNATURE_OCTETS, count=self._known.__len__,
            clear=self._known.clear,
        )

    def remember(self, mark: bytes) -> None:
        """Remember the signature with the digest `mark`."""
        self._known[mark] = None
        if len(self._known) > KNOWN_SIGNATURES:
            del self._known[next(iter(self._known))]

    def share(self, base: "Chain") -> None:
        """Use the tables of `base`. Their entries are found by content, which means the same to all."""
        self.parsed, self._known, self.signatures = base.parsed, base._known, base.signatures

    # --- one RRset ------------------------------------------------------------------------------------------------

    def rrset(self, task: Task, ctx: Context, rrset: RRset, question: Question) -> Steps[SecurityStatus]:
        """The security status of one RRset with its signatures, from a reply to `question`.

        It does not depend on the server that sent the set: servers of a parent often serve the child as well. Zones
        above the trust anchor cannot sign for names below it.
        """
        asked_parent = question.qtype == c.DS and names.equal(rrset.name, question.qname)
        place = names.zone_lookup_name(rrset.name, c.DS if asked_parent else rrset.rtype)
        anchor = self.anchors.closest(place, ctx.now)
        if anchor is None:
            return insecure(NoTrustAnchor(place))
        sigs = signatures(rrset, SIGNATURES)
        if not sigs:
            state = yield from self.zone_status(task, ctx, place)
            if state.verdict is VERDICT_SECURE:
                state = bogus(
                    c.EDE_RRSIGS_MISSING, f"{_rrset_text(rrset)} has no signature in a signed zone"
                )
            if state.ede == c.EDE_NSEC_MISSING:
                state = yield from self._unsigned(task, ctx, rrset, place, anchor, state)
            if task.trace is not None:
                _note_check(task, rrset, None, None, state, place)
            return state
        reason: SecurityStatus | None = None
        signers = [sigs[0].signer] if len(sigs) == 1 else list(dict.fromkeys(s.signer for s in sigs))[:SIGNERS]
        for signer in signers:
            # A signer above the anchor does not count: if its zone is unsigned, this set must not become insecure.
            if not names.is_subdomain(signer, anchor.zone) or not _may_sign(signer, rrset, question):
                reason = reason or bogus(
                    c.EDE_DNSSEC_BOGUS,
                    f"{_rrset_text(rrset)} is signed by "
                    f"{names.to_text(signer)}, which is not authoritative for it",
                )
                continue
            keys: Sequence[Dnskey] | None = self._known_keys(ctx, signer) if task.trace is None else None
            if keys is None:
                found = yield from self.keys(task, ctx, signer)
                if found.verdict is not VERDICT_SECURE:
                    if found.verdict is VERDICT_INSECURE:
                        return found
                    reason = reason or found
                    continue
                keys = found.keys
            found = yield from self._check(task, ctx, rrset, [s for s in sigs if s.signer == signer], keys)
            if found.verdict is VERDICT_SECURE:
                return found
            reason = found
        assert reason is not None
        return reason

    def _unsigned(
        self, task: Task, ctx: Context, rrset: RRset, place: bytes, anchor: Anchor, state: SecurityStatus
    ) -> Steps[SecurityStatus]:
        """The reason why a set without signatures is bogus when nothing proves that its zone is unsigned (`state`).

        The highest zone at fault gives the reason. Below a delegation, the proof is missing that it is insecure. A zone
        whose keys are bogus is the fault itself. A zone with valid keys has not signed this set. All results are bogus.
        """
        zone = place
        while zone != anchor.zone:
            if _is_ds_of_cut(ctx.store.rrsets.find(zone, c.DS, ctx.now, min_trust=0)):
                break
            zone = names.parent(zone)
        cut = ctx.store.rrsets.closest_cut(place, ctx.now)
        if cut is not None and len(cut[0]) > len(zone):
            return state
        found = yield from self.keys(task, ctx, zone)
        if found.verdict is VERDICT_BOGUS:
            return found
        if found.verdict is VERDICT_INSECURE:
            return state
        return bogus(
            c.EDE_RRSIGS_MISSING,
            f"{_rrset_text(rrset)} has no signature, and nothing proves that it needs none; {state.text}",
        )

    def _check(
        self,
        task: Task,
        ctx: Context,
        rrset: RRset,
        sigs: list[Rrsig],
        keys: Sequence[Dnskey],
        algorithms: Iterable[int] = (),
    ) -> Steps[SecurityStatus]:
        """Check the signatures of one signer until one is valid.

        With `harden`, one of each algorithm of `algorithms` and of the zone's keys must be valid (RFC 4035 section
        2.2). Zones during a rollover may fail that; by RFC 6840 section 5.11 a validator accepts any one.
        """
        wanted: set[int] = set()
        if self.harden:
            wanted.update(algorithms)
            wanted.update(k.algorithm for k in keys if k.usable and k.algorithm in self.algorithms)
        proved: SecurityStatus | None = None
        reason: SecurityStatus | None = None
        tried = 0
        for sig in sigs:
            if proved is not None and sig.algorithm not in wanted:
                continue
            fault = None if is_timely(sig, rrset, ctx.now) else self._fault(sig, rrset, ctx.now)
            candidates: list[Dnskey] = []
            if fault is not None:
                pass
            elif sig.algorithm not in self.algorithms:
                fault = bogus(
                    c.EDE_UNSUPPORTED_DNSKEY_ALGORITHM, f"{_rrset_text(rrset)}: signature of algorithm {sig.algorithm}"
                )
            else:
                candidates = matching_keys(keys, sig)
                if not candidates:
                    fault = bogus(
                        c.EDE_DNSKEY_MISSING,
                        f"{_rrset_text(rrset)}: no key {sig.tag} of algorithm {sig.algorithm} at "
                        f"{names.to_text(sig.signer)}",
                    )
            if fault is not None:
                if task.trace is not None:
                    _note_check(task, rrset, sig, None, fault, sig.signer)
                reason = reason or fault
                continue
            # KeyTrap (CVE-2023-50387): keys with the same tag times signatures; both numbers are limited.
            for key in candidates[:KEYS_PER_TAG]:
                data = signed_data(rrset, sig)
                mark = verified_signature_key(task.budget, key, sig, data) if rrset.rtype in REPEATED else None
                if mark is not None and mark in self._known:
                    del self._known[mark]  # inserted again below, as the newest
                    good = KNOWN
                else:
                    check = signature_check(task.budget, key, sig, data) if tried < CHECKS else None
                    if check is None:
                        return bogus(c.EDE_DNSSEC_BOGUS, f"{_rrset_text(rrset)}: too many signatures to check")
                    tried += 1
                    good = yield check
                if good[0]:
                    if mark is not None:
                        self.remember(mark)
                    proved = SecurityStatus(VERDICT_SECURE, signature=sig, keys=(key,))
                    if task.trace is not None:
                        _note_check(task, rrset, sig, key, proved, sig.signer)
                    wanted.discard(sig.algorithm)
                    if not wanted:
                        return proved
                    break
                reason = bogus(
                    c.EDE_DNSSEC_BOGUS,
                    f"{_rrset_text(rrset)}: the signature by key {key.tag} of {names.to_text(sig.signer)} is wrong",
                )
                if task.trace is not None:
                    _note_check(task, rrset, sig, key, reason, sig.signer)
        if reason is None:
            reason = bogus(c.EDE_DNSSEC_BOGUS, f"{_rrset_text(rrset)}: no valid signature of algorithm {min(wanted)}")
        return reason

    def _fault(self, sig: Rrsig, rrset: RRset, now: int) -> SecurityStatus | None:
        """What is wrong with the labels and times of a signature (RFC 4035 section 5.3.1); None when nothing is."""
        what = _rrset_text(rrset)
        # More labels than the owner or fewer than the signer: wildcards of other zones (CVE-2026-44690 and similar).
        if sig.labels > signer_labels(rrset.name) or sig.labels < names.label_count(sig.signer):
            return bogus(c.EDE_DNSSEC_BOGUS, f"{what}: the label count of the signature is impossible")
        now32 = now & 0xFFFFFFFF
        if serial_before(sig.expiration, sig.inception):
            return bogus(c.EDE_SIGNATURE_EXPIRED_BEFORE_VALID, f"{what}: the signature expires before it begins")
        if serial_before(sig.expiration, now32) and not self._within_skew(sig, now32 - sig.expiration & 0xFFFFFFFF):
            return bogus(
                c.EDE_SIGNATURE_EXPIRED, f"{what}: the signature expired {now32 - sig.expiration & 0xFFFFFFFF} s ago"
            )
        if serial_before(now32, sig.inception) and not self._within_skew(sig, sig.inception - now32 & 0xFFFFFFFF):
            return bogus(
                c.EDE_SIGNATURE_NOT_YET_VALID,
                f"{what}: the signature becomes valid in {sig.inception - now32 & 0xFFFFFFFF} s",
            )
        return None

    def _within_skew(self, sig: Rrsig, outside: int) -> bool:
        """Whether a signature is accepted `outside` seconds before or after its validity period.

        The clocks of signer and resolver may differ. A tenth of the validity period is tolerated (RFC 4641 section
        4.4.2), within the limits of the settings, which are 0 by default (RFC 4035 section 5.3.1 tolerates nothing).
        A signature for one hour must not be accepted for another day.
        """
        least, most = self.skew
        return outside <= min(max((sig.expiration - sig.inception & 0xFFFFFFFF) // SKEW_PART, least), most)

    # --- keys of a zone -------------------------------------------------------------------------------------------

    def keys(self, task: Task, ctx: Context, zone: bytes) -> Steps[SecurityStatus]:
        """The validated keys of `zone` (lower case): SECURE with keys, INSECURE, or BOGUS with the reason."""
        if self.anchors.closest(zone, ctx.now) is None:
            return insecure(NoTrustAnchor(zone))
        keys = self._known_keys(ctx, zone)
        if keys is not None:
            if task.trace is not None:
                task.note("keys", f"the keys of {names.to_text(zone)} were validated before and are cached", zone=zone,
                          facts={"keys": keys, "ds": (), "anchor": False, "entry": (), "cached": True})
            return SecurityStatus(VERDICT_SECURE, keys=keys)
        outcome = yield Need(Question(zone, c.DNSKEY), FOR_DNSSEC)
        failure = outcome if isinstance(outcome, Failure) else outcome.failure
        if failure is not None:
            ede = failure.ede if failure.ede > 0 else c.EDE_DNSKEY_MISSING
            if failure.kind is FailureKind.CYCLE or ede == c.EDE_NSEC_MISSING:
                # The zone has no DNSKEY set, and without keys it cannot prove that (RFC 8914 section 4.10).
                ede = c.EDE_DNSKEY_MISSING
            return bogus(ede, f"no keys of {names.to_text(zone)}: {failure.text}", failure=failure)
        # Only the first record counts: an alias shows that the name is no zone, and nothing is concluded from its
        # target or from the verdict of the target.
        first = outcome.answer[0] if outcome.answer else None
        if first is not None and first.rtype == c.DNSKEY and names.equal(first.name, zone):
            if first.verdict == VERDICT_SECURE:
                return SecurityStatus(VERDICT_SECURE, keys=self._keys_of(first))
        elif first is None and outcome.verdict != VERDICT_SECURE and outcome.verdict != VERDICT_INSECURE:
            return bogus(c.EDE_DNSSEC_INDETERMINATE, f"the keys of {names.to_text(zone)} could not be validated")
        # The name has no secure DNSKEY set. That is valid only where it is proved insecure.
        state = yield from self.zone_status(task, ctx, zone)
        if state.verdict is VERDICT_SECURE:
            return bogus(c.EDE_DNSKEY_MISSING, f"{names.to_text(zone)} has signatures but no keys")
        return state

    def _known_keys(self, ctx: Context, zone: bytes) -> tuple[Dnskey, ...] | None:
        """The keys of `zone` (lower case) when the cache has its DNSKEY set as secure."""
        known = ctx.store.rrsets.find(zone, c.DNSKEY, ctx.now, min_trust=0)
        return self._keys_of(known) if known is not None and known.verdict == VERDICT_SECURE else None

    def _keys_of(self, rrset: RRset) -> tuple[Dnskey, ...]:
        slot = rrset.packed
        known: tuple[Dnskey, ...] | None = self.parsed.entries.get(slot)
        if known is None:
            known = tuple(k for k in map(parse_dnskey, rrset.rdatas()) if k is not None)
            # Memory: the set as received, and each key again as a whole and in parts.
            self.parsed.put(slot, known, 3 * len(slot) + KEY_OVERHEAD * (len(known) + 1))
        return known

    def dnskey(self, task: Task, ctx: Context, rrset: RRset) -> Steps[SecurityStatus]:
        """Validate a DNSKEY set itself: by the anchor of its name, or by the DS set of the parent."""
        zone = names.lower(rrset.name)
        anchor = self.anchors.get(zone, ctx.now)
        if anchor is None:
            found = yield from self._ds_of(task, ctx, zone)
            if isinstance(found, SecurityStatus):
                if found.verdict is VERDICT_SECURE:
                    # No zone cut is here, so no DS set can confirm these keys.
                    return bogus(c.EDE_DNSKEY_MISSING, f"{names.to_text(zone)} has keys but is not a zone")
                return found
            anchor = Anchor(zone)
            anchor.ds = found
        usable = [d for d in anchor.ds if d.algorithm in self.algorithms and d.digest_type in DS_DIGESTS]
        trusted = [k for k in anchor.keys if k.algorithm in self.algorithms]
        if not usable and not trusted:
            return insecure(UnsupportedKeys(zone, digest=any(d.algorithm in self.algorithms for d in anchor.ds)))
        if any(d.digest_type != 1 for d in usable):
            usable = [d for d in usable if d.digest_type != 1]  # RFC 4509 section 3
        entry: list[Dnskey] = []
        missed = 0
        known = {k.rdata for k in trusted}
        by_tag: dict[tuple[int, int], list[Ds]] = {}
        for ds in usable:
            by_tag.setdefault((ds.tag, ds.algorithm), []).append(ds)
        for key in self._keys_of(rrset):
            if key.rdata in known:
                entry.append(key)
                continue
            for ds in by_tag.get((key.tag, key.algorithm), ()):
                if ds_matches(task.budget, ds, zone, key):
                    entry.append(key)
                    break
                missed += 1
                if missed > limits.DS_MISMATCHES:
                    return bogus(
                        c.EDE_DNSSEC_BOGUS, f"{names.to_text(zone)}: too many keys that no DS record matches"
                    )
        if task.trace is not None:
            tags = ", ".join(str(k.tag) for k in entry) or "none"
            task.note("keys", f"{len(rrset)} keys of {names.to_text(zone)}, vouched for: {tags}", zone=zone,
                      facts={"keys": self._keys_of(rrset), "ds": anchor.ds, "entry": tuple(entry), "cached": False,
                             "anchor": self.anchors.get(zone, ctx.now) is not None})
        entries = {k.tag for k in entry}
        sigs = [s for s in signatures(rrset, SIGNATURES) if s.signer == zone and s.tag in entries]
        fault: SecurityStatus | None = None
        if not entry:
            fault = bogus(c.EDE_DNSKEY_MISSING, f"no key of {names.to_text(zone)} matches a DS record or anchor")
        elif all(k.flags & REVOKED for k in entry):
            fault = bogus(
                c.EDE_DNSKEY_MISSING, f"the key of {names.to_text(zone)} that the DS record refers to is revoked"
            )
        elif not any(k.usable for k in entry):
            fault = bogus(
                c.EDE_NO_ZONE_KEY_BIT_SET,
                f"the key of {names.to_text(zone)} that the DS record refers to may not sign",
            )
        elif not sigs:
            fault = bogus(
                c.EDE_RRSIGS_MISSING, f"the keys of {names.to_text(zone)} are not signed by a trusted one"
            )
        if fault is not None:
            if task.trace is not None:
                _note_check(task, rrset, None, None, fault, zone)
            return fault
        listed = [d.algorithm for d in usable] + [k.algorithm for k in trusted]
        found = yield from self._check(task, ctx, rrset, sigs, entry, listed)
        if found.ede in OUT_OF_TIME and self.anchors.get(zone, ctx.now) is anchor:
            found.text += "; is the clock of this host right?"  # with a wrong clock nothing validates
        return found

    def _ds_of(self, task: Task, ctx: Context, zone: bytes) -> Steps["list[Ds] | SecurityStatus"]:
        """The validated DS set of `zone`, or its security status when it has none."""
        if self.anchors.closest(zone, ctx.now) is None:
            return insecure(NoTrustAnchor(zone))
        known = ctx.store.rrsets.find(zone, c.DS, ctx.now, min_trust=0)
        if known is not None and known.verdict != VERDICT_SECURE and known.sig_len and task.trace is None:
            # It came with a referral. It is checked here, because a sub-query would cost as much as the check.
            task.account_octets(octets_of([known]))
            found = yield from self.rrset(task, ctx, known, Question(zone, c.DS))
            if found.verdict is VERDICT_SECURE:
                known = apply_status(known, found, ctx.now)
                if _is_ds_of_cut(known):
                    ctx.store.rrsets.put(known, ctx.now)
        if known is None or not _is_ds_of_cut(known):
            outcome = yield Need(Question(zone, c.DS), FOR_DNSSEC)
            upper: bytes | SecurityStatus = names.ROOT
            if isinstance(outcome, Outcome) and outcome.failure is None and _needs_denial_proof(outcome):
                # Only the authoritative zone can deny the DS set; the zones above it show which one that is.
                upper = yield from self.authoritative_zone(task, ctx, names.parent(zone))
            state = upper if isinstance(upper, SecurityStatus) else self._ds_status(task.budget, zone, upper, outcome)
            if state is _UNDECIDED:
                state = _unproved(zone)  # the reply proves nothing, and the zones above are secure
            if task.trace is not None:
                _note_ds(task, zone, outcome, state)
            if state is not None:
                return state
            known = outcome.answer[0]
        return [d for d in map(parse_ds, known.rdatas()) if d is not None]

    def _ds_status(
        self, budget: Budget, zone: bytes, upper: bytes, outcome: Outcome | Failure
    ) -> SecurityStatus | None:
        """The security status of `zone` by a reply to a DS query; None when the reply is a validated DS set.

        `upper` is the signed zone that is authoritative for the DS set. Only its records can deny the set: records of
        its ancestors are valid too, but prove nothing about names below its apex (RFC 4035 section 5.2, RFC 5155
        section 8.9). SECURE: no zone begins at the name. INSECURE: proved by a record of the reply. `_UNDECIDED`: the
        reply
        proves nothing by itself. "Insecure" is never concluded from the verdict of the reply as a whole.
        """
        failure = outcome if isinstance(outcome, Failure) else outcome.failure
        if failure is not None:
            return bogus(
                failure.ede if failure.ede > 0 else c.EDE_DNSSEC_INDETERMINATE,
                f"no DS of {names.to_text(zone)}: {failure.text}",
                failure=failure,
            )
        assert isinstance(outcome, Outcome)
        if outcome.answer:
            # Only the first record counts: an alias shows that no zone begins here (RFC 1034 section 3.6.2).
            first = outcome.answer[0]
            if first.verdict != VERDICT_SECURE:
                # An alias from a wildcard is insecure when its proof has too many iterations. Then a denial of DS has
                # as many, and would be insecure in the same way (RFC 9276 section 3.2).
                return self._no_ds_proof(budget, zone, upper, outcome.authority, spans=False) or _UNDECIDED
            if first.rtype == c.DS and names.equal(first.name, zone):
                # Expanded from a wildcard: the name itself is proved to have no records, not even NS.
                return SECURE if is_expanded(first) else None
            if first.rtype == c.CNAME and names.equal(first.name, zone):
                return SECURE
            return SECURE if _is_ancestor_dname(first, zone) else _unproved(zone)
        if outcome.verdict != VERDICT_SECURE and outcome.verdict != VERDICT_INSECURE:
            return _unproved(zone)
        secure = outcome.verdict == VERDICT_SECURE
        proved = self._no_ds_proof(budget, zone, upper, outcome.authority, spans=not secure)
        if proved is not None:
            return proved
        return SECURE if secure else _UNDECIDED

    def _no_ds_proof(
        self, budget: Budget, zone: bytes, upper: bytes, authority: list[RRset], *, spans: bool
    ) -> SecurityStatus | None:
        """The status of `zone` by the validated records of `upper` in a reply to DS: INSECURE, or SECURE when the name
        is no delegation.

        None when no record matches the name; then the verdict of the denial decides. With `spans`, opt-out spans count
        as well; a secure denial does not depend on one.
        """
        hashed: list[nsec3.Nsec3] = []
        for rrset in authority:
            if rrset.verdict != VERDICT_SECURE or not rrset.sig_len:
                continue
            signer = signatures(rrset, 1)[0].signer  # the valid signature is the first one (`apply_status`)
            # Neither the child (RFC 6840 section 4.4) nor a zone above the parent can deny the delegation.
            if signer != upper or signer == zone:
                continue
            if rrset.rtype == c.NSEC and names.equal(rrset.name, zone):
                for plain in nsec.read(rrset, signer):
                    return insecure(InsecureDelegation(plain)) if shows_insecure_delegation(plain) else SECURE
            elif rrset.rtype == c.NSEC3:
                hashed += nsec3.read(rrset, signer)
        if not hashed:
            return None
        prover = nsec3.Prover.of(hashed, budget, most=self.nsec3_iterations)
        if prover.exceeds_iterations:
            return insecure(TooManyIterations(hashed[0], self.nsec3_iterations))
        try:
            match = prover.matching(zone)
            if match is not None:
                return insecure(InsecureDelegation(match)) if shows_insecure_delegation(match) else SECURE
            found = prover.closest_encloser(zone) if spans else None
        except HashBudgetExceeded:
            return _unproved(zone)
        if found is not None and found[1].opt_out:
            return insecure(OptOutSpan(found[1]))
        return None

    # --- zones without signatures ---------------------------------------------------------------------------------

    def zone_status(self, task: Task, ctx: Context, zone: bytes) -> Steps[SecurityStatus]:
        """Whether data at `zone` must be signed: SECURE (it must), INSECURE (proved), or BOGUS with the reason.

        `zone` (lower case) may be any name; the DS set of each name from the anchor down to it is needed.
        """
        found = yield from self.authoritative_zone(task, ctx, zone)
        return found if isinstance(found, SecurityStatus) else SECURE

    def authoritative_zone(self, task: Task, ctx: Context, name: bytes) -> Steps["bytes | SecurityStatus"]:
        """The signed zone that `name` (lower case) belongs to; else the status INSECURE (proved) or BOGUS.

        The DS set of each name from the anchor down is examined. A delegation proved insecure is remembered in the
        budget, and all names below it are insecure for the same client query: it may have very many records to check,
        and each check takes a step for each label.
        """
        anchor = self.anchors.closest(name, ctx.now)
        if anchor is None:
            return insecure(NoTrustAnchor(name))
        if not self._anchor_understood(anchor):
            return insecure(UnsupportedKeys(anchor.zone, digest=any(d.algorithm in self.algorithms for d in anchor.ds)))
        known_insecure = task.budget.insecure
        if known_insecure:
            cut = name
            while len(cut) > len(anchor.zone):
                insecure_above = known_insecure.get(cut)
                if isinstance(insecure_above, SecurityStatus):
                    return insecure_above
                cut = names.parent(cut)
        zone = anchor.zone
        for count in range(names.label_count(anchor.zone) + 1, names.label_count(name) + 1):
            cut = names.suffix(name, count)
            known = ctx.store.rrsets.find(cut, c.DS, ctx.now, min_trust=0)
            if known is not None:
                task.account_octets(octets_of([known]))
            if known is not None and _is_ds_of_cut(known):
                unknown = self._understood(known)
                if unknown is not None:
                    known_insecure[cut] = unknown
                    return unknown
                zone = cut
                continue
            outcome = yield Need(Question(cut, c.DS), FOR_DNSSEC)
            state = self._ds_status(task.budget, cut, zone, outcome)
            if state is _UNDECIDED:
                state = _unproved(cut)  # the zones above were examined and are secure
            if task.trace is not None:
                _note_ds(task, cut, outcome, state)
            if state is None:
                unknown = self._understood(outcome.answer[0])
                if unknown is not None:
                    known_insecure[cut] = unknown
                    return unknown
                zone = cut
            elif state.verdict is not VERDICT_SECURE:
                if state.verdict is VERDICT_INSECURE:
                    known_insecure[cut] = state
                    task.budget.octets += octets_of(outcome.authority)  # the budget holds its proof after this job
                return state
            elif _nothing_below(outcome, cut):
                return zone
        return zone

    def known_zone(self, ctx: Context, name: bytes) -> bytes:
        """The deepest zone at or above `name` (lower case), and not above its trust anchor, that the cache shows to be
        signed. The name may belong to a zone below it."""
        anchor = self.anchors.closest(name, ctx.now)
        top = names.ROOT if anchor is None else anchor.zone
        while len(name) > len(top):
            if _is_ds_of_cut(ctx.store.rrsets.find(name, c.DS, ctx.now, min_trust=0)):
                return name
            name = names.parent(name)
        return top

    def _understood(self, rrset: RRset) -> SecurityStatus | None:
        """None when a DS set has a supported record; else the status insecure, because none is supported."""
        readable = [d for d in map(parse_ds, rrset.rdatas()) if d is not None]
        if any(d.algorithm in self.algorithms and d.digest_type in DS_DIGESTS for d in readable):
            return None
        return insecure(UnsupportedKeys(rrset.name, digest=any(d.algorithm in self.algorithms for d in readable)))

    def _anchor_understood(self, anchor: Anchor) -> bool:
        return any(d.algorithm in self.algorithms and d.digest_type in DS_DIGESTS for d in anchor.ds) or any(
            k.algorithm in self.algorithms for k in anchor.keys
        )


def _note_check(
    task: Task, rrset: RRset, sig: Rrsig | None, key: Dnskey | None, found: SecurityStatus, zone: bytes
) -> None:
    """Add the check of a signature, or its absence, to the trace."""
    good = found.verdict is VERDICT_SECURE
    text = f"{_rrset_text(rrset)}: signed by key {key.tag} of {names.to_text(zone)}" if good and key else (
        found.text or f"{_rrset_text(rrset)} needs no signature"
    )
    task.note("check", text, zone=zone, qname=rrset.name, qtype=rrset.rtype,
              facts={"signature": sig, "key": key, "verdict": found.verdict, "ede": found.ede, "ttl": rrset.ttl})


def _note_ds(task: Task, zone: bytes, outcome: Outcome | Failure, state: SecurityStatus | None) -> None:
    """Add the result of a DS query to the trace."""
    shown = names.to_text(zone)
    answer, proofs = (outcome.answer, outcome.authority) if isinstance(outcome, Outcome) else ([], [])
    digests = [d for rrset in answer if rrset.rtype == c.DS for d in map(parse_ds, rrset.rdatas()) if d is not None]
    if state is None:
        text = f"{shown} is a signed zone: its parent has {len(digests)} DS"
    elif state.verdict is VERDICT_INSECURE:
        text = f"{shown} is an unsigned zone: its parent proves that it has no DS"
    elif state.verdict is VERDICT_SECURE:
        text = f"{shown} is not a zone"
    else:
        text = state.text
    task.note("ds", text, zone=zone, facts={
        "ds": digests, "verdict": None if state is None else state.verdict, "ede": -1 if state is None else state.ede,
        "proofs": list(proofs),
    })


def apply_status(rrset: RRset, found: SecurityStatus, now: int) -> RRset:
    """Set the verdict of a set and, when it was verified, limit its TTL by the signature (RFC 4035 section 5.3.3)."""
    signature = found.signature
    if signature is not None:
        ttl = min(rrset.ttl, signature.original_ttl, _time_left(signature, now))
        if ttl < rrset.ttl:
            rrset = rrset.with_ttl(ttl)
        if len(signature.rdata) + 2 != len(rrset.packed_sigs):
            # The valid signature goes first, because the label count of a wildcard is read from the first one.
            others = [rdata for rdata in rrset.sigs() if rdata != signature.rdata]
            rrset = rrset.with_sigs([signature.rdata, *others])
        rrset.trust = Trust.VALIDATED
    rrset.verdict = found.verdict
    return rrset


def _time_left(signature: Rrsig, now: int) -> int:
    """Seconds until a signature expires; `SKEWED_TTL` when it has expired and is accepted within the clock skew."""
    left = (signature.expiration - now) & 0xFFFFFFFF
    return left if left < 1 << 31 else limits.SKEWED_TTL


def _may_sign(signer: bytes, rrset: RRset, question: Question) -> bool:
    if not names.is_subdomain(rrset.name, signer):
        return False
    # RFC 4035 section 5.2: the parent signs a DS set or its denial. If the child could, its keys would depend on
    # themselves.
    if rrset.rtype == c.DS:
        return signer == names.ROOT or not names.equal(rrset.name, signer)
    return question.qtype != c.DS or signer == names.ROOT or not names.equal(question.qname, signer)


def _is_ds_of_cut(rrset: RRset | None) -> bool:
    """Whether this is the validated DS set of a delegation, and not one expanded from a wildcard: there the name does
    not exist, so no zone begins there (RFC 4592 section 4.6)."""
    return rrset is not None and rrset.verdict == VERDICT_SECURE and not is_expanded(rrset)


def _unproved(zone: bytes) -> SecurityStatus:
    return bogus(c.EDE_DNSSEC_INDETERMINATE, f"the DS of {names.to_text(zone)} could not be validated")


def _needs_denial_proof(outcome: Outcome) -> bool:
    """Whether a reply to a DS query has no secure answer, so that the zone of its records must be known."""
    return not outcome.answer or outcome.answer[0].verdict != VERDICT_SECURE


def _is_ancestor_dname(rrset: RRset, name: bytes) -> bool:
    """Whether `rrset` is a DNAME of an ancestor of `name`; no name below a DNAME has records of its own."""
    return rrset.rtype == c.DNAME and names.is_subdomain(name, rrset.name) and not names.equal(name, rrset.name)


def _nothing_below(outcome: Outcome, name: bytes) -> bool:
    """Whether a secure reply shows that no name below `name` exists, so that no zone can begin there."""
    if outcome.answer:
        return _is_ancestor_dname(outcome.answer[0], name)
    return outcome.rcode == c.NXDOMAIN
