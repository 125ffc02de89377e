"""A service for unit tests: real, except for the mesh, whose queries the test finishes, the clock and the sink.

`Parts` makes the real `Service`, `FastPath`, `PolicyPipeline` and cache, so a test sees what a client would get.
"""

from typing import Any

from resolver.cache import Store
from resolver.effects import Budget, Context, Failure, FailureKind, Outcome, Question
from resolver.iterate import DelegationCache
from resolver.iterate.forward import configured_cuts
from resolver.net.cookies import ServerCookies
from resolver.net.fastpath import FastPath
from resolver.net.hook_runner import ViewHooks
from resolver.net.pending_queries import PendingQuery
from resolver.net.rate_limit import RateLimits
from resolver.net.service import Service
from resolver.observe.observer import Observer
from resolver.policy import PolicyModule, PolicyPipeline
from resolver.query import PROGRAM, Query
from resolver.resolve import find_outcome, load_validator
from resolver.settings import ServerSettings, Settings, replace
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["CLIENT", "FakeClock", "FakeMesh", "Parts", "Sink", "address", "failed", "positive", "query"]

CLIENT = ("127.0.0.1", 40_000)
QNAME = names.from_text("www.example.com.")
NOW = 1_800_000_000


class FakeClock:
    def __init__(self) -> None:
        self.real = NOW
        self.mono = 1000.0

    def time(self) -> int:
        return self.real

    def monotonic(self) -> float:
        return self.mono


class FakeTicket:
    def __init__(self, question: Question, cd: bool, on_done: Any) -> None:
        self.question = question
        self.cd = cd
        self.on_done = on_done
        self.done = False


class FakeMesh:
    """Keeps what was submitted; `finish` answers the oldest. With `instant` set, `submit` calls `on_done` at once."""

    def __init__(self) -> None:
        self.tickets: list[FakeTicket] = []
        self.cancelled: list[FakeTicket] = []
        self.instant: Outcome | None = None
        self.context: Context | None = None
        self.refreshed: list[FakeTicket] = []
        self.queries: list[Query] = []

    @property
    def networks(self) -> list[Any]:
        return [query.network for query in self.queries]

    def peek(self, question: Question, *, query: Query = PROGRAM, cd: bool = False) -> Outcome | None:
        assert self.context is not None
        outcome = find_outcome(question, self.context, Budget(0, 0.0), cd=cd)
        return None if isinstance(outcome, bool) else outcome

    def submit(
        self, question: Question, *, query: Query = PROGRAM, cd: bool = False, on_done: Any
    ) -> FakeTicket:
        ticket = FakeTicket(question, cd, on_done)
        self.queries.append(query)
        if self.instant is not None:
            ticket.done = True
            on_done(self.instant)
        else:
            self.tickets.append(ticket)
        return ticket

    def refresh(self, question: Question, *, query: Query = PROGRAM, cd: bool = False, on_done: Any) -> bool:
        self.refreshed.append(FakeTicket(question, cd, on_done))
        return True

    def cancel(self, ticket: FakeTicket) -> None:
        self.cancelled.append(ticket)
        self.tickets.remove(ticket)

    def finish(self, outcome: Outcome) -> None:
        ticket = self.tickets.pop(0)
        ticket.done = True
        ticket.on_done(outcome)


class Sink:
    """Collects replies; None stands for a query that gets none."""

    idle_timeout = 10.0
    padding_block = 0
    aborted = False

    def __init__(self, *, stream: bool = False) -> None:
        self.stream = stream
        self.origin = ("tcp" if stream else "udp", "127.0.0.1:53")
        self.packets: list[bytes | None] = []
        self.forgotten: list[PendingQuery] = []

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        self.packets.append(packet)

    def skip(self) -> None:
        self.packets.append(None)

    def abort(self) -> None:
        self.aborted = True

    def forget(self, pending: PendingQuery) -> None:
        self.forgotten.append(pending)

    @property
    def last(self) -> MessageView:
        packet = self.packets[-1]
        assert packet is not None
        return MessageView.parse(packet)


class Parts:
    """A service with its parts. `server` has the fields of `ServerSettings`; `observer` records queries and replies."""

    def __init__(
        self, settings: Settings | None = None, *, hooks: dict[int, ViewHooks] | None = None,
        observer: Observer | None = None, modules: tuple[PolicyModule, ...] = (), **server: Any,
    ) -> None:
        self.settings = replace(settings or Settings(), server=ServerSettings(**server))
        self.store = Store.create(1 << 20, seed=bytes(16))
        self.plan = PolicyPipeline(self.settings, modules=modules, hooks=hooks)
        self.mesh = FakeMesh()
        self.clock = FakeClock()
        context = self.mesh.context = Context(self.store, self.settings, None, self.plan.views[0])  # type: ignore[arg-type]
        context.now = self.clock.real
        context.delegations = DelegationCache(
            self.store, self.settings, own=(), configured=configured_cuts(self.settings)
        )
        validation = load_validator(self.settings)
        if validation is not None:
            context.validation, context.validator = validation, validation.validate
        self.fast = FastPath(
            self.store.answers.for_rules(b"", rotate=self.settings.server.rotate_addresses),
            self.plan.access,
            largest_reply=self.settings.server.max_udp_size,
            pass_without_rd=self.settings.server.non_recursive_queries != "cache",
            prefetch=self.settings.cache.prefetch,
            cookies=ServerCookies(
                self.settings.server.cookie_keys, required=self.settings.server.require_cookies, seed=bytes(32)
            )
            if self.settings.server.answer_cookies
            else None,
            rates=RateLimits(
                self.settings.rate_limit, [view.rates(self.settings.rate_limit) for view in self.settings.view], None,
                bytes(16),
            ),
            observer=observer,
        )
        if self.fast.cookies is not None:
            self.fast.cookies.refresh(self.clock.real)
        self.submitted = 0
        self.service = Service(
            self.settings,
            mesh=self.mesh,
            plan=self.plan,
            fast=self.fast,
            clock=self.clock,
            submitted=self._count,
        )
        self.service.observer = observer
        self.sink = Sink()

    def _count(self) -> None:
        self.submitted += 1

    def ask(self, packet: bytes, *, peer: tuple[Any, ...] = CLIENT, sink: Sink | None = None) -> PendingQuery | None:
        return self.service.handle(packet, peer, sink or self.sink)

    def answer(self, packet: bytes, outcome: Outcome, *, sink: Sink | None = None) -> MessageView:
        """Return the reply to `packet` when its job ends with `outcome`."""
        self.ask(packet, sink=sink)
        self.mesh.finish(outcome)
        return (sink or self.sink).last


def query(qtype: int = c.A, *, qname: bytes = QNAME, identity: int = 77, **options: Any) -> bytes:
    """A client's query."""
    return make_query(identity, qname, qtype, **options)


def address(ttl: int = 300, *, name: bytes = QNAME, count: int = 1, verdict: Verdict = Verdict.INSECURE) -> RRset:
    """An A RRset. With the verdict SECURE it has a signature, which nothing verifies."""
    sigs = [signature(c.A)] if verdict is Verdict.SECURE else []
    rdatas = [bytes([192, 0, 2 + n // 256, n % 256]) for n in range(count)]
    return RRset(name, c.A, ttl, rdatas, sigs=sigs, verdict=verdict)


def signature(covered: int) -> bytes:
    """The rdata of an RRSIG with a signature of zeros."""
    return (
        covered.to_bytes(2, "big")
        + b"\x0d\x03"
        + (300).to_bytes(4, "big")
        + bytes(8)
        + b"\x12\x34"
        + names.from_text("example.com.")
        + bytes(64)
    )


def positive(*answer: RRset, verdict: Verdict = Verdict.INSECURE, authority: tuple[RRset, ...] = ()) -> Outcome:
    """A successful outcome for QNAME and A."""
    sets = list(answer) or [address(verdict=verdict)]
    ttl = min(rrset.ttl for rrset in (*sets, *authority))
    return Outcome(Question(QNAME, c.A), c.NOERROR, sets, list(authority), verdict, ttl)


def failed(kind: FailureKind = FailureKind.TIMEOUT, ede: int = c.EDE_NO_REACHABLE_AUTHORITY, ttl: int = 5) -> Outcome:
    """A failed outcome (SERVFAIL) for QNAME and A."""
    outcome = Outcome(
        Question(QNAME, c.A),
        c.SERVFAIL,
        [],
        [],
        Verdict.INDETERMINATE,
        ttl,
        failure=Failure(kind, ede, "nobody answered"),
    )
    outcome.ede.append((ede, "nobody answered"))
    return outcome
