"""The library: a validating recursive resolver inside the caller's own event loop.

`Resolver` connects settings, store, policies, mesh and the exchange with name servers. It works on any asyncio loop
that supports ``add_reader`` and is fastest on corenet's. An answer is a value, also when the name or data does not
exist; `Answer.raise_for_failure` raises exceptions instead. No socket is opened before the context is entered, and
leaving it closes all.
"""

import asyncio
import copy
import ipaddress
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from resolver import limits
from resolver.cache import Store
from resolver.effects import Failure, FailureKind, Outcome, Question, SignatureJob, TraceStep
from resolver.errors import Bogus, NoData, NXDomain, ResolveError, ServerFailure
from resolver.mesh import Mesh
from resolver.net.clock_random import Clock, Entropy
from resolver.net.driver import Crypto, MeshTimer
from resolver.net.upstream import Upstream
from resolver.partial_response import failure_outcome
from resolver.policy import Balancer, Hooks, OwnZones, PolicyModule, PolicyPipeline
from resolver.settings import ForwardZone, HostEntry, Settings, replace
from resolver.system import read_hosts_files
from resolver.upstream_address import parse_upstream
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable

if TYPE_CHECKING:
    from resolver.explain import Explanation, ServerReply
    from resolver.net.client_contexts import TlsContexts
    from resolver.net.second_level import SecondLevel
    from resolver.net.second_level_setup import SecondLevelFiles

__all__ = [
    "Answer",
    "ExtendedError",
    "ResolveTimeout",
    "Resolver",
    "ResolverStatistics",
    "Trace",
    "make_store",
    "to_wire",
]

logger = logging.getLogger(__name__)

_SEED_SIZE = 16


class ExtendedError(NamedTuple):
    """An Extended DNS Error (RFC 8914): its code and its text."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{c.ede_to_text(self.code)}: {self.text}" if self.text else c.ede_to_text(self.code)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a question.

    Iteration yields the records of the qtype as text, without aliases::

        async with Resolver() as resolver:
            for address in await resolver.resolve("example.org", "AAAA"):
                print(address)
    """

    question: Question
    rcode: int
    verdict: Verdict
    rrsets: tuple[RRset, ...]
    ttl: int
    ede: tuple[ExtendedError, ...]
    stale: bool
    outcome: Outcome = field(repr=False, compare=False)

    @property
    def secure(self) -> bool:
        """Whether the answer was validated as secure."""
        return self.verdict is Verdict.SECURE

    @property
    def rcode_text(self) -> str:
        """The response code as its mnemonic."""
        return c.rcode_to_text(self.rcode)

    @property
    def rrset(self) -> RRset | None:
        """The set of the qtype, at the end of all aliases; None when there is none."""
        for rrset in reversed(self.rrsets):
            if rrset.rtype == self.question.qtype:
                return rrset
        return None

    @property
    def canonical_name(self) -> str:
        """The last name of the alias chain when it has data, else the qname, as text with a final dot."""
        rrset = self.rrset
        return names.to_text(self.question.qname if rrset is None else rrset.name)

    def __iter__(self) -> Iterator[str]:
        rrset = self.rrset
        return iter(()) if rrset is None else (_rdata_text(rrset.rtype, rdata) for rdata in rrset.rdatas())

    def __len__(self) -> int:
        rrset = self.rrset
        return 0 if rrset is None else len(rrset)

    def raise_for_failure(self) -> Self:
        """Return the answer itself when it has data.

        Raises:
            NXDomain: the name does not exist.
            NoData: it has no data of this type.
            Bogus: DNSSEC validation failed or could not be completed.
            ResolveTimeout: no answer came in time.
            ServerFailure: any other failure.
        """
        error = error_from_outcome(self.outcome)
        if error is not None:
            raise error
        return self


@dataclass(frozen=True, slots=True)
class Trace:
    """Every step of a resolution and its reason; ``str()`` gives one line for each step.

    `explanation` has the steps sorted by subject, and `to_text`, `to_json` and `to_html` format it. `seconds` is the
    duration, `began` the start in seconds since 1970 (UTC), `validating` whether DNSSEC validation was enabled.
    """

    steps: tuple[TraceStep, ...]
    answer: Answer
    seconds: float = 0.0
    began: int = 0
    validating: bool = True
    source: str = "by iteration"
    server_reply: "ServerReply | None" = None
    """The reply of a server that was queried directly, besides the result by iteration."""

    def __iter__(self) -> Iterator[TraceStep]:
        return iter(self.steps)

    @property
    def explanation(self) -> "Explanation":
        """Delegations, upstream queries, the chain of trust, proofs, and data from the cache."""
        from resolver.explain import build_explanation

        return build_explanation(self.steps, self.answer.outcome, seconds=self.seconds, now=self.began,
                    validating=self.validating, source=self.source, server_reply=self.server_reply)

    def to_text(self, *, colour: bool = False, unicode: bool = True) -> str:
        """The explanation as trees for a terminal; with `colour`, with escape sequences (never ones from DNS data)."""
        from resolver.explain import to_text

        return to_text(self.explanation, colour=colour, unicode=unicode)

    def to_json(self, *, indent: int | None = None) -> str:
        """The explanation as one JSON object; docs/explain.md lists its keys."""
        from resolver.explain import to_json

        return to_json(self.explanation, indent=indent)

    def to_html(self) -> str:
        """The explanation as a self-contained HTML page with the chain of trust and a timeline."""
        from resolver.explain import to_page

        return to_page(self.explanation)

    def __str__(self) -> str:
        return "\n".join(f"{'  ' * step.depth}{step.kind}: {step.text}" for step in self.steps)


class ResolveTimeout(ResolveError, TimeoutError):
    """No answer came in time. It is also a `TimeoutError`, as callers of network code expect."""

    trace: Trace | None = None
    """The steps until the timeout, when `Resolver.explain` raised it."""


@dataclass(frozen=True, slots=True)
class ResolverStatistics:
    """Counters since the resolver was opened, by package."""

    cache: dict[str, int]
    mesh: dict[str, int]
    upstream: dict[str, int]


class Resolver:
    """A recursive resolver on the running event loop. An asynchronous context manager.

    `store` shares a cache between resolvers of one process; `hosts` are added to the hosts entries of the settings.
    `forward` are recursive resolvers to which all queries are sent, in the forms of the setting `addresses` of a
    forward zone, or whole forward zones; they are added to those of the settings. `modules` are policies that are
    called after local names (`resolver.policy.PolicyModule`). `hooks` are the functions of operators by the number of
    the view: listeners call all of them, the resolver itself `alias` and `name_server` only::

        async with Resolver(forward=["tls://9.9.9.9#dns.quad9.net", "tls://149.112.112.112#dns.quad9.net"]) as dns:
            print(list(await dns.resolve("example.org", "AAAA")))
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        hosts: Iterable[HostEntry] = (),
        forward: Iterable[str | ForwardZone] = (),
        modules: Iterable[PolicyModule] = (),
        hooks: Mapping[int, Hooks] | None = None,
    ) -> None:
        """Read the files that `settings` name: hosts files, and the authorities of encrypted servers. Nothing else is
        opened yet.

        Raises:
            ValueError: a setting is invalid; the text names it.
        """
        self.settings = _with_forwarders(settings or Settings(), forward)
        _check_quic(self.settings)
        self._second_level_files = _second_level_files(self.settings)
        self.tls_contexts = _tls_contexts(self.settings)
        self.zones = _zone_table(self.settings)
        """The zones of the settings; without content, which the daemon puts into it."""
        entries = (*read_hosts_files(self.settings.policy.hosts_files), *hosts)
        own = (OwnZones(self.zones),) if self.zones else ()
        database = self.settings.policy.geo_database
        countries = None
        if database and self.settings.balance:
            from resolver.geo import open_countries  # it needs an optional package

            countries = open_countries(database)
        self.balancer = Balancer(self.settings.balance, Entropy(), countries)
        """The balanced names; their targets count as up until a health check fails."""
        self.policy = PolicyPipeline(self.settings, entries, (*self.balancer.modules(), *modules, *own), hooks)
        self._given_store = store
        self._running: _Running | None = None

    # --- opening and closing --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.open(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the store, the mesh and its timer on `loop`; sockets are opened when first needed.

        Raises:
            RuntimeError: it is open already.
            OSError: the memory of the cache cannot be allocated.
        """
        if self._running is not None:
            raise RuntimeError("this resolver is open already")
        store = self._given_store or make_store(self.settings)
        running = _Running(loop, self.settings, self.policy, self.zones, store, self.tls_contexts)
        if self._second_level_files is not None:
            running.share(self.settings, self._second_level_files)
        self._running = running

    def with_empty_cache(self) -> "Resolver":
        """A resolver with the same settings, policies and own zones, and a small empty cache of its own, not open yet.

        Its explanations have all steps, because nothing is answered from the cache of this one.
        """
        small = replace(self.settings.cache, size=limits.EXPLAIN_CACHE, infra_cache_entries=limits.EXPLAIN_SERVERS)
        other = copy.copy(self)
        other._given_store = make_store(replace(self.settings, cache=small))
        other._second_level_files = None
        other._running = None
        return other

    def close(self) -> None:
        """Close every socket; queries in progress end with a failure. A second call does nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    @property
    def _open(self) -> "_Running":
        if self._running is None:
            raise RuntimeError("the resolver is not open; use it as 'async with Resolver() as resolver:'")
        return self._running

    @property
    def mesh(self) -> Mesh:
        """The driver, for listeners that submit client queries to it."""
        return self._open.mesh

    @property
    def store(self) -> Store:
        """The cache."""
        return self._open.store

    @property
    def second_level(self) -> "SecondLevel | None":
        """The second-level cache; None without one."""
        return self._open.second_level

    @property
    def upstream(self) -> Upstream:
        """The exchange with name servers."""
        return self._open.upstream

    @property
    def crypto(self) -> Crypto:
        """The signature checks."""
        return self._open.crypto

    @property
    def clock(self) -> Clock:
        """The clocks of the mesh."""
        return self._open.clock

    @property
    def timer(self) -> MeshTimer:
        """The timer of the mesh. Call its `process_timers` after submitting questions to the mesh directly."""
        return self._open.driver

    # --- resolution -----------------------------------------------------------------------------------------------

    async def resolve(
        self, name: str, rdtype: str | int = "A", *, validate: bool = True, timeout: float | None = None
    ) -> Answer:
        """Resolve `name`; at most `timeout` seconds and at most the deadline of the settings.

        With `validate` off, data that fails DNSSEC is returned as well (the CD bit of RFC 4035 section 3.2.2).

        Raises:
            ValueError: `name` is not a name, or `rdtype` is not a type.
            ResolveTimeout: no answer came within `timeout`.
        """
        return await self._ask(_question(name, rdtype), validate, timeout, None)

    async def addresses(self, host: str, *, timeout: float | None = None) -> list[IPv4Address | IPv6Address]:
        """The addresses of `host`, IPv6 first; a literal address is returned as it is.

        Raises:
            ResolveError: there is none. `NXDomain` and `NoData` only if the queries for both types had that result.
        """
        with suppress(ValueError):
            return [ipaddress.ip_address(host)]
        both = await asyncio.gather(
            self.resolve(host, "AAAA", timeout=timeout), self.resolve(host, "A", timeout=timeout)
        )
        found = [ipaddress.ip_address(text) for answer in both for text in answer]
        if not found:
            errors = [error for answer in both if (error := error_from_outcome(answer.outcome)) is not None]
            raise next((error for error in errors if not error.is_missing), errors[-1])
        return found

    async def explain(
        self, name: str, rdtype: str | int = "A", *, validate: bool = True, timeout: float | None = None
    ) -> Trace:
        """Resolve `name` and return every step with its reason.

        Raises:
            ValueError: `name` is not a name, or `rdtype` is not a type.
            ResolveTimeout: no answer came within `timeout`; its `trace` has the steps until then.
        """
        from resolver.explain import Recorder

        clock = self._open.clock
        question = _question(name, rdtype)
        steps, began, now = Recorder(clock.monotonic), clock.monotonic(), clock.time()
        validating = validate and self.settings.dnssec.active
        try:
            answer = await self._ask(question, validate, timeout, steps)
        except ResolveTimeout as error:
            failure = Failure(FailureKind.DEADLINE, c.EDE_NO_REACHABLE_AUTHORITY, f"no answer in {timeout:g} seconds")
            answer = _answer(failure_outcome(question, failure))
            error.trace = Trace(tuple(steps), answer, clock.monotonic() - began, now, validating)
            raise
        return Trace(tuple(steps), answer, clock.monotonic() - began, now, validating)

    async def _ask(
        self, question: Question, validate: bool, timeout: float | None, steps: list[TraceStep] | None
    ) -> Answer:
        running = self._open
        done: asyncio.Future[Outcome] = running.loop.create_future()

        def on_done(outcome: Outcome) -> None:
            if not done.done():
                done.set_result(outcome)

        request = running.mesh.submit(question, cd=not validate, on_done=on_done, trace=steps)
        try:
            running.driver.process_timers()
            async with asyncio.timeout(timeout):
                outcome = await done
        except TimeoutError:
            shown = f"{names.to_text(question.qname)} {c.type_to_text(question.qtype)}"
            raise ResolveTimeout(
                f"{shown}: no answer in {timeout:g} seconds", question=question, rcode=c.SERVFAIL
            ) from None
        finally:
            if not done.done() or done.cancelled():
                running.mesh.cancel(request)
        return _answer(outcome)

    # --- management -----------------------------------------------------------------------------------------------

    def flush(self, name: str, *, subtree: bool = False) -> int:
        """Remove `name`, or `name` and all names below it, from the cache; returns the number of entries removed.

        Raises:
            ValueError: `name` is not a name.
        """
        return self._open.store.drop(to_wire(name), subtree=subtree)

    def statistics(self) -> ResolverStatistics:
        """Counters since the resolver was opened."""
        running = self._open
        return ResolverStatistics(running.store.statistics(), running.mesh.statistics(), running.upstream.statistics())


class _Running:
    """The connected parts of an open resolver, on one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        policy: PolicyPipeline,
        zones: ZoneTable,
        store: Store,
        contexts: "TlsContexts | None",
    ) -> None:
        self.loop = loop
        self.store = store
        self.clock = Clock()
        entropy = Entropy()
        self.upstream = Upstream(
            loop,
            settings.iteration,
            entropy=entropy,
            reference_addresses=_reference_addresses(settings),
            contexts=contexts,
        )
        self.crypto = Crypto(loop, _signature_check(settings), clock=self.clock)
        self.mesh = Mesh(
            exchange=self.upstream,
            crypto=self.crypto,
            clock=self.clock,
            rng=entropy,
            store=store,
            settings=settings,
            policy=policy,
            zones=zones,
            own_addresses=_own_addresses(settings),
        )
        self.second_level: SecondLevel | None = None
        self.driver = MeshTimer(loop, self.mesh, self.clock)
        self.upstream.set_after_batch(self.driver.process_timers)
        self.crypto.after_batch = self.driver.process_timers

    def share(self, settings: Settings, files: "SecondLevelFiles") -> None:
        """Use the second-level cache of the settings."""
        from resolver.net import second_level_setup  # most resolvers have none

        self.second_level = second_level_setup.make(settings, files, self.loop, self.clock, self.driver.process_timers)
        if not files.secret:
            logger.warning("second-level cache: without second-level-cache.secret-file, any program that can write to"
                           " the engine can forge answers")
        if not self.mesh.set_second_level(self.second_level):
            logger.warning("second-level cache: written but not read, because a response policy zone may have triggers"
                           " for name servers (NSDNAME, NSIP)")
        self.second_level.open()

    def close(self) -> None:
        self.mesh.close()
        if self.second_level is not None:
            self.second_level.close()
        self.driver.close()
        self.upstream.close()
        self.crypto.close()


def _zone_table(settings: Settings) -> ZoneTable:
    """The zones of `settings` without content."""
    zones = [ServedZone(names.from_text(zone.name), Mode(zone.mode), fallback=zone.fallback)
             for zone in settings.own_zones]
    return ZoneTable(zones, Clock().time)


def _signature_check(settings: Settings) -> Callable[[SignatureJob], bool]:
    """The function for one signature check; `resolver.validate` is imported only with validation."""
    if not settings.dnssec.active:
        return _nothing_to_check
    from resolver.validate.verify import check

    return check


def _nothing_to_check(job: SignatureJob) -> bool:
    raise RuntimeError("a signature check was requested although validation is off")


def _own_addresses(settings: Settings) -> list[str]:
    """Addresses of this resolver, which it must not query itself."""
    port = settings.iteration.upstream_port
    own = (listener.key for listener in settings.listeners)
    return [address for address, own_port, protocol in own if protocol == "dns" and own_port == port]


def _reference_addresses(settings: Settings) -> list[str]:
    """Server addresses from the configuration, which no remote party can choose."""
    port = settings.iteration.upstream_port
    configured = [text for zone in settings.upstream_zones for text in zone.addresses]
    hints = [address for hint in settings.root_hints for address in hint.addresses]
    return hints + [parse_upstream(text, port, "a forward or stub zone").address for text in configured]


def _tls_contexts(settings: Settings) -> "TlsContexts | None":
    """What the encrypted servers of `settings` need; None without any. Modules for TLS are imported only with them.

    Raises:
        ValueError: the file of authorities cannot be used.
    """
    texts = [text for zone in settings.upstream_zones for text in zone.addresses]
    if not any("://" in text for text in (*texts, *(text for own in settings.own_zones for text in own.primaries))):
        return None
    from resolver.net.client_contexts import contexts_for

    return contexts_for(settings)


def _check_quic(settings: Settings) -> None:
    """Refuse servers that are queried over QUIC when its library is not installed.

    Raises:
        ValueError: naming the zone.
    """
    for zone in settings.upstream_zones:
        if any(text.lower().startswith("quic://") for text in zone.addresses):
            from resolver.net.quic_client import MISSING, is_installed

            if not is_installed():
                raise ValueError(f"forward: zone {zone.zone!r}: {MISSING}")


def _second_level_files(settings: Settings) -> "SecondLevelFiles | None":
    """The files of the second-level cache; None without one.

    Raises:
        ValueError: one cannot be used; the text names the setting.
    """
    if not settings.second_level_cache.servers:
        return None
    from resolver.net import second_level_setup  # most resolvers have none

    return second_level_setup.read_files(settings)


def _with_forwarders(settings: Settings, forward: Iterable[str | ForwardZone]) -> Settings:
    """`settings` with further forward zones; addresses as text are those of one zone for all names.

    Raises:
        ValueError: an address is invalid.
    """
    if isinstance(forward, str):
        raise ValueError("forward: a list of addresses or forward zones is needed, not one text")
    given = list(forward)
    zones = [zone for zone in given if isinstance(zone, ForwardZone)]
    addresses = tuple(text for text in given if isinstance(text, str))
    if addresses:
        try:
            zones.append(ForwardZone(".", addresses))
        except ValueError as error:
            raise ValueError(f"forward: {error}") from None
    return replace(settings, forward=(*settings.forward, *zones)) if zones else settings


def make_store(settings: Settings, *, shared: bool = False) -> Store:
    """An empty cache of the size in `settings`; with `shared`, its memory is shared with forked workers.

    Raises:
        OSError: the memory cannot be allocated.
    """
    want = settings.cache
    return Store.create(
        want.size,
        seed=os.urandom(_SEED_SIZE),
        shared=shared,
        max_ttl=want.max_ttl,
        max_negative_ttl=want.max_negative_ttl,
        payload=settings.server.max_udp_size,
        servers=want.infra_cache_entries,
    )


def to_wire(name: str) -> bytes:
    """A name in wire form. It is absolute with or without a final dot; a name that is not ASCII is encoded by IDNA
    2008.

    Raises:
        ValueError: it is not a name.
    """
    if not name:
        raise ValueError("the name is empty; the root is written '.'")
    if not name.isascii():
        import idna

        name = idna.encode(name, uts46=True).decode("ascii")
    return names.from_text(name if name.endswith(".") else name + ".")


def _question(name: str, rdtype: str | int) -> Question:
    return Question(to_wire(name), rdtype if isinstance(rdtype, int) else c.type_from_text(rdtype))


def _answer(outcome: Outcome) -> Answer:
    return Answer(
        outcome.question,
        outcome.rcode,
        Verdict(outcome.verdict),
        tuple(outcome.answer),
        outcome.ttl,
        tuple(ExtendedError(code, text) for code, text in outcome.ede),
        outcome.stale,
        outcome,
    )


def error_from_outcome(outcome: Outcome) -> ResolveError | None:
    """The exception for `outcome`; None when it has data."""
    question = outcome.question
    shown = f"{names.to_text(question.qname)} {c.type_to_text(question.qtype)}"
    kind: type[ResolveError]
    failure = outcome.failure
    if failure is not None:
        if failure.is_bogus:
            kind = Bogus
        elif failure.is_timeout:
            kind = ResolveTimeout
        else:
            kind = ServerFailure
        text = f"{shown}: {failure.text}"
    elif outcome.rcode == c.NXDOMAIN:
        kind, text = NXDomain, f"{shown}: no such name"
    elif outcome.rcode != c.NOERROR:
        kind, text = ServerFailure, f"{shown}: {c.rcode_to_text(outcome.rcode)}"
    elif not any(rrset.rtype == question.qtype or question.qtype == c.ANY for rrset in outcome.answer):
        kind, text = NoData, f"{shown}: no data of this type"
    else:
        return None
    return kind(text, question=question, rcode=outcome.rcode, ede=outcome.ede, failure=failure)


def _rdata_text(rtype: int, rdata: bytes) -> str:
    if rtype in (c.A, c.AAAA):
        return str(ipaddress.ip_address(rdata))
    from resolver.wire import present

    return present.rdata_to_text(rtype, rdata)
