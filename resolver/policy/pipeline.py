"""The policies of one view as an ordered list of modules, compiled to a tuple of calls for each point.

Whether a client may send queries is decided before, by the listeners, in C for most packets (`policies`). The order of
the modules is the same at every point and is not configurable, because each order would be a resolver of its own to
test:

1. `meta-queries`: other classes, zone transfers, meta types.
2. `truncation`, `inform`: local zones of type truncate, and the log of the inform kinds.
3. `dns64-reverse`: reverse names of addresses made by DNS64.
4. `local-zones`: special-use zones, hosts, discovery of encrypted listeners, local zones and data.
5. further modules, in the order in which they were given: `balance`, response policy zones, lists, `own-zones`. Then
   the hooks `alias` and `name_server`.
6. `minimal-any`: ANY, for clients of listeners (RFC 8482). It is asked after all others had no answer.
7. `rewrite`: removal of private addresses, renumbering.

At each point the modules are asked in this order until one has an answer, or passes. At `response`, an answer of one
module is what the next one sees, and after one has passed those that are `protective` are still asked: an exception
from a block list is none from the removal of private addresses. A point that no module has costs one truth test. DNS64
itself is no module: it asks a second question, so `resolve` performs it.

A `Pipeline` is immutable, except for its counters.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from typing import Any

from resolver import limits
from resolver.effects import Outcome, Question, Server
from resolver.log_limit import LimitedWarning
from resolver.policy.dns64 import Dns64
from resolver.policy.module import Action, Decision, Hooks, PolicyModule
from resolver.policy.rewrite import Rewriter
from resolver.query import ActionKind, Applied, Query
from resolver.settings import PolicySettings
from resolver.verdict import Verdict
from resolver.wire.consts import ANY, IN, LAST_DATA_TYPE, NOERROR, OPT, REFUSED, type_to_text
from resolver.wire.name import closest_in, to_text

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

ANSWER, REFUSE, DROP, TRUNCATE, PASS, LOG = ActionKind
Step = tuple[PolicyModule, Callable[..., Any]]


class Pipeline:
    """The policies of one view. `number` is its number, 0 for clients in no view; `name` is for people."""

    def __init__(
        self,
        number: int,
        name: str,
        modules: Iterable[PolicyModule],
        *,
        dns64: Dns64 | None = None,
        counts: dict[tuple[str, str, str], int] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """`counts` is shared by the views of one configuration: actions by point, module and kind. The service asks
        `hooks` (`resolver.net.hook_runner`); None without any."""
        self.number = number
        self.name = name
        self.modules = tuple(modules)
        self.dns64 = dns64
        self.hooks = hooks
        self.counts: dict[tuple[str, str, str], int] = {} if counts is None else counts
        self.query = Query(view=number)
        """What modules get at points where one answer serves all clients of the view."""
        shared = [module for module in self.modules if not module.per_client]
        own = [module for module in self.modules if module.per_client]
        self._client = _compile(self.modules, "client")
        # Most questions are for data types, so those that no module wants are not shown to any.
        of_data = [module for module in own if module.only_types is None or min(module.only_types) <= LAST_DATA_TYPE]
        self._own_question = _compile(of_data, "question")
        self._own_meta = _compile(own, "question")
        self._decides_first = _compile_first(self.modules, of_data)
        self._question = _compile(shared, "question")
        self._data_question = tuple(
            (module, module.question, module.covered_names())
            for module in shared if module.has("question") and module.answers_data
        )
        self._alias = _compile(self.modules, "alias")
        self._alias_after: tuple[Step, ...] = tuple((module, module.alias_after) for module, _ in self._alias)
        self._name_server = _compile(self.modules, "name_server")
        self._response = _compile(self.modules, "response")
        self._send = _compile(self.modules, "send")
        self._is_cacheable = _compile(of_data, "is_cacheable")
        self.has_client = bool(self._client)
        self.has_own_question = bool(self._own_question)
        self.has_answers = bool(self._question or self._alias)
        self.has_name_server = bool(self._name_server)
        self.has_response = bool(self._response)
        self.has_send = bool(self._send)
        self.caches = not (
            self._client or self._send or any(not module.has("is_cacheable") for module in own)
            or (hooks is not None and hooks.per_client)
        )
        """Whether finished answers may be cached for the view, and given without Python."""
        self._log = LimitedWarning(logger, limits.LOG_INTERVAL.default, limits.LOG_FAILURES)

    @classmethod
    def for_answers(cls, settings: PolicySettings) -> "Pipeline":
        """Only what changes answers: DNS64 and the rewriting of addresses."""
        rewriter, dns64 = Rewriter.create(settings), Dns64.create(settings)
        if rewriter is None and dns64 is None:
            return NOTHING
        return cls(0, "", () if rewriter is None else (rewriter,), dns64=dns64)

    def for_sub_queries(self) -> "Pipeline | None":
        """The policies for questions of the resolver itself (`PolicyModule.for_sub_queries`); None without any."""
        modules = [made for module in self.modules if (made := module.for_sub_queries()) is not None]
        return Pipeline(self.number, self.name, modules, counts=self.counts) if modules else None

    # --- points of the service: asked for each client -----------------------------------------------------------------

    def client(self, query: Query, question: Question) -> Outcome | None:
        """The point `client`; the outcome to give at once, None to continue. `question` is for that outcome only."""
        return self._ask("client", self._client, question, query.stream, query)

    def own_question(self, query: Query, question: Question) -> Outcome | None:
        """The point `question` of the modules that depend on the client, as `client`. With `Applied.follow`, the target
        of the answer is to be resolved.

        `has_own_question` tells whether a module is asked about data. A module is not asked when one before it, which
        is asked for all clients, has an answer: `answer` gives it then. The modules that are asked about no other
        type than ANY come last.
        """
        steps = self._own_meta if question.qtype == ANY else self._own_question
        for behind, ask in self._decides_first:
            if _decides(ask(self.query, question)):
                steps = steps[:behind]
                break
        return self._ask("question", steps, question, query.stream, query, question)

    def send(self, query: Query, outcome: Outcome, packet: bytes) -> ActionKind | None:
        """The point `send`: DROP, TRUNCATE or REFUSE, None to send the packet."""
        stopped = self._ask("send", self._send, outcome.question, query.stream, query, outcome, packet)
        return None if stopped is None or stopped.applied is None else stopped.applied.kind

    def is_cacheable(self, question: Question) -> bool:
        """Whether the finished answer to `question` may be given to all clients of the view."""
        for _, ask in self._is_cacheable:
            if not ask(question):
                return False
        return self.caches

    # --- points of the resolution: asked once for all clients, so TRUNCATE has no effect ------------------------------

    def answer(self, question: Question) -> Outcome | None:
        """The point `question`: the outcome to give instead of resolving it; None to resolve it."""
        qtype = question.qtype
        if question.qclass != IN or not 0 < qtype <= LAST_DATA_TYPE or qtype == OPT:
            return self._ask("question", self._question, question, True, self.query, question)
        # As `_ask`, but a module is skipped when it does not cover the name, which is so for nearly all names.
        key: bytes = question.key[0]
        query = self.query
        for module, ask, covered in self._data_question:
            if covered is not None and key not in covered[1] and closest_in(key, covered[0]) is None:
                continue
            found = ask(query, question)
            if found is not None:
                found = self._decision("question", module, found, question, True)
                if found is not None:
                    return None if isinstance(found, Action) else found
        return None

    def answer_alias(self, question: Question, earlier: Collection[bytes] = ()) -> Outcome | None:
        """The point `alias`, as `answer`. `earlier` are the names before it in the chain (lower case)."""
        return self._ask("alias", self._alias_after, question, True, self.query, question, earlier)

    def changes(self, question: Question) -> bool:
        """Whether `answer_alias` may have an outcome for `question`, depending on the names before it. Nothing is
        counted."""
        for _, ask in self._alias:
            found = ask(self.query, question)
            if _decides(found):
                return not isinstance(found, Action) or found.kind is not PASS
        return False

    def name_server(
        self, question: Question, zone: bytes, servers: Sequence[bytes], addresses: Sequence[Server]
    ) -> Outcome | None:
        """The point `name_server`, as `answer`: the outcome to give instead of asking the servers of `zone`."""
        return self._ask("name_server", self._name_server, question, True, self.query, question, zone, servers,
                         addresses)

    def has_server_rules(self) -> bool:
        """Whether a module may object at `name_server` now. If not, delegations need not be known by referrals."""
        for module, _ in self._name_server:
            if module.has_server_rules:
                return True
        return False

    def response(self, query: Query, outcome: Outcome) -> Outcome:
        """The point `response`: the outcome to give to the client of `query`, `outcome` itself when none changes it.

        An outcome of one module is what the next one sees. After one has passed, only protective ones are asked.
        """
        if self.dns64 is not None and self._response and not outcome.embedded:
            outcome.embedded = self.dns64.embedded_in(outcome)
        passed = False
        for module, ask in self._response:
            if passed and not module.protective:
                continue
            # The answer that a stream gets is cached for datagrams too, unless the module is asked for each client.
            stream = query.stream or not module.per_client
            decided = ask(query, outcome)
            if stream and module.per_client and isinstance(decided, Action) and decided.kind is TRUNCATE:
                # A cached answer is given without regard to the transport, so this one is for its client only.
                outcome = _uncached(outcome)
            found = self._decision("response", module, decided, outcome.question, stream)
            if isinstance(found, Action):
                passed = True
            elif found is not None:
                outcome = found
                if found.applied is None or found.applied.kind is not ANSWER:
                    return outcome
        return outcome

    # --- what an action does ------------------------------------------------------------------------------------------

    def _ask(
        self, point: str, steps: tuple[Step, ...], question: Question, stream: bool, *arguments: object
    ) -> Outcome | None:
        """The outcome of the first module that has one; None when there is none, or a module passes."""
        for module, ask in steps:
            found = ask(*arguments)
            if found is not None:
                found = self._decision(point, module, found, question, stream)
                if found is not None:
                    return None if isinstance(found, Action) else found
        return None

    def _decision(
        self, point: str, module: PolicyModule, found: object, question: Question, stream: bool
    ) -> Outcome | Action | None:
        """What `found`, the result of one module, means: an outcome; the action when it passes; None to continue."""
        if found is None:
            return None
        if isinstance(found, Outcome):
            self._count(point, module, ANSWER)
            found.applied = Applied(point, module.name, ANSWER)
            return found
        if not isinstance(found, Action):
            raise TypeError(f"policy {module.name}, point {point}: {found!r} is no Action, no Outcome and not None")
        kind = found.kind
        if kind is TRUNCATE and stream:
            return None
        self._count(point, module, kind)
        if kind is PASS:
            return found
        if kind is not LOG:
            return _outcome_of(found, point, module, question)
        self._log.warn("policy %s: %s %s (view %s): %s", module.name, to_text(question.qname),
                       type_to_text(question.qtype), self.name or "default", found.reason or point)
        return None

    def _count(self, point: str, module: PolicyModule, kind: ActionKind) -> None:
        key = (point, module.name, kind.value)
        self.counts[key] = self.counts.get(key, 0) + 1


def _outcome_of(action: Action, point: str, module: PolicyModule, question: Question) -> Outcome:
    """The outcome of an action that ends the point."""
    outcome = action.outcome
    if outcome is None:
        rcode = NOERROR if action.kind is TRUNCATE else REFUSED
        outcome = Outcome(question, rcode, [], [], Verdict.INDETERMINATE, 0)
    outcome.applied = Applied(point, module.name, action.kind, action.reason, follow=action.follow,
                              detail=action.detail)
    if action.ede is not None:
        outcome.ede = [*outcome.ede, (action.ede, action.reason)]
    return outcome


def _uncached(outcome: Outcome) -> Outcome:
    """A copy of `outcome` that is not cached as a finished answer."""
    copied = copy(outcome)
    copied.ttl = 0
    return copied


def _decides(found: Decision) -> bool:
    """Whether the modules behind the one that has returned `found` are not asked, at a point where TRUNCATE has no
    effect."""
    return found is not None and not (isinstance(found, Action) and found.kind in (LOG, TRUNCATE))


def _compile_first(
    modules: Iterable[PolicyModule], own: Sequence[PolicyModule]
) -> tuple[tuple[int, Callable[..., Any]], ...]:
    """The calls of modules that are asked a question for all clients and come before one of `own`, each with the number
    of those of `own` that come before it."""
    found, behind = [], 0
    asked = [module for module in own if module.has("question")]
    for module in modules:
        if module in asked:
            behind += 1
        elif not module.per_client and module.has("question") and behind < len(asked):
            found.append((behind, module.question))
    return tuple(found)


def _compile(modules: Iterable[PolicyModule], point: str) -> tuple[Step, ...]:
    return tuple((module, getattr(module, point)) for module in modules if module.has(point))


NOTHING = Pipeline(0, "", ())
"""Without modules; it has no counters to change, so all may share it."""
