"""Hooks: what an operator's own Python module gets at the points of a query, and what it may return.

A module named in ``policy.modules`` defines functions with the names of points. Each is a plain function; `client`,
`question` and `response` may be coroutine functions::

    from resolver.hooks import REFUSE, Decision, Query, Question

    def client(query: Query, question: Question) -> Decision | None:
        return REFUSE if question.type == "ANY" else None

| function | asked | may return |
|---|---|---|
| `client(query, question)` | for each query of a client, before anything is looked up | all |
| `question(query, question)` | when the answer is not cached; it is cached for the view | all but `TRUNCATE` |
| `alias(query, question)` | for the target of each alias | `answer`, `DROP`, `REFUSE` |
| `name_server(query, question, zone)` | for each zone from the root to the name | `answer`, `DROP`, `REFUSE` |
| `response(query, response)` | for a finished answer, before it is cached for the view | all but `TRUNCATE` |
| `send(query, response)` | for each reply to a client | `DROP`, `REFUSE`, `TRUNCATE` |

None means no objection, and the next hook is asked. One answer of `question`, `alias`, `name_server` and `response` is
given to all clients of a view, so the `query` that they get has no address. The values here are immutable.
"""

from collections.abc import Awaitable, Callable
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

from resolver import limits
from resolver.effects import Outcome
from resolver.effects import Question as Asked
from resolver.query import ActionKind
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.present import rdata_from_text, rrset_to_text
from resolver.wire.rrset import RRset

__all__ = [
    "DROP", "PASS", "REFUSE", "TRUNCATE", "ClientHook", "Decision", "NameServerHook", "Query", "Question",
    "QuestionHook", "Record", "Response", "ResponseHook", "answer",
]


class Query(NamedTuple):
    """Who asks. `address` is None at points that are asked once for all clients; then the other fields but `view` are
    empty. `transport` is udp, tcp, tls, https or quic, `listener` the address and port that received the query.
    `verified`: a cookie or a stream proves the address. `view` is the name of the view, empty for clients in none."""

    address: IPv4Address | IPv6Address | None
    transport: str
    listener: str
    verified: bool
    view: str


class Question(NamedTuple):
    """What is asked: a name in lower case with a final dot, and a type such as ``AAAA``."""

    name: str
    type: str


class Record(NamedTuple):
    """A record of an answer: owner, type, seconds to live, and the data in presentation format."""

    name: str
    type: str
    ttl: int
    data: str


class Response:
    """A finished answer. `question` is what was asked."""

    def __init__(self, question: Question, outcome: Outcome) -> None:
        self.question = question
        self._outcome = outcome

    @property
    def rcode(self) -> str:
        """The response code, such as ``NXDOMAIN``."""
        return c.rcode_to_text(self._outcome.rcode)

    @property
    def secure(self) -> bool:
        """Whether the answer was validated as secure."""
        return self._outcome.verdict == Verdict.SECURE

    @property
    def ttl(self) -> int:
        """Seconds for which the answer may be cached."""
        return self._outcome.ttl

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records of the answer section, aliases first."""
        lines = [line.split(None, 4) for rrset in self._outcome.answer for line in rrset_to_text(rrset, sigs=False)]
        return tuple(Record(line[0], line[3], int(line[1]), line[4] if len(line) > 4 else "") for line in lines)

    def __repr__(self) -> str:
        return f"Response({self.question.name} {self.question.type}: {self.rcode}, {len(self.records)} records)"


_RCODES = {"NOERROR": c.NOERROR, "NXDOMAIN": c.NXDOMAIN, "SERVFAIL": c.SERVFAIL, "REFUSED": c.REFUSED}
_LAST_EDE = 65_535  # RFC 8914 section 2: the code has 16 bits


class Decision:
    """What a hook decides. Made by `answer`; `DROP`, `REFUSE`, `TRUNCATE` and `PASS` are the others.

    `reason` is shown in log and traces, and sent to the client as extended error when `ede` is a code of RFC 8914.
    """

    __slots__ = ("data", "ede", "kind", "rcode", "reason", "ttl", "type")

    def __init__(
        self, kind: ActionKind, *, data: tuple[str, ...] = (), type: str = "", ttl: int = 0, rcode: str = "NOERROR",
        reason: str = "", ede: int | None = None,
    ) -> None:
        """Raises:
        TypeError, ValueError: as `check`.
        """
        self.kind = kind
        self.data = data
        self.type = type
        self.ttl = ttl
        self.rcode = rcode
        self.reason = reason
        self.ede = ede
        self.check()

    def check(self) -> None:
        """Check what a reply is made of, so that an error is one of the hook.

        Raises:
            TypeError: the reason, the TTL or the extended error has a wrong type.
            ValueError: the TTL, the extended error or the response code is out of range.
        """
        if not isinstance(self.reason, str):
            raise TypeError(f"reason: {self.reason!r} is no text")
        if not isinstance(self.ttl, int) or not isinstance(self.ede, int | None):
            raise TypeError(f"ttl and ede are whole numbers, not {self.ttl!r} and {self.ede!r}")
        if not 0 <= self.ttl <= limits.CACHE_MAX_TTL.maximum:
            raise ValueError(f"ttl: {self.ttl} is not between 0 and {limits.CACHE_MAX_TTL.maximum}")
        if self.ede is not None and not 0 <= self.ede <= _LAST_EDE:
            raise ValueError(f"ede: {self.ede} is not between 0 and {_LAST_EDE}")
        if self.rcode not in _RCODES:
            raise ValueError(f"rcode: {self.rcode!r} is not one of {', '.join(_RCODES)}")

    def because(self, reason: str, ede: int | None = None) -> "Decision":
        """The same decision with a reason, and with `ede` the extended error that tells it to the client.

        Raises:
            TypeError, ValueError: `reason` is no text, or `ede` is no code of 0 to 65535.
        """
        return Decision(self.kind, data=self.data, type=self.type, ttl=self.ttl, rcode=self.rcode, reason=reason,
                        ede=ede)

    def __repr__(self) -> str:
        what = " ".join((self.kind.value, self.rcode, self.type, *self.data) if self.kind is ActionKind.ANSWER
                        else (self.kind.value,))
        return f"Decision({what}{self.reason and ': '}{self.reason})"


DROP = Decision(ActionKind.DROP)
"""No reply is sent."""
REFUSE = Decision(ActionKind.REFUSE)
"""The reply is REFUSED."""
TRUNCATE = Decision(ActionKind.TRUNCATE)
"""Over UDP the reply is empty and truncated, so that the client comes back over TCP."""
PASS = Decision(ActionKind.PASS)
"""The query continues, and the later hooks of the same point are not called."""


def answer(*data: str, type: str = "", ttl: int = limits.HOOK_TTL, rcode: str = "NOERROR") -> Decision:
    """Answer the question with records of its name: one for each `data`, in presentation format.

    `type` is the type of the records, empty for that of the question; a ``CNAME`` is not followed. `ttl` is in seconds.
    Without `data` the answer is empty: no such data, or with `rcode` ``NXDOMAIN`` no such name.

    Raises:
        ValueError: the TTL, the type or the response code is wrong.
    """
    if type:
        c.type_from_text(type)
    if data and rcode != "NOERROR":
        raise ValueError(f"rcode: {rcode} has no data")
    return Decision(ActionKind.ANSWER, data=data, type=type, ttl=ttl, rcode=rcode)


Result: TypeAlias = Decision | None
ClientHook: TypeAlias = Callable[[Query, Question], Result | Awaitable[Result]]
"""The type of `client`."""
QuestionHook: TypeAlias = Callable[[Query, Question], Result | Awaitable[Result]]
"""The type of `question`, and of `alias`, which returns no awaitable."""
NameServerHook: TypeAlias = Callable[[Query, Question, str], Result]
"""The type of `name_server`; the last argument is the name of the zone."""
ResponseHook: TypeAlias = Callable[[Query, Response], Result | Awaitable[Result]]
"""The type of `response`, and of `send`, which returns no awaitable."""


def outcome_of(decision: Decision, question: Asked) -> Outcome:
    """The outcome of an answer of a hook for `question` of `resolver.effects`.

    Raises:
        ValueError: the data has an error; the text names it.
    """
    rtype = c.type_from_text(decision.type) if decision.type else question.qtype
    sets = []
    if decision.data:
        rdatas = [rdata_from_text(rtype, text) for text in decision.data]
        sets = [RRset(question.qname, rtype, decision.ttl, rdatas, trust=Trust.CONFIGURED,
                      verdict=Verdict.INDETERMINATE)]
    return Outcome(question, _RCODES[decision.rcode], sets, [], Verdict.INDETERMINATE, decision.ttl)


def question_of(qname: bytes, qtype: int) -> Question:
    """The value for hooks."""
    return Question(names.to_text(names.lower(qname)), c.type_to_text(qtype))
