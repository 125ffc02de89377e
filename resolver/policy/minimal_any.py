"""ANY is answered with one small record instead of all that a name has (RFC 8482 section 4.2).

Only the clients of listeners get it: a program that asks the library for ANY gets what the servers send. Names that
another policy answers, such as those of own zones, have data here: the reply has one set of them (section 4.1), which
`resolver.net.reply` chooses.
"""

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.module import Decision, PolicyModule
from resolver.query import API, Query
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire.rrset import RRset

__all__ = ["MinimalAny"]

_RDATA = b"\x07RFC8482\x00"


class MinimalAny(PolicyModule):
    """Answers ANY with a HINFO record."""

    name = "minimal-any"
    per_client = True
    only_types = frozenset({c.ANY})

    def question(self, query: Query, question: Question) -> Decision:
        """The record, when the type is ANY and a listener received the query."""
        if question.qtype != c.ANY or query.transport == API:
            return None
        record = RRset(question.qname, c.HINFO, limits.ANY_TTL, [_RDATA])
        return Outcome(question, c.NOERROR, [record], [], Verdict.INSECURE, record.ttl)

    def is_cacheable(self, question: Question) -> bool:
        """Every client gets the same record."""
        return True
