"""The verdict of one raw reply: positive answers, wildcards, alias chains and denials (RFC 4035 section 5).

`Validator.validate` is a generator that yields `Need` and `Verify` and returns verdict and reason.

Invariants: the verdict of a reply is the lowest of its parts, and a part without proof is bogus unless the chain of
trust proves its zone insecure. After validation each RRset has its own verdict and a TTL within its signature's
validity. Data that depends on other records (a denial, a CNAME made from a DNAME) has no longer TTL than any of them.
Caches store the reply with these TTLs, and an expanded wildcard with that of its proof, which needs no validation; only
the operator's minimum raises those of data that is not secure.
"""

from collections.abc import Iterable

from resolver import limits
from resolver.cache.bounded import MemoryTable
from resolver.effects import Context, Question, RawReply, Steps, Task
from resolver.settings import Settings
from resolver.validate import nsec, nsec3
from resolver.validate.aggressive import AggressiveNsec
from resolver.validate.anchors import Anchors
from resolver.validate.chain import NO_SKEW, Chain, apply_status
from resolver.validate.crypto_budget import HashBudgetExceeded
from resolver.validate.fields import Rrsig
from resolver.validate.records import is_expanded, signatures, signer_labels
from resolver.validate.security_status import (
    SECURE,
    NoTrustAnchor,
    NotSignable,
    OptOutSpan,
    SecurityStatus,
    TooManyIterations,
    bogus,
    insecure,
)
from resolver.validate.sentinel import Sentinel
from resolver.validate.verify import loaded
from resolver.verdict import VERDICT_BOGUS, VERDICT_INDETERMINATE, VERDICT_INSECURE, VERDICT_SECURE, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, negative_ttl

__all__ = ["Validator", "create"]


class _Denials:
    """The verified NSEC and NSEC3 records of a reply; `sets` are their RRsets with the signer of each."""

    def __init__(self) -> None:
        self.nsec: list[nsec.Nsec] = []
        self.nsec3: list[nsec3.Nsec3] = []
        self.sets: list[tuple[RRset, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.sets)

    def add(self, rrset: RRset, signature: Rrsig) -> None:
        self.sets.append((rrset, signature.signer))
        if rrset.rtype == c.NSEC:
            self.nsec += nsec.read(rrset, signature.signer)
        else:
            self.nsec3 += nsec3.read(rrset, signature.signer)


def _limit_ttls(raw: RawReply) -> None:
    """Limit the TTL of a denial to the lowest of its proofs and to TTL and MINIMUM of its SOA (RFC 2308 section 5,
    RFC 9077)."""
    if not raw.denied:
        return
    proofs = [rrset.ttl for rrset in raw.proofs if rrset.verdict == VERDICT_SECURE]
    ttl = min(raw.ttl, min(proofs, default=raw.ttl))
    if raw.soa is not None:
        ttl = min(ttl, negative_ttl(raw.soa))
        raw.soa = raw.soa.with_ttl(ttl)
    raw.ttl = ttl
    raw.proofs = [rrset if rrset.ttl <= ttl else rrset.with_ttl(ttl) for rrset in raw.proofs]


class Validator:
    """Validates replies with the trust anchors of one configuration."""

    def __init__(
        self,
        anchors: Anchors,
        *,
        sha1: bool = True,
        nsec3_iterations: int = limits.NSEC3_ITERATIONS.default,
        aggressive: bool = True,
        harden: bool = False,
        skew: tuple[int, int] = NO_SKEW,
    ) -> None:
        self.nsec3_iterations = nsec3_iterations
        self.anchors = anchors
        self.chain = Chain(anchors, sha1=sha1, harden=harden, skew=skew, nsec3_iterations=nsec3_iterations)
        self.tables: tuple[MemoryTable, ...] = (self.chain.parsed, loaded, self.chain.signatures)
        """Tables that remote parties can fill, with limits in octets."""
        self.sentinel = Sentinel(anchors)
        self.aggressive_nsec = AggressiveNsec(anchors, nsec3_iterations=nsec3_iterations) if aggressive else None

    def validates(self, name: bytes, now: int) -> bool:
        """Whether a trust anchor applies to `name` at the time `now`, and no negative one."""
        return self.anchors.closest(name, now) is not None

    def validate(
        self, question: Question, raw: RawReply, context: Context, task: Task
    ) -> Steps[tuple[Verdict, int, str]]:
        """Validate one scrubbed reply; returns its verdict, the Extended DNS Error (0: none) and a sentence.

        INDETERMINATE: a part of the chain of trust could not be obtained (RFC 4035 section 4.3). Verdicts and TTLs of
        the sets of `raw` are set.
        """
        try:
            found = yield from self._validate_reply(question, raw, context, task)
        except HashBudgetExceeded:
            found = bogus(c.EDE_DNSSEC_BOGUS, "the proof needs too many NSEC3 hashes or digests of keys")
        if found.verdict is not VERDICT_BOGUS:
            _limit_ttls(raw)
            self._store_denials(raw, context)
        verdict = VERDICT_INDETERMINATE if found.open else found.verdict
        return verdict, max(found.ede, 0), found.text

    def _validate_reply(self, question: Question, raw: RawReply, context: Context, task: Task) -> Steps[SecurityStatus]:
        chain = self.chain
        worst = SECURE
        wildcards: list[tuple[RRset, bytes, bytes]] = []
        # The last owner with an unsigned set that is insecure, and that status. A reply to ANY may have thousands of
        # sets of one owner, and the status takes a step for each label.
        owner, unsigned = b"", SECURE
        for at, rrset in enumerate(raw.answer):
            dname = raw.dname_of(rrset)
            if dname is not None:
                found = self._made_from(dname, rrset.name, context.now)
                worst = _min_status(worst, found)
                if found.verdict is VERDICT_BOGUS:
                    return found
                # `dname_of` returns only a DNAME that precedes the CNAME, so it has been validated.
                rrset = raw.answer[at] = rrset.with_ttl(min(rrset.ttl, dname.ttl))
                rrset.verdict, rrset.trust = min(dname.verdict, found.verdict), dname.trust
                continue
            if rrset.rtype == c.RRSIG:
                found = insecure(NotSignable())  # signatures are not signed (RFC 4035 section 2.2)
            elif rrset.rtype == c.DNSKEY and question.qtype == c.DNSKEY and rrset.sig_len:
                found = yield from chain.dnskey(task, context, rrset)
            elif rrset.name == owner and not rrset.sig_len and rrset.rtype != c.DS:
                found = unsigned
            else:
                found = yield from chain.rrset(task, context, rrset, question)
                if (found.verdict is VERDICT_INSECURE and not rrset.sig_len and task.trace is None
                        and c.DS not in (rrset.rtype, question.qtype)):
                    owner, unsigned = rrset.name, found
            worst = _min_status(worst, found)
            if found.verdict is VERDICT_BOGUS:
                return found
            rrset = raw.answer[at] = apply_status(rrset, found, context.now)
            signature = found.signature
            if signature is not None and signature.labels < signer_labels(rrset.name):
                if rrset.rtype == c.DNAME:
                    # A DNAME at a wildcard has no defined meaning (RFC 4592 section 4.4).
                    return bogus(c.EDE_DNSSEC_BOGUS, f"{names.to_text(rrset.name)} DNAME comes from a wildcard")
                wildcards.append((rrset, names.suffix(names.lower(rrset.name), signature.labels), signature.signer))
        if not raw.denied and not wildcards:
            if raw.alias is not None and raw.proofs:
                # With an alias into a delegation of the same zone often comes the denial of its DS set.
                yield from self._denials(task, context, raw, question)
            if worst.verdict is VERDICT_SECURE:
                # A secure answer is not given with records that were not verified.
                raw.proofs = [rrset for rrset in raw.proofs if rrset.verdict == VERDICT_SECURE]
            if raw.rcode == c.YXDOMAIN:
                for rrset in raw.answer:
                    if rrset.rtype == c.DNAME and names.is_subdomain(raw.name, rrset.name):
                        worst = _min_status(worst, self._made_from(rrset, raw.name, context.now))
                return _min_status(worst, insecure(NotSignable()))  # the DNAME is signed, the response code is not
            return worst
        validated = self.validates(names.zone_lookup_name(raw.name, question.qtype), context.now)
        if not validated and not wildcards:
            return _min_status(worst, _all_of(raw.authority, insecure(NoTrustAnchor(raw.name))))
        denials, reason = yield from self._denials(task, context, raw, question)
        if wildcards and not denials:
            return reason  # whatever the last name of the reply is: an expansion needs a proof of its own
        for rrset, encloser, signer in wildcards:
            # An alias in answer to a DS query belongs to the parent zone, as the DS set would.
            qtype = c.DS if question.qtype == c.DS and names.equal(rrset.name, question.qname) else 0
            found = yield from self._check_wildcard_expansion(
                task, context, denials, names.lower(rrset.name), qtype, encloser, signer
            )
            if task.trace is not None:
                _note_proof(task, denials, f"{names.to_text(rrset.name)} was made from "
                            f"*.{names.to_text(encloser)}", found, rrset.name, rrset.rtype)
            # With opt-out the expansion is not proved (RFC 5155 section 9.2); the cache stores the set as insecure.
            rrset.verdict = min(rrset.verdict, found.verdict)
            worst = _min_status(worst, found)
        if not raw.denied:
            return worst
        if not validated:
            return _min_status(worst, _all_of(raw.authority, insecure(NoTrustAnchor(raw.name))))
        if not denials:
            return (yield from self._bogus_unless_insecure(task, context, raw, question, denials, reason, worst))
        # A zone above the trust anchor of the name may deny it, as in Unbound: the zone of the anchor may have ended.
        found = yield from self._denial(task, context, denials, raw, question.qtype)
        if found.verdict is VERDICT_INSECURE and not self._below_anchor(denials, raw.name, question.qtype, context.now):
            # An opt-out span of such a zone says only that there may be a delegation without DS (RFC 5155 section 6),
            # as that of the anchor's zone may be. Anyone could deny its names with public records of the parent.
            found = bogus(c.EDE_NSEC_MISSING, "a zone above the trust anchor of the name does not prove the denial")
        if task.trace is not None:
            what = "does not exist" if raw.rcode == c.NXDOMAIN else f"has no {c.type_to_text(question.qtype)}"
            _note_proof(task, denials, f"{names.to_text(raw.name)} {what}", found, raw.name, question.qtype)
        if found.verdict is VERDICT_BOGUS:
            return (yield from self._bogus_unless_insecure(task, context, raw, question, denials, found, worst))
        if raw.soa is not None:
            soa = yield from chain.rrset(task, context, raw.soa, question)
            if soa.verdict is VERDICT_BOGUS:
                return soa
            found = _min_status(found, soa)
            raw.soa = apply_status(raw.soa, soa, context.now)
        return _min_status(worst, found)

    def _below_anchor(self, denials: _Denials, name: bytes, qtype: int, now: int) -> bool:
        """Whether all signers of `denials` are at or below the trust anchor that applies to the denied name."""
        anchor = self.anchors.closest(names.zone_lookup_name(name, qtype), now)
        return anchor is None or all(names.is_subdomain(signer, anchor.zone) for _, signer in denials.sets)

    def shares_anchor(self, name: bytes, other: bytes, now: int) -> bool:
        """Whether the same trust anchor applies to both names at the time `now`, or none to either."""
        return self.anchors.closest(name, now) is self.anchors.closest(other, now)

    def _made_from(self, dname: RRset, name: bytes, now: int) -> SecurityStatus:
        """What the alias of `name`, which `dname` makes, is besides the status of `dname`: secure, unless another trust
        anchor applies to `name`. Zones above that one cannot sign for names below it (`Chain.rrset`)."""
        if self.shares_anchor(name, dname.name, now):
            return SECURE
        if not self.validates(name, now):
            return insecure(NoTrustAnchor(name))
        return bogus(
            c.EDE_DNSSEC_BOGUS,
            f"{names.to_text(dname.name)} DNAME is not below the trust anchor of {names.to_text(name)}",
        )

    def _bogus_unless_insecure(
        self,
        task: Task,
        context: Context,
        raw: RawReply,
        question: Question,
        denials: _Denials,
        reason: SecurityStatus,
        worst: SecurityStatus,
    ) -> Steps[SecurityStatus]:
        """The status of a denial without a valid proof: bogus for `reason`, unless the name is in an insecure zone.

        If the reply has a verified record of the zone of its SOA, or of one below, that zone is signed and its proof
        must be complete. Otherwise an incomplete proof would be accepted for every name in an opt-out span.
        """
        apex = names.ROOT if raw.soa is None else names.lower(raw.soa.name)
        if raw.denied and not any(names.is_subdomain(zone, apex) for _, zone in denials.sets):
            state = yield from self.chain.zone_status(task, context, names.zone_lookup_name(raw.name, question.qtype))
            if state.verdict is VERDICT_INSECURE:
                return _min_status(worst, _all_of(raw.authority, state))
            if state.verdict is VERDICT_BOGUS:
                return state
        return reason

    # --- denials --------------------------------------------------------------------------------------------------

    def _denials(
        self, task: Task, context: Context, raw: RawReply, question: Question
    ) -> Steps[tuple[_Denials, SecurityStatus]]:
        """Verify the proofs of `raw`; returns those that are secure and, when none is, the reason.

        Records that are not secure prove nothing: anyone can forge those of an unsigned zone.
        """
        denials = _Denials()
        if sum(map(len, raw.proofs)) > limits.DENIAL_RRSETS:  # valid NSEC and NSEC3 sets have one record each
            return denials, bogus(c.EDE_DNSSEC_BOGUS, "too many records of denial")
        reason: SecurityStatus | None = None
        kept = []
        for rrset in raw.proofs:
            if not rrset.sig_len:
                continue
            found = yield from self.chain.rrset(task, context, rrset, question)
            if found.verdict is VERDICT_SECURE and found.signature is not None:
                rrset = apply_status(rrset, found, context.now)
                if is_expanded(rrset):
                    continue  # it is valid at the wildcard only, and proves nothing here
                kept.append(rrset)
                denials.add(rrset, found.signature)
            elif reason is None and found.verdict is VERDICT_BOGUS:
                reason = found  # the other records may be sufficient
        if denials:
            raw.proofs = kept
            return denials, SECURE
        if reason is None:
            text = f"the denial of {names.to_text(raw.name)} has no proof"
            reason = bogus(c.EDE_NSEC_MISSING, text)
        return denials, reason

    @staticmethod
    def _store_denials(raw: RawReply, context: Context) -> None:
        """Store verified denials for use with other names (RFC 8198), with the TTLs that `_limit_ttls` set."""
        index = context.store.denials
        if index is None or raw.scope is not None:
            return  # what is for some clients only must not deny other names to all
        for rrset in raw.proofs:
            if rrset.verdict == VERDICT_SECURE and not is_expanded(rrset):
                index.add(signatures(rrset, 1)[0].signer, rrset, context.now)
        if raw.soa is not None and raw.soa.verdict == VERDICT_SECURE:
            index.add_soa(raw.soa, context.now)

    def _prover(
        self, task: Task, denials: _Denials, name: bytes, qtype: int, *, zone: bytes | None = None
    ) -> nsec3.Prover | None:
        """A prover with the NSEC3 records of the closest zone at or above `name`, or of `zone`; None without any."""
        place = names.zone_lookup_name(name, qtype)
        zones = {r.zone for r in denials.nsec3 if names.is_subdomain(place, r.zone) and zone in (None, r.zone)}
        if not zones:
            return None
        # Records of a zone that does not enclose the name do not count, nor do their iterations (CVE-2026-10723).
        zone = max(zones, key=len)
        return nsec3.Prover.of(
            [r for r in denials.nsec3 if r.zone == zone], task.budget, most=self.nsec3_iterations
        )

    def _over_iteration_limit(
        self, task: Task, context: Context, prover: nsec3.Prover, name: bytes, qtype: int
    ) -> Steps[SecurityStatus]:
        """The status of a name whose denial has too many iterations (RFC 9276 section 3.2).

        It is insecure when the zone of the records is authoritative for the name. Otherwise it is bogus: records of an
        ancestor are valid too, and an on-path attacker can send them for a name below a secure delegation.
        """
        place = names.zone_lookup_name(name, qtype)
        found = yield from self.chain.authoritative_zone(task, context, place)
        if isinstance(found, SecurityStatus):
            if not found.open:
                return found
            # When the zones above the name cannot be queried (`open`), the record is accepted, unless a zone below its
            # own is known to be signed. An attacker who can block these queries could as well answer them with records
            # of `prover.zone`, which would make the name insecure.
            known = self.chain.known_zone(context, place)
            found = known if len(known) > len(prover.zone) else prover.zone
        if found == prover.zone:
            return insecure(TooManyIterations(prover.records[0], self.nsec3_iterations))
        return bogus(
            c.EDE_NSEC_MISSING,
            f"{names.to_text(name)} is in {names.to_text(found)}, but the denial is by {names.to_text(prover.zone)}",
        )

    def _denial(
        self, task: Task, context: Context, denials: _Denials, raw: RawReply, qtype: int
    ) -> Steps[SecurityStatus]:
        """The status of the proof that the last name of `raw`, or its `qtype`, does not exist.

        An NXDOMAIN becomes NOERROR when the name is proved to exist without data, because some servers send NXDOMAIN
        for empty non-terminals.
        """
        final = names.lower(raw.name)
        proves_nxdomain = raw.rcode == c.NXDOMAIN
        if proves_nxdomain and nsec.proves_nxdomain(denials.nsec, final):
            return SECURE
        if nsec.proves_nodata(denials.nsec, final, qtype):
            raw.rcode = c.NOERROR
            return SECURE
        prover = self._prover(task, denials, final, qtype)
        if prover is not None:
            if prover.exceeds_iterations:
                return (yield from self._over_iteration_limit(task, context, prover, final, qtype))
            proved, opt_out = prover.proves_nxdomain(final) if proves_nxdomain else (False, None)
            if not proved:
                proved, opt_out = prover.proves_nodata(final, qtype)
                if proves_nxdomain and opt_out is not None:
                    proved = False  # an opt-out span does not prove NXDOMAIN, and a wildcard is not denied
                elif proved:
                    raw.rcode = c.NOERROR
            if proved:
                return SECURE if opt_out is None else insecure(OptOutSpan(opt_out))
        what = "does not exist" if proves_nxdomain else "has no data"
        text = f"nothing proves that {names.to_text(final)} {c.type_to_text(qtype)} {what}"
        return bogus(c.EDE_NSEC_MISSING, text)

    def _check_wildcard_expansion(
        self, task: Task, context: Context, denials: _Denials, owner: bytes, qtype: int, encloser: bytes, signer: bytes
    ) -> Steps[SecurityStatus]:
        """The status of the proof that no name closer than the wildcard of `signer` exists for `owner`.

        Only records of the wildcard's own zone prove that: another zone proves nothing about names above its apex.
        """
        if nsec.proves_wildcard_expansion([r for r in denials.nsec if r.zone == signer], owner, encloser):
            return SECURE
        prover = self._prover(task, denials, owner, 0, zone=signer)
        if prover is not None:
            if prover.exceeds_iterations:
                return (yield from self._over_iteration_limit(task, context, prover, owner, qtype))
            proved, opt_out = prover.proves_wildcard_expansion(owner, encloser)
            if proved:
                return SECURE if opt_out is None else insecure(OptOutSpan(opt_out))
        return bogus(
            c.EDE_NSEC_MISSING,
            f"nothing proves that *.{names.to_text(encloser)} may answer for {names.to_text(owner)}",
        )


def _note_proof(task: Task, denials: _Denials, what: str, found: SecurityStatus, name: bytes, qtype: int) -> None:
    """Add a proof and its records to the trace."""
    good = found.verdict is not VERDICT_BOGUS
    task.note("proof", f"{what}: {'proved' if good else 'not proved'} by {len(denials.sets)} records", qname=name,
              qtype=qtype, zone=denials.sets[0][1] if denials else None,
              facts={"what": what, "verdict": found.verdict, "ede": found.ede, "text": found.text,
                     "records": [rrset for rrset, _ in denials.sets]})


def _all_of(rrsets: list[RRset], found: SecurityStatus) -> SecurityStatus:
    """Give all sets of a denial the verdict of `found`; returns `found`."""
    for rrset in rrsets:
        rrset.verdict = found.verdict
    return found


def _min_status(a: SecurityStatus, b: SecurityStatus) -> SecurityStatus:
    return b if b.verdict < a.verdict else a


def create(settings: Settings, base: Validator | None = None, negative: Iterable[str] = ()) -> Validator | None:
    """The validator of a configuration; None without validation. With `base`, it has the trust anchors of that one, and
    the negative trust anchors `negative` besides.

    Raises:
        ValueError: a trust anchor or a name is invalid.
    """
    if not settings.dnssec.active:
        return None
    if base is None:
        anchors = Anchors(settings.dnssec.trust_anchors, settings.dnssec.negative_trust_anchors)
    else:
        anchors = base.anchors.with_negative(negative)
    made = Validator(
        anchors,
        sha1=settings.dnssec.accept_sha1,
        nsec3_iterations=settings.dnssec.nsec3_max_iterations,
        aggressive=settings.cache.aggressive_nsec,
        harden=settings.dnssec.harden_algorithm_downgrade,
        skew=(int(settings.dnssec.signature_skew_min), int(settings.dnssec.signature_skew_max)),
    )
    if base is not None:
        made.chain.share(base.chain)
        made.tables = ()
    return made
