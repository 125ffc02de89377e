"""Answers from the zones of which this server has a copy (`resolver.zones`), as a policy module.

They are authoritative and not validated, because their content is here: AA is set and AD is not. They are never cached,
so a new version of a zone is used at once. A name that the zone delegates, or an alias that leaves it, is resolved as
usual, starting at the delegation of the zone.
"""

from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.policy.module import Decision, PolicyModule
from resolver.query import Query
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones import ZoneTable
from resolver.zones.answer import Answer

__all__ = ["OwnZones"]


class OwnZones(PolicyModule):
    """Answers from the zones of a `ZoneTable`."""

    name = "own-zones"

    def __init__(self, table: ZoneTable) -> None:
        self._table = table

    def question(self, query: Query, question: Question) -> Decision:
        """The authoritative answer; None when the question is to be resolved."""
        return self.answer(question)

    alias = question

    def for_sub_queries(self) -> PolicyModule:
        """Itself: the zones have name servers and keys as any other."""
        return self

    def answer(self, question: Question, *, referrals: bool = False) -> Outcome | None:
        """The outcome of a question; None when it must be resolved. With `referrals`, for a query without RD, a
        delegation is an outcome too."""
        if not self._table:
            return None
        found = self._table.answer(question.qname, question.qtype)
        if found is None or (found.referral and not referrals and not found.answer):
            return None
        return _outcome(question, found, cut=found.referral and not referrals)


def _outcome(question: Question, found: Answer, *, cut: bool) -> Outcome:
    """`cut`: an alias leads into a delegated zone, so only the alias is the outcome."""
    failure = None
    if found.rcode == c.SERVFAIL:
        text = f"the copy of the zone of {names.to_text(question.qname)} has expired or was not loaded"
        failure = Failure(FailureKind.RCODE, c.EDE_NOT_READY, text)
    made = Outcome(question, found.rcode, found.answer, [] if cut else found.authority, Verdict.INDETERMINATE, 0,
                   failure=failure)
    if failure is not None:
        made.ede.append((failure.ede, failure.text))
    made.authoritative = failure is None and not (found.referral and not found.answer)
    made.referral = found.referral and not cut
    made.additional = [] if cut else found.additional
    return made
