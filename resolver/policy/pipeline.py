"""The order in which policies apply.

1. `PolicyPipeline.access`: whether the client may send queries. The listeners look it up, in C for most packets.
2. Queries that no recursive resolver answers: other classes, zone transfers, meta types.
3. Reverse names of addresses made by DNS64 (`rewrite`).
4. Local names: special-use zones, hosts, local zones and data (`local`).

Then the query is resolved. Finished outcomes pass `rewrite.Rewriter` before they are sent to a client. The order is not
configurable, because each order would be a resolver of its own to test. A `PolicyPipeline` is immutable; a new one is
made when settings are loaded.
"""

from collections.abc import Iterable

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.access import AccessTable
from resolver.policy.discovery import designations
from resolver.policy.local import LocalZones
from resolver.policy.rewrite import Dns64
from resolver.settings import HostEntry, Settings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["PolicyPipeline"]


class PolicyPipeline:
    """The policies of one configuration."""

    def __init__(self, settings: Settings, hosts: Iterable[HostEntry] = ()) -> None:
        """Compile `settings`; `hosts` is the content of the hosts files it names.

        Raises:
            ValueError: naming the setting that is wrong.
        """
        policy = settings.policy
        self.access = AccessTable(policy.allow, policy.refuse, policy.drop)
        # Forward and stub zones, and zones with a trust anchor, are resolved even when their names are special-use.
        resolved = [*settings.configured_zones]
        resolved += [anchor.split(None, 1)[0] for anchor in settings.dnssec.trust_anchors]
        self.hosts = tuple(hosts)
        self.designations = designations(settings)
        self.local = LocalZones(policy, resolved, self.hosts, self.designations)
        self._dns64 = Dns64.create(policy)
        server = settings.server
        self._chaos = {
            names.from_text(name): value
            for name, value in (
                ("id.server.", server.identity),
                ("hostname.bind.", server.identity),
                ("version.server.", server.version),
                ("version.bind.", server.version),
            )
            if value
        }

    def answer(self, question: Question) -> Outcome | None:
        """The local answer to `question`; None when it must be resolved."""
        if question.qclass != c.IN:
            return self._other_class(question)
        qtype = question.qtype
        if c.LAST_DATA_TYPE < qtype < c.ANY or qtype == c.OPT:
            return _refused(question)  # transfers, TSIG and other types that are not data (RFC 5936, RFC 8945)
        if self._dns64 is not None and qtype == c.PTR:
            alias = self._dns64.reverse(question)
            if alias is not None:
                return Outcome(question, c.NOERROR, [alias], [], Verdict.INDETERMINATE, alias.ttl)
        return self.local.find(question)

    def _other_class(self, question: Question) -> Outcome:
        """The answer for a class other than IN: names of the server itself in class CH (RFC 4892), else REFUSED."""
        value = self._chaos.get(question.key[0])
        if question.qclass != c.CH or value is None:
            return _refused(question)
        if question.qtype not in (c.TXT, c.ANY):
            return Outcome(question, c.NOERROR, [], [], Verdict.INDETERMINATE, 0)
        text = value.encode()[: limits.CHAOS_TEXT]
        rrset = RRset(question.qname, c.TXT, 0, [bytes([len(text)]) + text], rclass=c.CH, trust=Trust.CONFIGURED)
        return Outcome(question, c.NOERROR, [rrset], [], Verdict.INDETERMINATE, 0)


def _refused(question: Question) -> Outcome:
    return Outcome(question, c.REFUSED, [], [], Verdict.INDETERMINATE, 0)
