"""Zones that are answered over TCP only: local zones of type truncate."""

from resolver.effects import Question
from resolver.policy.local import LocalZones
from resolver.policy.module import TRUNCATE, Decision, PolicyModule
from resolver.query import Query

__all__ = ["TruncationZones"]


class TruncationZones(PolicyModule):
    """Sends clients that ask over UDP to TCP."""

    name = "truncation"
    per_client = True

    def __init__(self, local: LocalZones) -> None:
        self._local = local

    def question(self, query: Query, question: Question) -> Decision:
        """TRUNCATE over UDP for a name of such a zone."""
        return TRUNCATE if not query.stream and self._local.is_truncated(question.qname) else None

    def is_cacheable(self, question: Question) -> bool:
        """False for such a name: the cached answer would be given without regard to the transport."""
        return not self._local.is_truncated(question.qname)
