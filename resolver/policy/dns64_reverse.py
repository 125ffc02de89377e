"""Reverse names of addresses made by DNS64 are aliases to those of the IPv4 addresses (RFC 6147 section 5.3.1).

No zone has names for them, because each NAT64 has its own prefix.
"""

from resolver.effects import Outcome, Question
from resolver.policy.dns64 import Dns64
from resolver.policy.module import Decision, PolicyModule
from resolver.query import Query
from resolver.verdict import Verdict
from resolver.wire import consts as c

__all__ = ["Dns64Reverse"]


class Dns64Reverse(PolicyModule):
    """Answers PTR queries below the prefixes of `dns64` with a CNAME, which is then followed."""

    name = "dns64-reverse"

    def __init__(self, dns64: Dns64) -> None:
        self._dns64 = dns64

    def question(self, query: Query, question: Question) -> Decision:
        """The alias, when `question` is for an address of DNS64."""
        alias = self._dns64.reverse(question)
        return None if alias is None else Outcome(question, c.NOERROR, [alias], [], Verdict.INDETERMINATE, alias.ttl)

    alias = question
