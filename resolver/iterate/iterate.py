"""Iterative resolution as one generator: from the closest known zone cut to a scrubbed reply of the authoritative zone.

It follows RFC 1034 section 5.3.3: find the best servers, query them, and use the answer, follow the referral, or try
another server. All bounds of work are here or in `query_servers`: referrals, attempts at the servers of one zone, name
servers looked up in one step, and the budget of the client query, which is charged before each packet and never reset
(NXNSAttack 2020, CAMP 2024). When all servers of a cached delegation fail, it is fetched from the parent once more,
because domains change hands and servers move while parent and child disagree. The last resort is the NS set of the zone
itself, from the cache or from replies of its servers to the same client query.
"""

from resolver import limits
from resolver.effects import (
    CLIENT_PURPOSES,
    FOR_NS_ADDRESS,
    FOR_PRIMING,
    Context,
    Failure,
    FailureKind,
    Need,
    Question,
    RawReply,
    Steps,
    Task,
)
from resolver.iterate.delegation import DelegationPoint, delegations_of
from resolver.iterate.delegation_path import is_forbidden, known_path
from resolver.iterate.minimise import PROBE_TYPE, labels_to_show
from resolver.iterate.own_zone import delegation_of_copy
from resolver.iterate.query_servers import FORBIDDEN, IterationState, query_servers, without_room
from resolver.iterate.scrub import (
    RESPONSE_ANSWER,
    RESPONSE_CNAME,
    RESPONSE_NODATA,
    RESPONSE_NXDOMAIN,
    RESPONSE_REFERRAL,
    RESPONSE_YXDOMAIN,
    Scrubbed,
    glue_of,
    with_misplaced_rrsigs,
)
from resolver.verdict import TRUST_ADDITIONAL, TRUST_ANSWER, TRUST_AUTHORITY, TRUST_GLUE, TRUST_NONAUTH_ANSWER
from resolver.wire.consts import AAAA, DS, EDE_NO_REACHABLE_AUTHORITY, NOERROR, NS, NXDOMAIN, YXDOMAIN, A
from resolver.wire.name import ROOT, equal, is_subdomain, label_count, lower, parent, suffix, to_text, zone_lookup_name
from resolver.wire.rrset import PUBLIC_ZONE_LABELS, RRset, negative_ttl, octets_of

__all__ = ["iterate", "refuse_without_room"]

REFERRALS = limits.MAX_REFERRALS
EMPTY_TTL = limits.EMPTY_REPLY_TTL
PARENT_RECHECK_INTERVAL = limits.PARENT_RECHECK_INTERVAL
# Failures that the servers of another zone cannot remedy.
NO_OTHER_ZONE_HELPS = frozenset({
    FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.LOCAL_RESOURCE, FailureKind.NO_ROUTE,
    FailureKind.NO_FAMILY, FailureKind.OVERLOAD, FailureKind.POLICY, FailureKind.QUOTA,
})


def iterate(
    qname: bytes,
    qtype: int,
    context: Context,
    task: Task,
    *,
    avoid: frozenset[str] = frozenset(),
    ancestors: bool = False,
    full: bool = False,
) -> Steps[RawReply | Failure]:
    """Resolve (`qname`, `qtype`) up to the reply of one zone; the caller follows aliases that leave it.

    `avoid` are addresses that sent bogus data before and are not queried again. With `ancestors`, the reply may be a
    signed NXDOMAIN for an ancestor (`RawReply.denies_ancestor`), which the caller must validate; when it is not valid,
    he calls again with `full`, and the zone is queried for the full qname. Without `ancestors` that is done after each
    NXDOMAIN, because many servers of unsigned zones deny empty non-terminals.
    """
    delegations = delegations_of(context)
    target = lower(qname)
    place = zone_lookup_name(target, qtype)
    begin = _begin(place, context, task)
    if begin is None:
        begin = yield from _prime(place, context, task)
    search = IterationState(avoid, qname)
    first = _on_permitted_path(begin, place, context, task, search)
    if isinstance(first, Failure):
        return first
    cut: DelegationPoint = first
    total = label_count(target)
    minimising = delegations.minimising
    known, probes, whole = cut.labels, 0, full or not minimising
    if not cut.servers and task.purpose is FOR_NS_ADDRESS and _has_only_in_domain_ns(cut):
        # All name servers are in the zone itself and there is no glue: only the parent may have their addresses.
        upper = delegations.closest(target, context.now, above=cut.zone)
        if upper is not None:
            cut, known, whole = upper, upper.labels, True
    recovery = _DelegationFallback(task)
    public = False  # a forward or stub zone has failed, and the public servers are queried in its place
    for _ in range(REFERRALS):
        shown = total if whole or cut.recursive or total <= known + 1 else labels_to_show(known, total, probes)
        probing = shown < total
        if probing:
            name, rtype = suffix(qname, shown), PROBE_TYPE
            probes += 1
            if _is_known(name, context):
                known = shown
                continue
        else:
            name, rtype = qname, qtype
        found = yield from query_servers(cut, name, rtype, context, task, search, probing=probing)
        if isinstance(found, Failure):
            if found.kind in NO_OTHER_ZONE_HELPS:
                return found
            if probing and found.kind is not FailureKind.UNREACHABLE:
                # Many servers fail for minimised queries but answer the original one (RFC 9156 section 2.3).
                whole = True
                continue
            if cut.configured:
                if not cut.first:
                    return found
                begin = _begin(place, context, task, public=True)
                if begin is None:
                    begin = yield from _prime(place, context, task)
                above: bytes | None = place
                public = True
            else:
                begin = recovery.next_delegation(cut, context, task)
                if begin is None:
                    return found
                # The servers of the zone itself are below the same ones as before.
                above = parent(cut.zone) if begin.labels < cut.labels else None
            first = begin if above is None else _on_permitted_path(
                begin, above, context, task, search, public=True)
            if isinstance(first, Failure):
                return first
            cut = first
            known, whole = cut.labels, not minimising
            continue
        kind = found.kind
        recovery.forget_failed(context)
        if found.ns is not None:
            recovery.note_child_ns(found, cut, context)
        if kind is RESPONSE_REFERRAL:
            cut = _follow_referral(found, cut, context, task)
            known, whole = cut.labels, not minimising
            failed = recovery.failed
            if failed is not None and cut.zone == failed.zone and failed.same_servers(cut):
                cut.parent_confirmed_until = context.monotonic + PARENT_RECHECK_INTERVAL
                other = recovery.next_delegation(cut, context, task)
                if other is None:
                    return Failure(FailureKind.UNREACHABLE, EDE_NO_REACHABLE_AUTHORITY,
                                   f"no server of {to_text(cut.zone)} gives an answer")
                cut = other
            recovery.referred = cut.zone
        elif probing:
            if kind is RESPONSE_NXDOMAIN or kind is RESPONSE_YXDOMAIN:
                if ancestors and kind is RESPONSE_NXDOMAIN and _is_signed_denial(found):
                    return _raw(found, qname, qtype, cut, context, public=public)
                whole = True
            else:
                known = shown
                if kind is RESPONSE_NODATA and not found.alias:
                    # A denial after an alias is about the target of the alias (RFC 2308 section 2.2.1).
                    _remember_empty(found, name, context)
        else:
            return _raw(found, qname, qtype, cut, context, public=public)
    return Failure(FailureKind.BUDGET, EDE_NO_REACHABLE_AUTHORITY, "too many referrals")


def refuse_without_room(task: Task, context: Context) -> Failure | None:
    """The failure of `task`, a query of a client of which cache and policies know nothing, when `iterate` would fail at
    its first step because a quota is used up (`fetch_quota`). Nothing is sent, and no job is needed for it."""
    question = task.question
    cut = _begin(zone_lookup_name(lower(question.qname), question.qtype), context, task)
    return None if cut is None else without_room(cut, question.qname, question.qtype, context)


# --- the starting point -------------------------------------------------------------------------------------------


def _begin(place: bytes, context: Context, task: Task, *, public: bool = False) -> DelegationPoint | None:
    """The closest zone cut for `place`, configured or known; None when the servers of the root are not known."""
    delegations = delegations_of(context)
    # Priming queries go to root servers, never to a forwarder.
    configured = None if public or task.purpose is FOR_PRIMING else delegations.forward_or_stub_for(place)
    own = None if delegations.zones is None else delegation_of_copy(place, context)
    if own is not None and (configured is None or configured.labels <= own.labels):
        cut = delegations.closest(place, context.now)
        return own if cut is None or cut.labels <= own.labels else cut
    if configured is not None and configured.recursive:
        _note_cut(task, configured, "forward zone of the configuration")
        return configured
    cut = delegations.closest(place, context.now)
    if configured is not None and (cut is None or cut.labels <= configured.labels):
        _note_cut(task, configured, "stub zone of the configuration")
        return configured
    if cut is not None and task.trace is not None:
        _note_cut(task, cut, "closest known delegation")
    return cut


def _on_permitted_path(
    cut: DelegationPoint, place: bytes, context: Context, task: Task, search: IterationState, *, public: bool = False
) -> DelegationPoint | Failure:
    """The zone cut to begin with instead of `cut`, where a view has policies for name servers: the deepest one of the
    known path to `place`, when they permit the zones above it. `query_servers` asks about the zone itself."""
    if context.server_policy() is None or cut.recursive or task.purpose not in CLIENT_PURPOSES:
        return cut
    closest, path = known_path(place, context, public=public)
    for above in path:
        if above is not closest and is_forbidden(above, search.qname, context, task):
            return FORBIDDEN
    if closest.zone != cut.zone:
        _note_cut(task, closest, "deepest zone whose delegations are all from referrals, for policies of name servers")
    return closest


def _has_only_in_domain_ns(cut: DelegationPoint) -> bool:
    """Whether all name servers of a delegation without addresses are in its own zone."""
    zone = cut.zone
    return all(is_subdomain(name, zone) for name in cut.missing)


def _prime(place: bytes, context: Context, task: Task) -> Steps[DelegationPoint]:
    """The closest zone cut after a priming query to the servers of the hints (RFC 9609), else the hints."""
    delegations = delegations_of(context)
    cut: DelegationPoint | None = None
    if delegations.priming and task.purpose is not FOR_PRIMING and len(place) > 1:
        yield Need(Question(ROOT, NS), FOR_PRIMING)
        cut = delegations.closest(place, context.now)
    if cut is None:
        cut = delegations.from_hints()
        _note_cut(task, cut, "root hints")
    else:
        _note_cut(task, cut, "closest delegation after priming")
    return cut


class _DelegationFallback:
    """Fallbacks when all servers of a zone cut fail, each used once per call of `iterate`: parent and child may differ.

    1. A delegation that did not come from the parent in this call may be out of date. The servers of the closest zone
       above are queried, and when they reply, it is forgotten. Without a reply it is the best that is known: its
       servers may have failed for this client query only, which had no time or signature checks left.
    2. The NS set of the zone itself, if it names other servers: from the cache, or else from a reply of its servers
       during this client query, sub-queries included. The latter is not the answer to a query, so it is not cached.
    """

    __slots__ = ("child_ns_tried", "failed", "held", "own", "referred", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.failed: DelegationPoint | None = None
        """The zone cut for which the parent is queried again."""
        self.held = False
        """Whether it is still in the cache."""
        self.referred: bytes | None = None
        """The zone of the last referral in this call."""
        self.own: RRset | None = None
        """The NS set of the zone itself, held here because it is dropped from the cache."""
        self.child_ns_tried = False

    def note_child_ns(self, found: Scrubbed, cut: DelegationPoint, context: Context) -> None:
        """Note the NS set in a reply of a server of the zone, with a TTL that ends with the delegation."""
        ns = found.ns
        if ns is None or not found.view.aa or cut.configured or not equal(ns.name, cut.zone):
            return
        left = max(cut.expires - context.now, 0)
        glue = glue_of(found.view, ns, cut.zone, harden=delegations_of(context).harden_glue)
        self.task.child_ns[cut.zone] = (ns if ns.ttl <= left else ns.with_ttl(left), glue)
        # It is held until the client query ends.
        self.task.budget.octets += octets_of([ns, *(rrset for sets in glue.values() for rrset in sets)])

    def next_delegation(self, cut: DelegationPoint, context: Context, task: Task) -> DelegationPoint | None:
        """The zone cut to continue with; None when all fallbacks were tried."""
        zone = cut.zone
        if len(zone) == 1:
            return None
        rrsets = context.store.rrsets
        if self.own is None and not self.child_ns_tried:
            self.own = rrsets.find(zone, NS, context.now, min_trust=TRUST_AUTHORITY)
            if self.own is not None:
                task.account_octets(octets_of([self.own]))
        if self.failed is None and self.referred != zone and cut.parent_confirmed_until <= context.monotonic:
            self.failed, self.held = cut, True
            upper = delegations_of(context).closest(zone, context.now, above=zone) or delegations_of(
                context).from_hints()
            _note_cut(task, upper, f"the servers of {to_text(zone)} failed: its parent is queried again")
            return upper
        own, self.own = self.own, None
        if self.child_ns_tried:
            return None
        other: DelegationPoint
        if own is not None and lower(own.name) == zone:
            other = delegations_of(context).from_rrset(own, context.now)
        elif zone in task.child_ns:
            ns, glue = task.child_ns[zone]
            other = delegations_of(context).from_rrset(ns, context.now, glue, keep=False)
        else:
            return None
        self.child_ns_tried = True
        if cut.same_servers(other) or (self.failed is not None and self.failed.same_servers(other)):
            return None
        _note_cut(task, other, "the NS set of the zone itself")
        return other

    def forget_failed(self, context: Context) -> None:
        """A server has replied. After `failed` only zones above it are queried, so that delegation is forgotten now."""
        failed = self.failed
        if failed is None or not self.held:
            return
        self.held = False
        delegations_of(context).forget(failed.zone)
        rrsets, now = context.store.rrsets, context.now
        ns = rrsets.find(failed.zone, NS, now, min_trust=TRUST_GLUE) if context.settings.cache.max_stale_ttl else None
        rrsets.drop(failed.zone, NS)
        if ns is not None:
            # Kept as expired: policies are asked about the servers of stale data.
            rrsets.put(ns.with_ttl(1), now - 1)


def _note_cut(task: Task, cut: DelegationPoint, why: str) -> None:
    if task.trace is not None:
        task.note("cut", f"{to_text(cut.zone)} with {len(cut.servers)} addresses: {why}", zone=cut.zone,
                  facts={"why": why, "names": list(cut.names), "servers": list(cut.servers)})


# --- use of a reply -----------------------------------------------------------------------------------------------


def _follow_referral(found: Scrubbed, cut: DelegationPoint, context: Context, task: Task) -> DelegationPoint:
    """Follow a referral: store it in the cache with the trust of glue, and return its delegation point."""
    delegations = delegations_of(context)
    now = context.now
    put = context.store.rrsets.put
    ns = found.ns
    assert ns is not None
    zone = lower(ns.name)
    # When a zone is withdrawn, zones below it must not live longer, whatever their TTL (Phoenix domains, 2023).
    left = max(cut.expires - now, 0)
    if ns.ttl > left:
        ns = ns.with_ttl(left)
    glue = glue_of(found.view, ns, cut.zone, harden=delegations.harden_glue)
    ns.trust, ns.zone_labels = TRUST_GLUE, cut.labels
    put(ns, now)
    _store_glue(glue, context)
    signed = [rrset for rrset in found.ds if equal(rrset.name, zone)]
    if signed:
        # The parent is authoritative for DS, whatever the AA bit of the referral (RFC 4035 section 2.4).
        signed[0].trust = TRUST_NONAUTH_ANSWER
        signed[0].zone_labels = cut.labels
        put(signed[0], now)
    elif found.proofs:
        ttl = min(rrset.ttl for rrset in found.proofs)
        context.store.rrsets.put_negative(zone, DS, soa=None, proofs=found.proofs, ttl=ttl, verdict=0, now=now)
    below = delegations.from_rrset(ns, now, glue)
    below.referred_by = cut.labels
    if task.trace is not None:
        task.note("referral", f"{to_text(cut.zone)} refers to {to_text(zone)}: {len(below.servers)} "
                  f"addresses, {len(below.missing)} name servers without", zone=zone, server=found.server,
                  facts={"from": cut.zone, "names": list(below.names), "servers": list(below.servers), "ttl": ns.ttl,
                         "ds": signed[0] if signed else None, "proofs": list(found.proofs)})
    return below


def _store_glue(glue: dict[bytes, list[RRset]], context: Context) -> None:
    """Store addresses of name servers with the trust of glue.

    Glue does not replace data that may answer a client when it is stale (RFC 8767): glue never may, so the address
    would have no answer in an outage. The cost is that other workers get the glue from the parent again.
    """
    rrsets, now = context.store.rrsets, context.now
    longest = context.settings.cache.max_stale_ttl
    for sets in glue.values():
        for rrset in sets:
            rrset.trust = TRUST_GLUE
            held = None if not longest else rrsets.find(
                rrset.name, rrset.rtype, now, min_trust=TRUST_ADDITIONAL, stale=longest)
            if held is None or held.trust == TRUST_GLUE:
                rrsets.put(rrset, now)


def _is_known(name: bytes, context: Context) -> bool:
    """Whether the cache shows that `name` exists, so that no probe for it is needed."""
    rrsets, now = context.store.rrsets, context.now
    if rrsets.find(name, PROBE_TYPE, now, min_trust=TRUST_NONAUTH_ANSWER) is not None:
        return True
    negative = rrsets.find_negative(name, PROBE_TYPE, now)
    return negative is not None and negative.rcode == NOERROR


def _is_signed_denial(found: Scrubbed) -> bool:
    """Whether an NXDOMAIN is about the name that was queried and has signed records of denial."""
    return not found.alias and found.soa is not None and any(rrset.sig_len for rrset in found.proofs)


def _remember_empty(found: Scrubbed, name: bytes, context: Context) -> None:
    """Cache the NODATA of a probe, so that other names below need not send it again."""
    soa = found.soa
    if soa is not None:
        context.store.rrsets.put_negative(
            name, PROBE_TYPE, soa=soa, proofs=found.proofs, ttl=negative_ttl(soa), verdict=0, now=context.now
        )


def _raw(
    found: Scrubbed, qname: bytes, qtype: int, cut: DelegationPoint, context: Context, *, public: bool
) -> RawReply:
    """Convert a final reply to a `RawReply`. `public`: of public servers in place of a forward or stub zone."""
    view, kind = found.view, found.kind
    raw = RawReply(qname, qtype)
    raw.zone, raw.server, raw.aa, raw.scope = cut.zone, found.server, view.aa, found.scope
    raw.answer = found.answer
    if raw.answer and context.validator is not None:
        raw.answer = with_misplaced_rrsigs(raw.answer, [*view.authority, *view.additional])
    raw.name = found.name
    trust = TRUST_ANSWER if view.aa else TRUST_NONAUTH_ANSWER
    for rrset in raw.answer:
        rrset.trust = trust
        rrset.zone_labels = cut.labels + (PUBLIC_ZONE_LABELS if public else 0)
    if not cut.configured:
        _clamp(raw.answer, cut, context)
    if kind is RESPONSE_ANSWER:
        raw.proofs = found.proofs
        if qtype == NS and len(cut.zone) == 1 and len(qname) == 1:
            _keep_root_addresses(found, context)
    elif kind is RESPONSE_CNAME:
        raw.alias = found.name
        raw.proofs = found.proofs
    elif kind is RESPONSE_YXDOMAIN:
        raw.rcode = YXDOMAIN
        raw.proofs = found.proofs
    else:
        raw.rcode = NXDOMAIN if kind is RESPONSE_NXDOMAIN else NOERROR
        raw.denied = True
        raw.soa, raw.proofs = found.soa, found.proofs
        raw.ttl = EMPTY_TTL if raw.soa is None else negative_ttl(raw.soa)
        if raw.soa is not None and raw.soa.ttl > raw.ttl:
            raw.soa = raw.soa.with_ttl(raw.ttl)
    return raw


def _clamp(answer: list[RRset], cut: DelegationPoint, context: Context) -> None:
    """Limit TTLs in an answer of the child to the rest of its delegation's (ghost domains, CVE-2012-1192).

    This applies to its NS set, to those of zones below it, which would keep a withdrawn zone alive, and to the
    addresses of its name servers (CVE-2022-30698).
    """
    left = max(cut.expires - context.now, 0)
    rrset: RRset
    for position, rrset in enumerate(answer):
        if rrset.ttl > left and (
            (rrset.rtype == NS and is_subdomain(rrset.name, cut.zone))
            or (rrset.rtype in (A, AAAA) and lower(rrset.name) in cut.names)
        ):
            answer[position] = rrset.with_ttl(left)


def _keep_root_addresses(found: Scrubbed, context: Context) -> None:
    """Store the addresses of root servers in a priming reply, with the trust of glue (RFC 9609 section 4.2)."""
    _store_glue(glue_of(found.view, found.answer[0], ROOT, harden=True), context)
