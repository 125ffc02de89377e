"""What a policy module is: a class that implements some of the named points, and the actions it may take there.

The points, in the order in which a query passes them:

| point | asked | may take |
|---|---|---|
| `client` | when a listener received a query, after the access list | all |
| `question` | before the cache is looked up, for the question | all; truncate only when `per_client` |
| `alias` | for the target of each alias of the chain | answer, refuse, drop, pass, log |
| `name_server` | before the servers of a zone are queried | answer, refuse, drop, pass, log |
| `response` | for a finished outcome | as `question`; see `Pipeline.response` |
| `send` | before a reply that was made from an outcome is sent | all but answer |

One job resolves a question for all clients of a view, and one cached answer serves them. So `question`, `alias` and
`name_server` are asked with the `Query` of the view, which has no client. A module whose `question` depends on the
client has `per_client`: then the listener's service asks it, for each query, before anything is looked up.

A per-client module disables the cached answers of its views, which are sent without Python: a view
with a module that has `client` or `send`, or is `per_client`, passes every query to Python and caches no finished
answers. A `per_client` module may define `is_cacheable` to say which answers may be cached; those stay on the fast
path.
"""

from collections.abc import Callable, Collection, Container, Sequence
from typing import Protocol, TypeAlias

from resolver.effects import Outcome, Question, Server
from resolver.query import ActionKind, Query

__all__ = ["DROP", "PASS", "REFUSE", "TRUNCATE", "Action", "Decision", "Hooks", "PolicyModule", "WaitsForHooks"]


class Action:
    """What a module does at a point.

    `outcome` is the answer of an ANSWER, None for other kinds. `reason` is a short text for log, trace and, when `ede`
    is a code of RFC 8914, for the client's extended error; `ede` None sends none. `follow` and `detail` are those of
    `Applied`; that is for `name_server`, `response` and `question` of `per_client` modules, because at the other points
    each alias is followed.
    """

    __slots__ = ("detail", "ede", "follow", "kind", "outcome", "reason")

    def __init__(
        self, kind: ActionKind, outcome: Outcome | None = None, *, reason: str = "", ede: int | None = None,
        follow: bool = False, detail: object = None,
    ) -> None:
        """Raises:
        ValueError: an ANSWER has no outcome, or another kind has one.
        """
        if (outcome is not None) is not (kind is ActionKind.ANSWER):
            raise ValueError(f"Action: {kind.value} {'has' if outcome is not None else 'needs'} an outcome")
        self.kind = kind
        self.outcome = outcome
        self.reason = reason
        self.ede = ede
        self.follow = follow
        self.detail = detail

    def __repr__(self) -> str:
        return f"Action({self.kind.value}, {self.outcome!r}, reason={self.reason!r})"


Decision: TypeAlias = Action | Outcome | None
"""The result of a point: an action; an outcome, which is short for an action that answers with it; None: no objection.

An outcome is given away: it is changed later, so a module makes a new one each time."""

DROP = Action(ActionKind.DROP)
REFUSE = Action(ActionKind.REFUSE)
TRUNCATE = Action(ActionKind.TRUNCATE)
PASS = Action(ActionKind.PASS)


class WaitsForHooks(Protocol):
    """A query that waits for a coroutine of a hook."""

    def cancel(self) -> None:
        """Stop waiting."""
        ...


class Hooks(Protocol):
    """The hooks of operators in one view. The service asks them at the points where it can wait for a coroutine;
    `modules` are those of the other points. `per_client`: an answer must not be given without asking them."""

    per_client: bool
    has_client: bool
    has_question: bool
    has_response: bool
    has_send: bool
    modules: "tuple[PolicyModule, ...]"

    def ask(
        self, point: str, client: Query, question: Question, outcome: Outcome | None,
        done: Callable[[Outcome | None], None], /,
    ) -> "WaitsForHooks | None":
        """Ask the hooks of `point`; `done` gets the outcome to give instead. None: `done` was called."""
        ...

    def send(self, client: Query, outcome: Outcome, /) -> Outcome | None:
        """Ask the hooks of `send`; the outcome says what they did."""
        ...


class PolicyModule:
    """Base of all modules. A subclass overrides the points that it has; the others are never called.

    A module is immutable while it is in use, or changes in a way that needs a flush of the cache. No point may block.
    An exception costs the query only: it ends with SERVFAIL.
    """

    name = ""
    """In statistics, log and traces: lower case, fixed for the class or the configuration."""
    per_client = False
    """Whether `question` or `response` depends on more than the view and the question; then `question` is asked for
    each query of a client."""
    protective = False
    """Whether it protects the network of the clients, so that it is asked at `response` although a module before it has
    passed."""
    views: frozenset[int] | None = None
    """The numbers of the views that have the module, 0 for clients in no view; None: all."""
    only_types: frozenset[int] | None = None
    """The types of questions for which a `per_client` module is called; None: all."""

    answers_data = True
    """Whether `question` may have an answer for questions for data, which are nearly all: of class IN and of a type of
    data, without OPT."""

    def covered_names(self) -> tuple[Container[bytes], Container[bytes]] | None:
        """Two tables of names (lower case), which never change: zones, which cover the names at and below them, and
        single names. For data of any other name `question` has no answer, so it is not called. None: it is called for
        all names."""
        return None

    def for_sub_queries(self) -> "PolicyModule | None":
        """What answers the questions of the resolver itself, about name servers and keys, at `question` and `alias`.

        None for what is about clients: a name that is blocked for them may still be the zone that signs a permitted
        name, or the server of one.
        """
        return None

    @property
    def has_server_rules(self) -> bool:
        """Whether `name_server` may have a result now. A change needs a flush of the cache."""
        return True

    def client(self, query: Query, /) -> Action | None:
        """Decide about a client before its question is examined."""
        return None

    def question(self, query: Query, question: Question, /) -> Decision:
        """Answer a question instead of resolving it."""
        return None

    def alias(self, query: Query, question: Question, /) -> Decision:
        """As `question`, for the target of an alias. A CNAME as the answer is followed in turn."""
        return None

    def alias_after(self, query: Query, question: Question, earlier: Collection[bytes], /) -> Decision:
        """As `alias`, with the names before it in the chain (lower case). This is what a resolution calls."""
        return self.alias(query, question)

    def name_server(
        self, query: Query, question: Question, zone: bytes, names: Sequence[bytes], servers: Sequence[Server], /
    ) -> Decision:
        """Answer `question` instead of asking the servers of `zone`.

        `names` are the names of its servers (lower case), `servers` their addresses as far as they are known. It is
        asked about each zone on the path from the root to the question, again when more addresses become known, and
        also before cached data is used.
        """
        return None

    def response(self, query: Query, outcome: Outcome, /) -> Decision:
        """Replace a finished outcome. `outcome` must not be changed: other clients share it.

        The answer is cached for the view, so only a `per_client` module may look at the client in `query`.
        """
        return None

    def send(self, query: Query, outcome: Outcome, packet: bytes, /) -> Action | None:
        """Decide about a composed reply (without OPT) before it is sent."""
        return None

    def is_cacheable(self, question: Question, /) -> bool:
        """Whether the finished answer may be given to all clients of the view. Only asked of `per_client` modules."""
        return True

    @classmethod
    def has(cls, point: str) -> bool:
        """Whether the class overrides the method `point`."""
        return getattr(cls, point) is not getattr(PolicyModule, point)
