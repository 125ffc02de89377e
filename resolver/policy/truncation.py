"""Zones that are answered over TCP only: local zones of type truncate."""

from resolver.effects import Question
from resolver.policy.local import LocalZones
from resolver.policy.module import TRUNCATE, Decision, PolicyModule
from resolver.query import Query

__all__ = ["TruncationZones"]


class TruncationZones(PolicyModule):
    """Answers UDP queries for names in these zones with TC set, so that clients repeat them over TCP."""

    name = "truncation"
    per_client = True

    def __init__(self, local: LocalZones) -> None:
        self._local = local

    def question(self, query: Query, question: Question) -> Decision:
        """TRUNCATE for a UDP query for a name in one of the zones, else None."""
        return TRUNCATE if not query.stream and self._local.is_truncated(question.qname) else None

    def is_cacheable(self, question: Question) -> bool:
        """False for a name in one of the zones, because `question` is not called for cached answers."""
        return not self._local.is_truncated(question.qname)
