"""The walk down the tree, as one generator: from the closest known cut to a scrubbed reply of the zone in charge.

It reads as RFC 1034 section 5.3.3 does: find the best servers, ask them, and either there is an answer, or a better
delegation, or the server is crossed off. All bounds of work are here or in `query_servers`: referrals, packets to one
zone, addresses looked up in one step, and before each packet the one budget of the client query that nothing resets
(NXNSAttack 2020, CAMP 2024). A delegation that was known before and does not work is fetched once more from its parent,
since domains are sold and servers move while child and parent still disagree; the zone's own NS set comes last, from
the cache or from what its servers said in the same resolution.
"""

from resolver import limits
from resolver.effects import Context, Failure, FailureKind, Need, Purpose, Question, RawReply, Steps, Task
from resolver.iterate.delegation import DelegationPoint, delegations_of
from resolver.iterate.minimise import PROBE_TYPE, labels_to_show
from resolver.iterate.query_servers import IterationState, query_servers
from resolver.iterate.scrub import ResponseType, Scrubbed, glue_of, with_misplaced_rrsigs
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, negative_ttl, octets_of

__all__ = ["iterate"]

REFERRALS = limits.MAX_REFERRALS
EMPTY_TTL = limits.EMPTY_REPLY_TTL
PARENT_RECHECK_INTERVAL = limits.PARENT_RECHECK_INTERVAL
# Nothing that another zone's servers could say would help against these.
NO_OTHER_ZONE_HELPS = frozenset({
    FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.LOCAL_RESOURCE, FailureKind.NO_ROUTE,
    FailureKind.NO_FAMILY, FailureKind.OVERLOAD,
})


def iterate(
    qname: bytes,
    qtype: int,
    context: Context,
    task: Task,
    *,
    avoid: frozenset[str] = frozenset(),
) -> Steps[RawReply | Failure]:
    """Resolve (`qname`, `qtype`) as far as one zone can tell; aliases that leave it are the caller's.

    `avoid` are addresses that gave bogus data before and are not asked again.
    """
    delegations = delegations_of(context)
    target = names.lower(qname)
    place = names.zone_lookup_name(target, qtype)
    begin = _begin(place, context, task)
    if begin is None:
        begin = yield from _prime(place, context, task)
    cut: DelegationPoint = begin
    search = IterationState(avoid)
    total = names.label_count(target)
    minimising = delegations.minimising
    known, probes, whole = cut.labels, 0, not minimising
    if not cut.servers and task.purpose is Purpose.NS_ADDRESS and _has_only_in_domain_ns(cut):
        # A zone's own server without glue: only the parent can know its address, and only if asked for it.
        upper = delegations.closest(target, context.now, above=cut.zone)
        if upper is not None:
            cut, known, whole = upper, upper.labels, True
    recovery = _DelegationFallback(task)
    for _ in range(REFERRALS):
        shown = total if whole or cut.recursive else labels_to_show(known, total, probes)
        probing = shown < total
        if probing:
            name, rtype = names.suffix(qname, shown), PROBE_TYPE
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
                # Many servers handle the whole name, but not a question they did not expect (RFC 9156 section 2.3).
                whole = True
                continue
            if cut.configured:
                if not cut.first:
                    return found
                begin = _begin(place, context, task, public=True)
                cut = begin if begin is not None else (yield from _prime(place, context, task))
            else:
                other = recovery.next_delegation(cut, context, task)
                if other is None:
                    return found
                cut = other
            known, whole = cut.labels, not minimising
            continue
        kind = found.kind
        if found.ns is not None:
            recovery.note_child_ns(found, cut, context)
        if kind is ResponseType.REFERRAL:
            cut = _follow_referral(found, cut, context, task)
            known, whole = cut.labels, not minimising
            failed = recovery.failed
            if failed is not None and cut.zone == failed.zone and failed.same_servers(cut):
                cut.parent_confirmed_until = context.monotonic + PARENT_RECHECK_INTERVAL
                other = recovery.next_delegation(cut, context, task)
                if other is None:
                    return Failure(FailureKind.UNREACHABLE, c.EDE_NO_REACHABLE_AUTHORITY,
                                   f"no server of {names.to_text(cut.zone)} gives an answer")
                cut = other
            recovery.referred = cut.zone
        elif probing:
            if kind is ResponseType.NXDOMAIN or kind is ResponseType.YXDOMAIN:
                whole = True
            else:
                known = shown
                if kind is ResponseType.NODATA and not found.alias:
                    # A denial after an alias speaks of the alias's target (RFC 2308 section 2.2.1).
                    _remember_empty(found, name, context)
        else:
            return _raw(found, qname, qtype, cut, context)
    return Failure(FailureKind.BUDGET, c.EDE_NO_REACHABLE_AUTHORITY, "too many referrals")


# --- where to begin -----------------------------------------------------------------------------------------------


def _begin(place: bytes, context: Context, task: Task, *, public: bool = False) -> DelegationPoint | None:
    """The closest cut for `place`, configured or known; None when not even the root's servers are known."""
    delegations = delegations_of(context)
    # The root's own servers are never a forwarder's affair.
    configured = None if public or task.purpose is Purpose.PRIMING else delegations.forward_or_stub_for(place)
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


def _has_only_in_domain_ns(cut: DelegationPoint) -> bool:
    """Whether all name servers of a cut lie inside its own zone."""
    zone = cut.zone
    return all(names.is_subdomain(name, zone) for name in cut.missing)


def _prime(place: bytes, context: Context, task: Task) -> Steps[DelegationPoint]:
    """The root, after asking the servers of the hints for the current ones (RFC 9609)."""
    delegations = delegations_of(context)
    cut: DelegationPoint | None = None
    if delegations.priming and task.purpose is not Purpose.PRIMING and len(place) > 1:
        yield Need(Question(names.ROOT, c.NS), Purpose.PRIMING)
        cut = delegations.closest(place, context.now)
    if cut is None:
        cut = delegations.from_hints()
        _note_cut(task, cut, "root hints")
    else:
        _note_cut(task, cut, "closest delegation after priming")
    return cut


class _DelegationFallback:
    """What is left to try when all servers of a cut failed, each thing once in a walk: parent and child may disagree.

    1. A delegation that this walk did not get from the parent itself may be out of date, wherever it was kept: it is
       forgotten, and the closest zone above is asked for it.
    2. What the zone says about its own servers, if it names others: from the cache, or else as one of its servers said
       in the work on this client query, be it in another sub-query. That is nobody's answer, so it is used here and
       kept nowhere.
    """

    __slots__ = ("child_ns_tried", "failed", "own", "referred", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.failed: DelegationPoint | None = None
        """The cut that the parent was asked about."""
        self.referred: bytes | None = None
        """The zone that the last referral of this walk was to."""
        self.own: RRset | None = None
        """The zone's own NS set, kept while the cache forgets it."""
        self.child_ns_tried = False

    def note_child_ns(self, found: Scrubbed, cut: DelegationPoint, context: Context) -> None:
        """Note the NS set that a server of the zone adds to its replies, no longer-lived than the delegation."""
        ns = found.ns
        if ns is None or not found.view.aa or cut.configured or not names.equal(ns.name, cut.zone):
            return
        left = max(cut.expires - context.now, 0)
        glue = glue_of(found.view, ns, cut.zone, harden=delegations_of(context).harden_glue)
        self.task.child_ns[cut.zone] = (ns if ns.ttl <= left else ns.with_ttl(left), glue)
        # It outlives the work on this question.
        self.task.budget.octets += octets_of([ns, *(rrset for sets in glue.values() for rrset in sets)])

    def next_delegation(self, cut: DelegationPoint, context: Context, task: Task) -> DelegationPoint | None:
        """The cut to go on with; None when everything was tried."""
        zone = cut.zone
        if len(zone) == 1:
            return None
        rrsets = context.store.rrsets
        if self.own is None and not self.child_ns_tried:
            self.own = rrsets.find(zone, c.NS, context.now, min_trust=Trust.AUTHORITY)
            if self.own is not None:
                task.account_octets(octets_of([self.own]))
        if self.failed is None and self.referred != zone and cut.parent_confirmed_until <= context.monotonic:
            self.failed = cut
            return _refetch_from_parent(cut, context, task)
        own, self.own = self.own, None
        if self.child_ns_tried:
            return None
        other: DelegationPoint
        if own is not None and names.lower(own.name) == zone:
            other = delegations_of(context).from_rrset(own, context.now)
        elif zone in task.child_ns:
            ns, glue = task.child_ns[zone]
            other = delegations_of(context).from_rrset(ns, context.now, glue, keep=False)
        else:
            return None
        self.child_ns_tried = True
        if cut.same_servers(other) or (self.failed is not None and self.failed.same_servers(other)):
            return None
        _note_cut(task, other, "what the zone itself says about its servers")
        return other


def _refetch_from_parent(cut: DelegationPoint, context: Context, task: Task) -> DelegationPoint:
    """The closest cut above one whose servers all failed, which is forgotten so that its parent is asked again."""
    delegations = delegations_of(context)
    delegations.forget(cut.zone)
    context.store.rrsets.drop(cut.zone, c.NS)
    upper = delegations.closest(cut.zone, context.now, above=cut.zone) or delegations.from_hints()
    _note_cut(task, upper, f"the servers of {names.to_text(cut.zone)} failed: its parent is asked for others")
    return upper


def _note_cut(task: Task, cut: DelegationPoint, why: str) -> None:
    if task.trace is not None:
        task.note("cut", f"{names.to_text(cut.zone)} with {len(cut.servers)} addresses: {why}", zone=cut.zone,
                  facts={"why": why, "names": list(cut.names), "servers": list(cut.servers)})


# --- what a reply leads to ----------------------------------------------------------------------------------------


def _follow_referral(found: Scrubbed, cut: DelegationPoint, context: Context, task: Task) -> DelegationPoint:
    """Follow a referral: keep it in the cache as untrusted, and go on with its servers."""
    delegations = delegations_of(context)
    now = context.now
    put = context.store.rrsets.put
    ns = found.ns
    assert ns is not None
    zone = names.lower(ns.name)
    # A zone that is taken away takes what is below it along, however long that was promised (Phoenix domains, 2023).
    left = max(cut.expires - now, 0)
    if ns.ttl > left:
        ns = ns.with_ttl(left)
    glue = glue_of(found.view, ns, cut.zone, harden=delegations.harden_glue)
    ns.trust = Trust.GLUE
    put(ns, now)
    for sets in glue.values():
        for rrset in sets:
            rrset.trust = Trust.GLUE
            put(rrset, now)
    signed = [rrset for rrset in found.ds if names.equal(rrset.name, zone)]
    if signed:
        # The parent is the one authority for DS, whatever the AA bit of a referral says (RFC 4035 section 2.4).
        signed[0].trust = Trust.NONAUTH_ANSWER
        put(signed[0], now)
    elif found.proofs:
        ttl = min(rrset.ttl for rrset in found.proofs)
        context.store.rrsets.put_negative(zone, c.DS, soa=None, proofs=found.proofs, ttl=ttl, verdict=0, now=now)
    below = delegations.from_rrset(ns, now, glue)
    if task.trace is not None:
        task.note("referral", f"{names.to_text(cut.zone)} refers to {names.to_text(zone)}: {len(below.servers)} "
                  f"addresses, {len(below.missing)} name servers without", zone=zone, server=found.server,
                  facts={"from": cut.zone, "names": list(below.names), "servers": list(below.servers), "ttl": ns.ttl,
                         "ds": signed[0] if signed else None, "proofs": list(found.proofs)})
    return below


def _is_known(name: bytes, context: Context) -> bool:
    """Whether the cache shows that `name` exists, so that a probe for it can be saved."""
    rrsets, now = context.store.rrsets, context.now
    if rrsets.find(name, PROBE_TYPE, now, min_trust=Trust.NONAUTH_ANSWER) is not None:
        return True
    negative = rrsets.find_negative(name, PROBE_TYPE, now)
    return negative is not None and negative.rcode == c.NOERROR


def _remember_empty(found: Scrubbed, name: bytes, context: Context) -> None:
    """A probe's NODATA saves the same probe for the next name below."""
    soa = found.soa
    if soa is not None:
        context.store.rrsets.put_negative(
            name, PROBE_TYPE, soa=soa, proofs=found.proofs, ttl=negative_ttl(soa), verdict=0, now=context.now
        )


def _raw(found: Scrubbed, qname: bytes, qtype: int, cut: DelegationPoint, context: Context) -> RawReply:
    """Shape a final reply for validation and store."""
    view, kind = found.view, found.kind
    raw = RawReply(qname, qtype)
    raw.zone, raw.server, raw.aa = cut.zone, found.server, view.aa
    raw.answer = found.answer
    if raw.answer and context.validator is not None:
        raw.answer = with_misplaced_rrsigs(raw.answer, [*view.authority, *view.additional])
    raw.name = found.name
    trust = Trust.ANSWER if view.aa else Trust.NONAUTH_ANSWER
    for rrset in raw.answer:
        rrset.trust = trust
    if not cut.configured:
        _clamp(raw.answer, cut, context)
    if kind is ResponseType.ANSWER:
        raw.proofs = found.proofs
        if qtype == c.NS and len(cut.zone) == 1 and len(qname) == 1:
            _keep_root_addresses(found, context)
    elif kind is ResponseType.CNAME:
        raw.alias = found.name
        raw.proofs = found.proofs
    elif kind is ResponseType.YXDOMAIN:
        raw.rcode = c.YXDOMAIN
        raw.proofs = found.proofs
    else:
        raw.rcode = c.NXDOMAIN if kind is ResponseType.NXDOMAIN else c.NOERROR
        raw.denied = True
        raw.soa, raw.proofs = found.soa, found.proofs
        raw.ttl = EMPTY_TTL if raw.soa is None else negative_ttl(raw.soa)
        if raw.soa is not None and raw.soa.ttl > raw.ttl:
            raw.soa = raw.soa.with_ttl(raw.ttl)
    return raw


def _clamp(answer: list[RRset], cut: DelegationPoint, context: Context) -> None:
    """Never let the child say that its delegation lives longer than the parent did (ghost domains, CVE-2012-1192).

    That holds for its NS set, for those of zones below it, which would keep a withdrawn one alive, and as much for the
    addresses of its name servers (CVE-2022-30698).
    """
    left = max(cut.expires - context.now, 0)
    for position, rrset in enumerate(answer):
        if rrset.ttl > left and (
            (rrset.rtype == c.NS and names.is_subdomain(rrset.name, cut.zone))
            or (rrset.rtype in (c.A, c.AAAA) and names.lower(rrset.name) in cut.names)
        ):
            answer[position] = rrset.with_ttl(left)


def _keep_root_addresses(found: Scrubbed, context: Context) -> None:
    """A priming reply brings the root servers' addresses; they are glue as any other (RFC 9609 section 4.2)."""
    ns = found.answer[0]
    for sets in glue_of(found.view, ns, names.ROOT, harden=True).values():
        for rrset in sets:
            rrset.trust = Trust.GLUE
            context.store.rrsets.put(rrset, context.now)
