"""Queries that no recursive resolver answers: other classes, zone transfers, meta types; and the names of the server.

In class CH the names of RFC 4892 are answered, when the settings have a text for them. Everything else is REFUSED.
"""

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.module import Decision, PolicyModule
from resolver.query import Query
from resolver.settings import ServerSettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["MetaQueries"]


class MetaQueries(PolicyModule):
    """Refuses queries that do not ask for data of class IN."""

    name = "meta-queries"
    answers_data = False

    def __init__(self, server: ServerSettings) -> None:
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

    def question(self, query: Query, question: Question) -> Decision:
        """The answer for another class or a meta type; None for questions for data."""
        if question.qclass != c.IN:
            return self._other_class(question)
        qtype = question.qtype
        if c.LAST_DATA_TYPE < qtype < c.ANY or qtype == c.OPT:
            return _refused(question)  # transfers, TSIG and other types that are not data (RFC 5936, RFC 8945)
        return None

    alias = question

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
