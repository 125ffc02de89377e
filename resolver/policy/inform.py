"""Log of the queries for local zones of the inform kinds, with the client.

The module decides nothing; the answer is that of `local`.
"""

import logging

from resolver import limits
from resolver.effects import Question
from resolver.log_limit import LimitedWarning
from resolver.policy.local import LocalZones
from resolver.policy.module import Decision, PolicyModule
from resolver.query import Query
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["InformZones"]

_lines = LimitedWarning(logging.getLogger(__name__), limits.LOG_INTERVAL.default, limits.LOG_FAILURES)


class InformZones(PolicyModule):
    """Logs each query for such a zone and changes nothing; `local` decides about the answer."""

    name = "inform"
    per_client = True

    def __init__(self, local: LocalZones) -> None:
        self._local = local

    def question(self, query: Query, question: Question) -> Decision:
        """Log the query."""
        zone = self._local.inform_zone(question.key[0])
        if zone is not None:
            _lines.warn("local zone %s: %s queries %s %s", names.to_text(zone), query.address or "the program",
                        names.to_text(question.qname), c.type_to_text(question.qtype))
        return None

    def is_cacheable(self, question: Question) -> bool:
        """False for such a zone: a cached answer would be given without a line in the log."""
        return self._local.inform_zone(question.key[0]) is None
