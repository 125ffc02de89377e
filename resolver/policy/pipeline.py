"""The fixed order in which policies apply, in one readable list.

1. `PolicyPipeline.access` - may this client ask at all? Looked up by the listeners, in C for most packets.
2. Questions that no recursive resolver answers: other classes, zone transfers, meta types.
3. Reverse names of addresses that DNS64 has made (`rewrite`).
4. Local names: special-use zones, hosts, local zones and data (`local`).

Everything after that is resolution; finished outcomes pass `rewrite.Rewriter` before a client sees them. The order is
code and not configuration, because two orders would mean two resolvers to reason about; `PolicyPipeline` is built anew
when settings are loaded and is immutable in between.
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
    """All policies of one settings value, ready to be asked."""

    def __init__(self, settings: Settings, hosts: Iterable[HostEntry] = ()) -> None:
        """Compile `settings`; `hosts` is the content of the hosts files it names.

        Raises:
            ValueError: naming the setting that is wrong.
        """
        policy = settings.policy
        self.access = AccessTable(policy.allow, policy.refuse, policy.drop)
        # Whoever forwards a zone or holds its trust anchor wants it resolved, also when its name is a special one.
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
        """Answer `question` without resolving anything; None means that it has to be resolved."""
        if question.qclass != c.IN:
            return self._other_class(question)
        qtype = question.qtype
        if c.LAST_DATA_TYPE < qtype < c.ANY or qtype == c.OPT:
            return _refused(question)  # transfers, TSIG and other things that are not data (RFC 5936, RFC 8945)
        if self._dns64 is not None and qtype == c.PTR:
            alias = self._dns64.reverse(question)
            if alias is not None:
                return Outcome(question, c.NOERROR, [alias], [], Verdict.INDETERMINATE, alias.ttl)
        return self.local.find(question)

    def _other_class(self, question: Question) -> Outcome:
        """Class CH names the server itself (RFC 4892); other classes have no tree here."""
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
