"""Zones of which this server has a copy, in place of the servers of those zones (RFC 8806).

The copy gives a whole message, which passes the same checks and the same validation as one of a server. A copy whose
data is bogus is not used a second time for the same query: its own entry is added to the list of addresses to avoid, so
the servers of the zone are queried next.
"""

from resolver.effects import Context, Server, Task
from resolver.iterate.classify import classify
from resolver.iterate.delegation import DelegationPoint, delegations_of
from resolver.iterate.scrub import ResponseType, Scrubbed, scrub
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["COPY", "ask_copy", "delegation_of_copy"]

COPY = Server("own copy of the zone", 0)
UNUSABLE = frozenset({ResponseType.THROWAWAY, ResponseType.LAME})


def delegation_of_copy(name: bytes, context: Context) -> DelegationPoint | None:
    """The delegation point of the deepest zone with a usable copy at or above `name` (lower case)."""
    delegations = delegations_of(context)
    table = delegations.zones
    if table is None:
        return None
    ns = table.delegation(name)
    if ns is None:
        return None
    glue: dict[bytes, list[RRset]] = {}
    for rrset in table.addresses(ns):
        glue.setdefault(names.lower(rrset.name), []).append(rrset)
    return delegations.from_rrset(ns, context.now, glue, keep=False)


def ask_copy(
    cut: DelegationPoint, qname: bytes, qtype: int, context: Context, task: Task, avoid: frozenset[str]
) -> Scrubbed | None:
    """The reply of the copy of the zone `cut`; None when there is no usable one."""
    table = delegations_of(context).zones
    packet = None
    if table is not None and COPY.address not in avoid:
        packet = table.reply(cut.zone, qname, qtype)
    if packet is None:
        return None
    view = MessageView.parse(packet)
    found = scrub(view, qname, qtype, cut.zone)
    found.server = COPY
    found.kind = classify(view, found, qname, qtype, cut.zone, recursive=False)
    if task.trace is not None:
        task.note("cut", f"own copy of {names.to_text(cut.zone)}: {found.kind.name.lower()}", zone=cut.zone,
                  qname=qname, qtype=qtype, rcode=view.rcode)
    return None if found.kind in UNUSABLE else found
