"""Block and allow lists as a policy: the first block list with a name decides, unless an allow list has the name.

The compiled lists are replaced as a whole while queries are answered (`replace`): each query uses one set. Who
replaces them flushes the finished answers of the cache, because those are given without a policy.
"""

from collections.abc import Mapping, Sequence

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.list_formats import CompiledList
from resolver.policy.module import Action, Decision, PolicyModule
from resolver.query import ActionKind, Query
from resolver.settings.lists import ListSettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire.rrset import RRset

__all__ = ["BlockLists"]

_NULL = {c.A: bytes(4), c.AAAA: bytes(16)}


class BlockLists(PolicyModule):
    """The lists of some views, in their order."""

    name = "lists"

    def __init__(self, settings: Sequence[ListSettings], views: frozenset[int] | None = None) -> None:
        self.views = views
        self._settings = tuple(settings)
        self._blocking: tuple[tuple[ListSettings, CompiledList], ...] = ()
        self._allowing: tuple[CompiledList, ...] = ()

    def replace(self, lists: Mapping[str, CompiledList]) -> None:
        """Use `lists`, by their name; a configured list that is not among them has no names."""
        held = [(one, lists[one.name]) for one in self._settings if one.name in lists]
        self._blocking = tuple((one, made) for one, made in held if one.action != "allow")
        self._allowing = tuple(made for one, made in held if one.action == "allow")

    def find(self, name: bytes) -> ListSettings | None:
        """The list that decides about a wire name; None when none does. One that only logs decides last."""
        logging: ListSettings | None = None
        for settings, made in self._blocking:
            if not made.matches(name):
                continue
            if settings.action != "log":
                return None if any(allow.matches(name) for allow in self._allowing) else settings
            logging = logging or settings
        return logging

    def question(self, query: Query, question: Question) -> Decision:
        """The points `question` and `alias`."""
        found = self.find(question.qname)
        return None if found is None else _decision(found, question)

    alias = question


def _decision(found: ListSettings, question: Question) -> Decision:
    reason = f"list {found.name}"
    ede = found.ede or None
    if found.action == "drop":
        return Action(ActionKind.DROP, reason=reason)
    if found.action == "refuse":
        return Action(ActionKind.REFUSE, reason=reason, ede=ede)
    if found.action == "log":
        return Action(ActionKind.LOG, reason=reason)
    rcode = c.NXDOMAIN if found.action == "nxdomain" else c.NOERROR
    answer = []
    if found.action == "null" and question.qtype in _NULL:
        answer = [RRset(question.qname, question.qtype, limits.LIST_ANSWER_TTL, [_NULL[question.qtype]],
                        trust=Trust.CONFIGURED, verdict=Verdict.INDETERMINATE)]
    outcome = Outcome(question, rcode, answer, [], Verdict.INDETERMINATE, limits.LIST_ANSWER_TTL)
    return Action(ActionKind.ANSWER, outcome, reason=reason, ede=ede)
