"""The whole vocabulary between the pure rooms and the driver: what a generator may ask for and what it gets back.

`iterate`, `validate` and `resolve` are generators that yield `Ask`, `Need`, `Verify` or `Pause` and are resumed with
the result; failures are values (`Failure`), never exceptions, because a server that does not answer is daily life
and not a fault of the program. The classes have slots and a plain ``__init__``: one is made for each upstream packet,
and a frozen dataclass costs eight times as much per step. What every step of one client query shares (`Budget`) and
what all queries of a worker share (`Context`) stand here too, since both sides of the line hold them.
"""

from collections.abc import Callable, Generator, MutableSequence, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from resolver import limits
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.settings import Settings
    from resolver.wire.message import MessageView
    from resolver.wire.rrset import RRset

__all__ = [
    "AddressSynthesis",
    "Ask",
    "Budget",
    "ChildNsSets",
    "Context",
    "Delegations",
    "Effect",
    "Failure",
    "FailureKind",
    "Key",
    "LocalAnswers",
    "Need",
    "Outcome",
    "Pause",
    "Purpose",
    "Question",
    "RandomSource",
    "RawReply",
    "Reply",
    "Server",
    "SignatureJob",
    "Steps",
    "Task",
    "TraceStep",
    "Validation",
    "Verify",
]

T = TypeVar("T")
SUB_QUERIES = limits.SUB_QUERIES
LOOK_UPS = limits.LOOK_UPS


class FailureKind(IntEnum):
    """Why something was not obtained."""

    TIMEOUT = 1
    """No reply in time."""
    NETWORK = 2
    """The network or the peer refused: unreachable, connection reset, TLS failure."""
    MALFORMED = 3
    """Only replies that no parser takes."""
    CASE_MISMATCH = 4
    """A reply that fits but for the letter case of its question (0x20): the server folds case, or it is forged."""
    RCODE = 5
    """The servers answered with a response code that is no answer (SERVFAIL, REFUSED, ...)."""
    LAME = 6
    """The servers do not serve the zone that was delegated to them."""
    UNREACHABLE = 7
    """No server of the zone could be asked or none gave a usable reply."""
    CYCLE = 8
    """Waiting for the result would be waiting for oneself (TsuNAME)."""
    BUDGET = 9
    """The client query has used up its upstream packets, depth or restarts (NXNSAttack, CAMP)."""
    DEADLINE = 10
    """The client query has used up its time."""
    BOGUS = 11
    """DNSSEC validation failed, or could not be done: the failure's verdict tells which."""
    CACHED_ERROR = 12
    """It failed a moment ago and is not tried again yet (RFC 9520)."""
    CANCELLED = 13
    """Nobody waits for it any more."""
    INTERNAL = 14
    """A fault of this program."""
    LOCAL_RESOURCE = 15
    """This host could not send: no descriptor, buffer, memory or port was left, or a limit of ours was reached. Nothing
    was sent, so it says nothing about any server."""
    NO_ROUTE = 16
    """No way leads from this host to the address: no route, no address of that family, or its firewall forbids it."""
    OVERLOAD = 17
    """No place was free for the question or one of its sub-queries, or its place was given to a newer one."""
    SPOOF_SUSPECTED = 18
    """Over UDP came only what others could have sent who have not seen the query: it is to be asked again over TCP."""
    NO_FAMILY = 19
    """As NO_ROUTE, and the kernel has no route either to those addresses of its family that no stranger has chosen."""


class Failure:
    """Something was not obtained: the kind, the Extended DNS Error code (RFC 8914) that tells it, and a sentence.

    `verdict` is the security status of what was obtained all the same: BOGUS when it did not pass validation,
    INDETERMINATE when its chain of trust could not be followed to the end, because something of it was not to be had
    (RFC 4035 section 4.3), None when there was no data. Who validates himself is refused nothing but for the last.
    `name` is the name at fault, when that is not the one that was asked for. The code is for showing: nothing is
    concluded from it.
    """

    __slots__ = ("ede", "kind", "name", "text", "verdict")

    def __init__(
        self, kind: FailureKind, ede: int, text: str, *, verdict: Verdict | None = None, name: bytes | None = None
    ) -> None:
        self.kind = kind
        self.ede = ede
        self.text = text
        self.verdict = Verdict.BOGUS if verdict is None and kind is FailureKind.BOGUS else verdict
        self.name = name

    def at(self, name: bytes) -> "Failure":
        """The same failure, of `name`."""
        return Failure(self.kind, self.ede, self.text, verdict=self.verdict, name=name)

    @property
    def is_bogus(self) -> bool:
        """DNSSEC validation failed, or could not be done."""
        return self.kind is FailureKind.BOGUS

    @property
    def is_timeout(self) -> bool:
        """Time ran out."""
        return self.kind in (FailureKind.TIMEOUT, FailureKind.DEADLINE)

    @property
    def is_unrouted(self) -> bool:
        """No way leads from this host to the address that was to be asked."""
        return self.kind in (FailureKind.NO_ROUTE, FailureKind.NO_FAMILY)

    @property
    def is_transient(self) -> bool:
        """Trying again later may help."""
        return self.kind not in (FailureKind.BOGUS, FailureKind.CYCLE, FailureKind.INTERNAL)

    def __repr__(self) -> str:
        return f"Failure({self.kind.name}, {c.ede_to_text(self.ede)}, {self.text!r})"


class Question:
    """A name, a type and a class. Two are equal when they differ only in letter case."""

    __slots__ = ("key", "qclass", "qname", "qtype")

    def __init__(self, qname: bytes, qtype: int, qclass: int = c.IN) -> None:
        self.qname = qname
        self.qtype = qtype
        self.qclass = qclass
        self.key = (names.lower(qname), qtype, qclass)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Question({names.to_text(self.qname)} {c.class_to_text(self.qclass)} {c.type_to_text(self.qtype)})"


class Server:
    """One upstream address. `name` is the name-server name it was found by, for traces; `key` is for tables."""

    __slots__ = ("address", "key", "name", "port")

    def __init__(self, address: str, port: int, name: bytes | None = None) -> None:
        self.address = address
        self.port = port
        self.name = name
        self.key = (address, port)

    def __repr__(self) -> str:
        return f"Server({self.address}#{self.port})"


class Purpose(IntEnum):
    """Why one question leads to another."""

    CLIENT = 0
    NS_ADDRESS = 1
    """Address of a name server: unvalidated, used for nothing but sending packets."""
    PRIMING = 2
    """The current root servers (RFC 9609)."""
    DNSSEC = 3
    """DS or DNSKEY for validation."""
    PREFETCH = 4


# --- effects ------------------------------------------------------------------------------------------------------


class Ask:
    """Send one question to one server; answered with `Reply` or `Failure`.

    `timeout` is in seconds. `edns_payload` None sends no OPT record. `randomise_case` allows 0x20; message id, source
    port and the letter case itself are the exchange's business. `tcp` asks for a stream at once. `cookie` is what the
    server gave us last, in full, b"" for a fresh one of ours alone, None for no COOKIE option (RFC 7873). `zone` is the
    delegation, or forwarded name, that the server is asked for: who shares sockets counts by it. The first packet is
    paid for; `budget` pays when the ask has to be sent once more, None for nobody.
    """

    __slots__ = ("budget", "checking_disabled", "cookie", "do", "edns_payload", "qname", "qtype", "randomise_case",
                 "rd", "server", "tcp", "timeout", "zone")

    def __init__(
        self,
        server: Server,
        qname: bytes,
        qtype: int,
        *,
        tcp: bool = False,
        edns_payload: int | None = limits.EDNS_PAYLOAD.default,
        do: bool = True,
        rd: bool = False,
        timeout: float,
        checking_disabled: bool = False,
        randomise_case: bool = True,
        cookie: bytes | None = None,
        zone: bytes = names.ROOT,
        budget: "Budget | None" = None,
    ) -> None:
        self.budget = budget
        self.zone = zone
        self.server = server
        self.qname = qname
        self.qtype = qtype
        self.tcp = tcp
        self.edns_payload = edns_payload
        self.do = do
        self.rd = rd
        self.timeout = timeout
        self.checking_disabled = checking_disabled
        self.randomise_case = randomise_case
        self.cookie = cookie

    def __repr__(self) -> str:
        return f"Ask({self.server!r}, {names.to_text(self.qname)} {c.type_to_text(self.qtype)}, tcp={self.tcp})"


class Need:
    """The answer to another question, through cache and mesh; resumed with `Outcome` or `Failure`.

    The sub-query shares the asking query's budget.
    """

    __slots__ = ("purpose", "question")

    def __init__(self, question: Question, purpose: Purpose) -> None:
        self.question = question
        self.purpose = purpose

    def __repr__(self) -> str:
        return f"Need({self.question!r}, {self.purpose.name})"


class SignatureJob:
    """One check: `signature` over `data` by the public `key` (DNSKEY key field) of `algorithm`."""

    __slots__ = ("algorithm", "data", "key", "signature")

    def __init__(self, algorithm: int, key: bytes, signature: bytes, data: bytes) -> None:
        self.algorithm = algorithm
        self.key = key
        self.signature = signature
        self.data = data


class Verify:
    """Signature checks, resumed with ``list[bool]`` in the order of `jobs`; they may run in threads."""

    __slots__ = ("jobs",)

    def __init__(self, jobs: Sequence[SignatureJob]) -> None:
        self.jobs = jobs


class Pause:
    """Let time pass; resumed with None."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


Effect: TypeAlias = Ask | Need | Verify | Pause
Steps: TypeAlias = Generator[Effect, Any, T]


# --- results ------------------------------------------------------------------------------------------------------


class Reply:
    """A packet that belongs to an `Ask`: address, port, id, question and letter case were matched by the exchange.

    `rtt` is in seconds. A truncated UDP reply is handed over as it is (``view.tc``). `cookie` is the content of its
    COOKIE option, our part of it checked; b"" when there was none, or none with a part of the server's.
    """

    __slots__ = ("cookie", "rtt", "server", "tcp", "view")

    def __init__(self, view: "MessageView", rtt: float, tcp: bool, server: Server, cookie: bytes = b"") -> None:
        self.cookie = cookie
        self.view = view
        self.rtt = rtt
        self.tcp = tcp
        self.server = server


class RawReply:
    """What one zone said about one name, scrubbed and not yet validated: the step between `iterate` and `validate`.

    `answer` is the alias chain in order and, when the chain ends in data, the data. A CNAME without signatures that
    follows the DNAME it was made from is synthesised here (RFC 6672 section 3.1). `alias` is the name that must be
    asked next, None when the chain is complete. `name` is the last name of the chain: what `rcode`, `soa` and
    `proofs` speak about. `denied` says that data does not exist (NODATA or NXDOMAIN). `zone` is the zone whose
    servers were asked (lower case), `server` the one that answered, None when it came from the cache. `ttl` is
    how long a denial may be kept, in seconds.
    """

    __slots__ = ("aa", "alias", "answer", "denied", "name", "proofs", "qname", "qtype", "rcode", "server", "soa", "ttl",
                 "zone")

    def __init__(self, qname: bytes, qtype: int) -> None:
        self.qname = qname
        self.qtype = qtype
        self.name = qname
        self.rcode = 0
        self.answer: list[RRset] = []
        self.soa: RRset | None = None
        self.proofs: list[RRset] = []
        self.alias: bytes | None = None
        self.denied = False
        self.aa = False
        self.zone: bytes = names.ROOT
        self.server: Server | None = None
        self.ttl = 0

    @property
    def authority(self) -> "list[RRset]":
        """SOA and proofs as they stand in an authority section."""
        return self.proofs if self.soa is None else [self.soa, *self.proofs]

    def dname_of(self, cname: "RRset") -> "RRset | None":
        """The DNAME of this reply that an unsigned CNAME was made from; None when it is a CNAME of its own.

        A DNAME speaks for names strictly below its owner, and the target must be exactly what it makes of the name
        (RFC 6672 sections 2.2 and 5.3.1).
        """
        if cname.rtype != c.CNAME or cname.sig_len:
            return None
        name = cname.name
        for dname in self.answer:
            if dname is cname:
                break  # a DNAME goes before what is made from it
            if dname.rtype != c.DNAME or len(name) <= len(dname.name) or not names.is_subdomain(name, dname.name):
                continue
            target = names.replace_suffix(name, dname.name, dname.targets()[0])
            if target is not None and names.equal(target, cname.targets()[0]):
                return dname
        return None


class Outcome:
    """What became of a question. RRsets carry their signatures; `ttl` is the least of what is shown, in seconds.

    `stale` data has expired (RFC 8767); its ``ttl`` says how long the reply may be kept:
    0 while better is being sought.
    `authoritative` is for local zones alone, whose answers have AA set (RFC 6303 section 3). `serial` is the cache's
    when the work on it began, so that nothing made from it is kept after a flush; the mesh sets it.
    `referral` says that it is a delegation instead of an answer: its NS set and addresses are shown whatever else is
    left out.
    """

    __slots__ = ("additional", "answer", "authoritative", "authority", "ede", "failure", "from_cache", "question",
                 "rcode", "referral", "serial", "stale", "ttl", "verdict")

    def __init__(
        self,
        question: Question,
        rcode: int,
        answer: "list[RRset]",
        authority: "list[RRset]",
        verdict: int,
        ttl: int,
        *,
        failure: Failure | None = None,
        from_cache: bool = False,
    ) -> None:
        self.question = question
        self.rcode = rcode
        self.answer = answer
        self.authority = authority
        self.additional: list[RRset] = []
        self.verdict = verdict
        self.ede: list[tuple[int, str]] = []
        self.ttl = ttl
        self.failure = failure
        self.from_cache = from_cache
        self.stale = False
        self.serial = 0
        self.referral = False
        self.authoritative = False

    def __repr__(self) -> str:
        return (f"Outcome({self.question!r}, {c.rcode_to_text(self.rcode)}, answer={len(self.answer)}, "
                f"verdict={self.verdict}, failure={self.failure!r})")


class TraceStep:
    """One step of a resolution and its reason, in the order in which they happened.

    `kind` is a word (cache, cut, ask, reply, truncated, retry, referral, failure, need, alias, keys, ds, check, proof,
    validate, stale, dns64); `text` says it to a person; the other fields are set where they mean something. `rtt` is in
    seconds. `facts` are what the text was made from, by kind, for `resolver.explain` alone; whoever collects the
    steps may stamp `at`, seconds since the question was put.
    """

    __slots__ = ("at", "depth", "facts", "kind", "qname", "qtype", "rcode", "rtt", "server", "text", "zone")

    def __init__(
        self,
        kind: str,
        text: str,
        *,
        depth: int = 0,
        zone: bytes | None = None,
        server: Server | None = None,
        qname: bytes | None = None,
        qtype: int = 0,
        rtt: float | None = None,
        rcode: int | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.at: float | None = None
        self.facts = facts
        self.kind = kind
        self.text = text
        self.depth = depth
        self.zone = zone
        self.server = server
        self.qname = qname
        self.qtype = qtype
        self.rtt = rtt
        self.rcode = rcode

    def __repr__(self) -> str:
        return f"TraceStep({self.kind}: {self.text})"


# --- what a query and a worker share ------------------------------------------------------------------------------


Key: TypeAlias = tuple[tuple[bytes, int, int], int]
"""Of a sub-query: the key of its question, and what is wanted of the answer."""


class Budget:
    """What one client query may still spend, sub-queries included. It only ever shrinks (CVE-2026-50045 is a reset).

    `deadline` is in seconds of the monotonic clock; `failure` is set once and for all when something ran out.
    `local_error` is the first local error met on the way that left servers unasked: whatever fails afterwards may fail
    because of it, and is remembered for a moment only. `exhausted`: something was asked for that was not left; what
    fails from then on is this query's failure, and says nothing about the names that it met. `failed` are the
    sub-queries that failed: none is tried again for the same client query, also where the failure may not be kept for
    others. `insecure` are the delegations that were proved insecure, with the finding of each, which is the
    validation's own. `octets` are what all work under way for the query holds, at most; `accounted_octets` is how much
    of it the mesh has summed up with that of others.
    """

    __slots__ = (
        "accounted_octets",
        "deadline",
        "exhausted",
        "failed",
        "failure",
        "hashes",
        "insecure",
        "local_error",
        "lookups",
        "octets",
        "packets",
        "queries",
        "verifications",
    )

    def __init__(
        self,
        packets: int,
        deadline: float,
        verifications: int = limits.BUDGET_VERIFICATIONS,
        hashes: int = limits.BUDGET_HASHES,
    ) -> None:
        self.packets = packets
        self.verifications = verifications
        self.hashes = hashes
        self.deadline = deadline
        self.queries = SUB_QUERIES
        self.lookups = LOOK_UPS
        self.failure: Failure | None = None
        self.local_error: Failure | None = None
        self.exhausted = False
        self.failed: dict[Key, Failure] = {}
        self.insecure: dict[bytes, object] = {}
        self.octets = 0
        self.accounted_octets = 0

    def take_lookup(self) -> bool:
        """Count one question that a step of the work asks, whoever knows the answer; False when there are none left."""
        if self.lookups <= 0:
            self._run_out("too many look-ups for one question")
            return False
        self.lookups -= 1
        return True

    def take_query(self) -> bool:
        """Count one sub-query that somebody has to work on; False when there are none left."""
        if self.queries <= 0:
            self._run_out("too many sub-queries for one question")
            return False
        self.queries -= 1
        return True

    def _run_out(self, text: str) -> None:
        self.exhausted = True
        if self.failure is None:
            self.failure = Failure(FailureKind.BUDGET, c.EDE_OTHER, text)

    def take_packet(self) -> bool:
        """Count one upstream packet; False when there are none left."""
        if self.packets <= 0:
            self._run_out("too many upstream queries for one question")
            return False
        self.packets -= 1
        return True

    def take_verifications(self, count: int) -> bool:
        """Count signature checks (KeyTrap, CVE-2023-50387); False when so many are not left."""
        if count > self.verifications:
            self.exhausted = True
            return False
        self.verifications -= count
        return True

    def take_hashes(self, blocks: int) -> bool:
        """Count blocks of 64 octets that are hashed (CVE-2023-50868); False when so many are not left."""
        if blocks > self.hashes:
            self.exhausted = True
            return False
        self.hashes -= blocks
        return True


ChildNsSets: TypeAlias = "dict[bytes, tuple[RRset, dict[bytes, list[RRset]]]]"
"""What zones (lower case) said of their servers: NS set, and addresses beside it by name server."""


class Task:
    """One question on its way: what `resolve` and the rooms below it know about who asked and why.

    `cache_checked` says that the cache and the policies were asked a moment ago and know nothing of it. `child_ns` is
    what zones said of their servers in the work on one client query, sub-queries included; `iterate` adds to it.
    `octets` are what was handed to the work on this question, in replies, answers to others, and sets from the cache.
    All of it counts as held until the work ends: to be told when it lets go of which would cost more than it is worth.
    """

    __slots__ = ("budget", "cache_checked", "cd", "child_ns", "depth", "octets", "purpose", "question", "trace")

    def __init__(
        self,
        question: Question,
        budget: Budget,
        *,
        cd: bool = False,
        depth: int = 0,
        purpose: Purpose = Purpose.CLIENT,
        trace: MutableSequence[TraceStep] | None = None,
        missed: bool = False,
        told: "ChildNsSets | None" = None,
    ) -> None:
        self.question = question
        self.child_ns: ChildNsSets = {} if told is None else told
        self.budget = budget
        self.cache_checked = missed
        self.cd = cd
        self.depth = depth
        self.purpose = purpose
        self.trace = trace
        self.octets = 0

    def account_octets(self, octets: int) -> None:
        """Count what was handed to the work on this question."""
        self.octets += octets
        self.budget.octets += octets

    def note(self, kind: str, text: str, **fields: Any) -> None:
        """Record a step. Callers check ``trace is not None`` first, so that nothing is formatted in vain."""
        if self.trace is not None:
            self.trace.append(TraceStep(kind, text, depth=self.depth, **fields))


class RandomSource(Protocol):
    """Unpredictable numbers from outside: the kernel's in the daemon, a seeded generator in tests."""

    def bits(self, count: int, /) -> int: ...

    def below(self, bound: int, /) -> int: ...


class LocalAnswers(Protocol):
    """What the policy room says about a question before anybody is asked."""

    def answer(self, question: Question, /) -> Outcome | None: ...


class Zone(Protocol):
    """A forward or stub zone, by its name in lower case."""

    @property
    def zone(self) -> bytes: ...


class Delegations(Protocol):
    """What others ask of that which `iterate` keeps for a worker."""

    def forward_or_stub_for(self, name: bytes, /) -> Zone | None: ...

    def forget(self, zone: bytes, /) -> None: ...


class AddressSynthesis(Protocol):
    """AAAA records made from A records (RFC 6147)."""

    def needs_addresses(self, outcome: Outcome, /) -> bool: ...

    def synthesise(self, question: Question, without: Outcome, found: Outcome, /) -> Outcome: ...


class AggressiveDenials(Protocol):
    """What verified denials of other names prove (RFC 8198)."""

    def answer(
        self, qname: bytes, qtype: int, context: "Context", budget: Budget, /, *, with_soa: bool
    ) -> tuple[RawReply, Verdict] | None: ...


class KeySentinel(Protocol):
    """Questions that test which root keys are trusted (RFC 8509)."""

    def forbids(self, question: Question, /) -> str | None: ...


class Validation(Protocol):
    """What `resolve` asks of the validator besides its verdicts."""

    @property
    def aggressive_nsec(self) -> AggressiveDenials | None: ...

    @property
    def sentinel(self) -> KeySentinel: ...


class Context:
    """What all queries of one worker share. `now` and `monotonic` are set by the driver before it resumes anybody.

    `now` is int seconds of the real-time clock (cache), `monotonic` float seconds (timers).
    """

    __slots__ = (
        "delegations",
        "dns64",
        "monotonic",
        "now",
        "policy",
        "rng",
        "settings",
        "store",
        "validation",
        "validator",
    )

    def __init__(
        self, store: "Store", settings: "Settings", rng: RandomSource, policy: LocalAnswers | None = None
    ) -> None:
        self.store = store
        self.settings = settings
        self.rng = rng
        self.policy = policy
        self.now = 0
        self.monotonic = 0.0
        self.dns64: AddressSynthesis | None = None
        """None when no addresses are made."""
        self.delegations: Delegations
        """What `iterate` has prepared from the settings; whoever makes the context sets it before anything runs."""
        self.validation: Validation | None = None
        """None as `validator`."""
        self.validator: Callable[[Question, RawReply, Context, Task], Steps[tuple[Verdict, int, str]]] | None = None
        """``validate`` of the validator, or None while nothing is to be validated."""
