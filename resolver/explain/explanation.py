"""From the steps of a resolution to its `Explanation`: exchanges, delegations, zones of the chain of trust, checks,
proofs.

Steps are recorded in the order of time; an `Explanation` groups them by subject. This module decides nothing: verdicts
and reasons come from the packages that found them. It makes one pass over the steps. A step without facts keeps its
text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resolver.effects import Failure, Outcome, Reply, Server, TraceStep
from resolver.explain import formats
from resolver.validate.records import Dnskey, Ds, Rrsig, parse_ds
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import parse_ede
from resolver.wire.rrset import RRset

__all__ = [
    "CacheUse",
    "Candidate",
    "Check",
    "Delegation",
    "Exchange",
    "Explanation",
    "Host",
    "Proof",
    "Recorder",
    "ServerReply",
    "ZoneTrust",
    "build_explanation",
]

EDE_CODE = 2  # octets before the text (RFC 8914 section 2)


class Recorder(list[TraceStep]):
    """Collects the steps of a resolution, with the seconds since its creation. Pass it as ``trace`` to the mesh."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._began = clock()

    def append(self, step: TraceStep, /) -> None:
        """Append a step and set its time."""
        step.at = self._clock() - self._began
        super().append(step)


@dataclass(slots=True)
class Candidate:
    """A server that could have been queried, its state, and the expected seconds (None: no reply so far)."""

    address: str
    name: bytes | None
    state: str
    rtt_estimate: float | None


@dataclass(slots=True)
class Exchange:
    """One query to one server. `seconds` is None when no reply came before the end."""

    number: int
    depth: int
    purpose: str
    zone: bytes
    address: str
    port: int
    name: bytes | None
    qname: bytes
    qtype: int
    at: float
    tcp: bool
    payload: int | None
    timeout: float | None
    why: str
    candidates: list[Candidate]
    seconds: float | None = None
    result: str = "no reply"
    good: bool = False
    text: str = ""
    rcode: int | None = None
    flags: int = 0
    octets: int | None = None
    server_payload: int | None = None
    cookie: bool = False
    ede: list[tuple[int, str]] = field(default_factory=list)
    over: str = ""
    """TLS or HTTPS for an encrypted query."""
    connection: dict[str, object] | None = None
    """Version, cipher, certificate and so on of its connection; None when it was not encrypted or not established."""

    @property
    def transport(self) -> str:
        """UDP, TCP, TLS or HTTPS."""
        return self.over or ("TCP" if self.tcp else "UDP")


@dataclass(slots=True)
class Host:
    """A name server and its addresses known at that time."""

    name: bytes | None
    addresses: list[str]


@dataclass(slots=True)
class Delegation:
    """A zone cut. `source` says where it is known from; `ds` is None without a referral."""

    zone: bytes
    parent: bytes | None
    source: str
    hosts: list[Host]
    depth: int
    purpose: str
    ttl: int | None = None
    referred_by: str | None = None
    ds: list[Ds] | None = None
    denial: bool = False
    """Whether the referral had records to prove the absence of a DS."""


@dataclass(slots=True)
class Check:
    """One check of a signature. `key` or `signature` is None when there was none to try; `text` says why."""

    owner: bytes
    rtype: int
    zone: bytes
    signature: Rrsig | None
    key: Dnskey | None
    verdict: Verdict
    text: str
    ede: int
    ttl: int

    @property
    def result(self) -> str:
        """The result: valid, invalid or not needed."""
        if self.verdict is Verdict.SECURE:
            return "valid"
        return "not needed" if self.verdict is Verdict.INSECURE else "invalid"


@dataclass(slots=True)
class Proof:
    """Records for a proof of absence."""

    what: str
    zone: bytes | None
    verdict: Verdict
    text: str
    records: list[RRset]


@dataclass(slots=True)
class ZoneTrust:
    """A zone of the chain of trust: its DS, keys, tags of keys that match a DS or anchor, signature checks."""

    zone: bytes
    verdict: Verdict
    text: str = ""
    anchor: bool = False
    cached: bool = False
    ds: list[Ds] = field(default_factory=list)
    keys: list[Dnskey] = field(default_factory=list)
    entry: list[int] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    denial: list[RRset] = field(default_factory=list)

    @property
    def shown(self) -> Verdict:
        """The verdict for display: also bogus when the keys are valid but data of the zone are not."""
        good = {(check.owner, check.rtype) for check in self.checks if check.verdict is Verdict.SECURE}
        bad = any(k.verdict is Verdict.BOGUS and (k.owner, k.rtype) not in good for k in self.checks)
        return Verdict.BOGUS if bad else self.verdict


@dataclass(slots=True)
class CacheUse:
    """Data that came from the cache; `records` is their number."""

    qname: bytes
    qtype: int
    text: str
    verdict: Verdict | None
    records: int
    depth: int


@dataclass(slots=True)
class ServerReply:
    """The reply of a recursive server to rdig, and its round-trip time in `seconds`."""

    server: str
    port: int
    rcode: int
    flags: int
    seconds: float
    octets: int
    transport: str
    answer: list[RRset]
    ede: list[tuple[int, str]]
    notes: list[str]


@dataclass(slots=True)
class Explanation:
    """All that is known about one query. Times are in seconds; `now` is the UTC time of its start."""

    outcome: Outcome
    seconds: float
    now: int
    validating: bool
    steps: Sequence[TraceStep]
    source: str
    server_reply: ServerReply | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    delegations: list[Delegation] = field(default_factory=list)
    zones: list[ZoneTrust] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    cache: list[CacheUse] = field(default_factory=list)
    aliases: list[bytes] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The verdict of the whole answer."""
        return Verdict(self.outcome.verdict)

    @property
    def failure(self) -> Failure | None:
        """The failure, or None."""
        return self.outcome.failure


def build_explanation(
    steps: Iterable[TraceStep],
    outcome: Outcome,
    *,
    seconds: float,
    now: int,
    validating: bool = True,
    source: str = "by iteration",
    server_reply: ServerReply | None = None,
) -> Explanation:
    """Group `steps` into the explanation of `outcome`; `seconds` is its duration, `now` the UTC time of its start."""
    kept = tuple(steps)
    explanation = Explanation(outcome, seconds, now, validating, kept, source, server_reply)
    _Builder(explanation).run(kept)
    return explanation


class _Builder:
    """Makes one pass over the steps. A query waits for one reply at a time, so a reply belongs to the last exchange."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        self.open: Exchange | None = None
        self.purposes = {0: "client"}
        self.cuts: dict[bytes, Delegation] = {}
        self.trust: dict[bytes, ZoneTrust] = {}

    def run(self, steps: Sequence[TraceStep]) -> None:
        handlers: dict[str, Callable[[TraceStep, dict[str, Any]], None]] = {
            "ask": self._ask, "reply": self._reply, "truncated": self._reply, "retry": self._reply,
            "failure": self._failure, "need": self._need, "cut": self._cut, "referral": self._referral,
            "cache": self._cache, "stale": self._cache, "alias": self._alias, "keys": self._keys, "ds": self._ds,
            "check": self._check, "proof": self._proof,
        }  # fmt: skip
        for step in steps:
            handler = handlers.get(step.kind)
            if handler is not None:
                handler(step, step.facts or {})
        explanation = self.explanation
        explanation.delegations = list(self.cuts.values())
        for check in explanation.checks:
            if check.signature is None:
                check.zone = self._home_of(check.zone)
            home = self._zone(check.zone)
            home.checks.append(check)
            if check.verdict is Verdict.BOGUS and home.verdict is not Verdict.SECURE:
                home.verdict, home.text = Verdict.BOGUS, check.text
        used = [zone for zone in self.trust.values() if zone.keys or zone.ds or zone.checks or zone.text]
        shown = [rrset.targets()[0] for rrset in explanation.outcome.answer if rrset.rtype == c.CNAME]
        if shown and explanation.outcome.question.qtype != c.CNAME:
            explanation.aliases = shown  # one reply can have several; the steps have only the last
        explanation.zones = sorted(used, key=lambda zone: names.canonical_key(zone.zone))

    # --- iteration ------------------------------------------------------------------------------------------------

    def _ask(self, step: TraceStep, facts: dict[str, Any]) -> None:
        server, qname = step.server, step.qname
        if server is None or qname is None:
            return
        known: Iterable[tuple[Server, str, float | None]] = facts.get("candidates", ())
        exchange = Exchange(
            len(self.explanation.exchanges) + 1, step.depth, self.purposes.get(step.depth, "client"),
            step.zone or names.ROOT, server.address, server.port, server.name, qname, step.qtype, step.at or 0.0,
            bool(facts.get("tcp")), facts.get("payload"), facts.get("timeout"), facts.get("why", step.text),
            [Candidate(s.address, s.name, word, expected) for s, word, expected in known], over=server.over,
        )  # fmt: skip
        self.explanation.exchanges.append(exchange)
        self.open = exchange

    def _reply(self, step: TraceStep, facts: dict[str, Any]) -> None:
        exchange, self.open = self.open, None
        if exchange is None:
            return
        exchange.seconds, exchange.rcode, exchange.text = step.rtt, step.rcode, step.text
        exchange.result = facts.get("kind") or {"retry": "no EDNS"}.get(step.kind, step.kind)
        exchange.good = exchange.result not in ("lame", "throwaway", "empty")
        reply = facts.get("reply")
        if isinstance(reply, Reply):
            view = reply.view
            exchange.flags, exchange.octets, exchange.tcp = view.flags, len(view.wire), reply.tcp
            if reply.connection is not None:
                exchange.connection = reply.connection.describe()
            if view.edns is not None:
                exchange.server_payload = view.edns.payload
                exchange.cookie = len(view.edns.get(c.OPTION_COOKIE) or b"") > c.COOKIE_CLIENT_SIZE
                exchange.ede = [
                    parse_ede(value) for code, value in view.edns.options
                    if code == c.OPTION_EDE and len(value) >= EDE_CODE
                ]  # fmt: skip

    def _failure(self, step: TraceStep, facts: dict[str, Any]) -> None:
        exchange = self.open
        if exchange is None or step.server is None:
            return
        self.open = None
        failure = facts.get("failure")
        exchange.seconds = max((step.at or 0.0) - exchange.at, 0.0)
        exchange.result = failure.kind.name.lower() if isinstance(failure, Failure) else "failed"
        exchange.text = failure.text if isinstance(failure, Failure) else step.text

    def _need(self, step: TraceStep, facts: dict[str, Any]) -> None:
        self.purposes[step.depth + 1] = facts.get("purpose", "client")

    def _cut(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.zone is None or step.zone in self.cuts:
            return
        hosts = _hosts(facts.get("names", ()), facts.get("servers", ()))
        self.cuts[step.zone] = Delegation(
            step.zone, None, facts.get("why", step.text), hosts, step.depth, self.purposes.get(step.depth, "client")
        )

    def _referral(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.zone is None or (step.zone in self.cuts and self.cuts[step.zone].parent is not None):
            return
        ds = facts.get("ds")
        records = [] if ds is None else [d for d in map(parse_ds, ds.rdatas()) if d is not None]
        self.cuts[step.zone] = Delegation(
            step.zone, facts.get("from"), "referral", _hosts(facts.get("names", ()), facts.get("servers", ())),
            step.depth, self.purposes.get(step.depth, "client"), ttl=facts.get("ttl"),
            referred_by=None if step.server is None else step.server.address, ds=records,
            denial=bool(facts.get("proofs")),
        )  # fmt: skip

    def _alias(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.qname is not None and step.depth == 0:
            self.explanation.aliases.append(step.qname)

    def _cache(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.qname is None:
            return
        verdict = facts.get("verdict")
        self.explanation.cache.append(CacheUse(
            step.qname, step.qtype, step.text, None if verdict is None else Verdict(verdict),
            sum(len(rrset) for rrset in facts.get("sets", ())), step.depth,
        ))  # fmt: skip

    # --- trust ----------------------------------------------------------------------------------------------------

    def _home_of(self, name: bytes) -> bytes:
        """The closest known zone of the chain that contains `name`."""
        known = {zone for zone, trust in self.trust.items() if trust.keys or trust.ds or trust.text} | {*self.cuts}
        return max((zone for zone in known if names.is_subdomain(name, zone)), key=len, default=name)

    def _zone(self, zone: bytes) -> ZoneTrust:
        known = self.trust.get(zone)
        if known is None:
            known = self.trust[zone] = ZoneTrust(zone, Verdict.INDETERMINATE)
        return known

    def _ds(self, step: TraceStep, facts: dict[str, Any]) -> None:
        verdict = facts.get("verdict")
        if step.zone is None or verdict is Verdict.SECURE:
            return  # no zone cut
        zone = self._zone(step.zone)
        zone.ds = list(facts.get("ds", ()))
        zone.denial = [r for r in facts.get("proofs", ()) if r.rtype in (c.NSEC, c.NSEC3)]
        if verdict is not None and zone.verdict is not Verdict.SECURE:
            zone.verdict, zone.text = Verdict(verdict), step.text

    def _keys(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.zone is None:
            return
        zone = self._zone(step.zone)
        if facts.get("cached") and zone.keys:
            return
        zone.keys = list(facts.get("keys", ()))
        zone.ds = list(facts.get("ds", ())) or zone.ds
        zone.anchor = zone.anchor or bool(facts.get("anchor"))
        zone.entry = [key.tag for key in facts.get("entry", ())]
        zone.cached = bool(facts.get("cached"))
        if zone.cached:
            zone.verdict = Verdict.SECURE
        elif not zone.entry:
            zone.verdict, zone.text = (
                Verdict.BOGUS,
                f"no key of {names.to_text(zone.zone)} matches a DS of its parent",
            )

    def _check(self, step: TraceStep, facts: dict[str, Any]) -> None:
        if step.zone is None or step.qname is None:
            return
        check = Check(
            step.qname, step.qtype, step.zone, facts.get("signature"), facts.get("key"),
            Verdict(facts.get("verdict", Verdict.INDETERMINATE)), step.text, facts.get("ede", -1), facts.get("ttl", 0),
        )  # fmt: skip
        same = any(
            (k.owner, k.rtype, k.signature, k.key, k.verdict)
            == (check.owner, check.rtype, check.signature, check.key, check.verdict)
            for k in self.explanation.checks
        )
        if same:
            return
        self.explanation.checks.append(check)
        if check.rtype == c.DNSKEY and names.equal(check.owner, check.zone):
            zone = self._zone(check.zone)
            if check.verdict is Verdict.SECURE:
                zone.verdict, zone.text = Verdict.SECURE, ""

    def _proof(self, step: TraceStep, facts: dict[str, Any]) -> None:
        proof = Proof(
            facts.get("what", step.text),
            step.zone,
            Verdict(facts.get("verdict", 0)),
            facts.get("text", ""),
            list(facts.get("records", ())),
        )
        if all((p.what, p.verdict) != (proof.what, proof.verdict) for p in self.explanation.proofs):
            self.explanation.proofs.append(proof)


def _hosts(found: Iterable[bytes], servers: Iterable[Server]) -> list[Host]:
    """Name servers in the order of the NS RRset with their addresses; addresses without a name come last."""
    hosts = {name: Host(name, []) for name in found}
    for server in servers:
        key = None if server.name is None else names.lower(server.name)
        if key not in hosts and key is not None:
            hosts[key] = Host(key, [])
        elif key is None:
            hosts.setdefault(b"", Host(None, []))
        hosts[key or b""].addresses.append(server.address)
    return list(hosts.values())


def depth_in(zones: Sequence[ZoneTrust], zone: ZoneTrust) -> int:
    """The number of zones of the chain above `zone`."""
    return sum(1 for other in zones if other is not zone and names.is_subdomain(zone.zone, other.zone))


def question_of(explanation: Explanation) -> str:
    """Name and type as text."""
    question = explanation.outcome.question
    return formats.question(question.qname, question.qtype)


def zone_over(explanation: Explanation, name: bytes) -> bytes:
    """The closest zone of the explanation that contains `name`."""
    known = {one.zone for one in explanation.delegations} | {one.zone for one in explanation.zones}
    return max((zone for zone in known if names.is_subdomain(name, zone)), key=len, default=name)
