"""The policies for name servers: which zones they are asked about for a name.

Invariant: a client gets no data of a name unless its policies permit the servers of *every* zone on the delegation
path to it, from the root down, whatever is cached. Otherwise a zone below a forbidden one is free as soon as its
delegation is known, and anyone can make it known: addresses of name servers are looked up without these policies.
`iterate` keeps the invariant for what is queried (where it begins, and for each referral), `resolve` for cached data,
also stale data.

So that the path is the same for all queries, each of its zones is known by a referral of the one above (RFC 1034
section 4.3.2), with the name servers and the glue of that referral. A delegation that was made from cached RRsets is
none: the zone itself may have replaced its NS set or addresses, and zones between it and the next known one may be
missing. Its parent is queried for a referral instead. That is one packet for each zone, in each worker, while the
delegation lives, and only where a view has such policies. A path is found by one look-up for each label.

The path begins at a forward or stub zone, or at the zone of an own copy, because the operator chose these servers.
"""

from __future__ import annotations

from resolver.effects import CLIENT_PURPOSES, Context, Question, Task
from resolver.iterate.delegation import DelegationPoint, delegations_of
from resolver.iterate.own_zone import delegation_of_copy
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["is_forbidden", "known_path", "last_known_path"]


def known_path(
    name: bytes, context: Context, *, public: bool = False
) -> tuple[DelegationPoint, list[DelegationPoint]]:
    """The deepest zone of the known path to `name` (lower case), and the zones of it whose servers remote parties
    chose, from the top. With `public`, forward and stub zones do not count."""
    delegations, now = delegations_of(context), context.now
    top = _chosen_by_operator(name, context, public=public)
    cut = top if top is not None else delegations.closest(names.ROOT, now) or delegations.from_hints()
    path = [] if top is not None else [cut]
    if cut.recursive:
        return cut, path
    known = delegations.delegations.entries
    for labels in range(cut.labels + 1, names.label_count(name) + 1):
        if not cut.servers and cut is not top:
            break  # nothing below can be from these servers
        below: DelegationPoint | None = known.get(names.suffix(name, labels))
        if below is not None and below.until > now and below.referred_by == cut.labels:
            cut = below
            path.append(cut)
    return cut, path


def last_known_path(
    zone: bytes, context: Context, stale: int, *, public: bool = False
) -> list[DelegationPoint] | None:
    """The path to `zone` (lower case), from what is cached or expired less than `stale` seconds ago. None when a zone
    or its servers are missing. It tells who served stale data, and is not for queries."""
    delegations = delegations_of(context)
    top = _chosen_by_operator(zone, context, public=public)
    path: list[DelegationPoint] = []
    while top is None or names.label_count(zone) > top.labels:
        ns = context.store.rrsets.find(zone, c.NS, context.now, min_trust=Trust.GLUE, stale=stale)
        is_root = len(zone) == 1
        if ns is None and not is_root:
            return None
        cut = delegations.from_hints() if ns is None else delegations.from_rrset(
            ns, context.now, keep=False, stale=stale)
        path.append(cut)
        if not cut.servers:
            return None
        if is_root:
            break
        if ns is None or ns.trust != Trust.GLUE or ns.zone_labels >= cut.labels:
            return None  # not from a referral, so the zone above is not known
        zone = names.suffix(zone, ns.zone_labels)
    return path[::-1]


def _chosen_by_operator(name: bytes, context: Context, *, public: bool = False) -> DelegationPoint | None:
    """The forward or stub zone, or the own copy of a zone, at which the path to `name` begins; None: at the root."""
    delegations = delegations_of(context)
    configured = None if public else delegations.forward_or_stub_for(name)
    own = None if delegations.zones is None else delegation_of_copy(name, context)
    return own if own is not None and (configured is None or configured.labels <= own.labels) else configured


def is_forbidden(cut: DelegationPoint, qname: bytes, context: Context, task: Task) -> bool:
    """Whether a policy answers instead of the servers of the zone; then `Task.answered` has its answer.

    The policy applies to the servers of a client's name and of the targets of its aliases, not to those of sub-queries,
    which other views share. A forward or stub zone has no servers that a remote party chose.
    """
    policy = context.server_policy()
    if policy is None or cut.configured or task.purpose not in CLIENT_PURPOSES:
        return False
    task.answered = policy(Question(qname, task.question.qtype), cut.zone, cut.names, cut.servers)
    return task.answered is not None
