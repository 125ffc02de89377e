"""The interface between the generators and the driver: effects, their results, and the state that both use.

`iterate`, `validate` and `resolve` are generators that yield `Ask`, `Need`, `Verify` or `Pause` and are resumed with
the result. Failures are values (`Failure`), never exceptions, because a server that does not answer is normal and no
fault of the program. The classes have slots and a plain ``__init__``: one is made for each upstream packet, and a
frozen dataclass costs eight times as much per step. `Budget` is shared by all steps of one client query, `Context` by
all queries of a worker.
"""

from collections.abc import Callable, Collection, Generator, MutableSequence, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from resolver import limits
from resolver.query import Applied, Query
from resolver.verdict import Verdict
from resolver.wire.consts import CNAME, DNAME, EDE_OTHER, IN, class_to_text, ede_to_text, rcode_to_text, type_to_text
from resolver.wire.name import ROOT, equal, is_subdomain, lower, replace_suffix, to_text

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.cache.scoped import Scope, SubnetRules
    from resolver.cache.second_level import SharedReply
    from resolver.settings import Settings
    from resolver.upstream_address import Encryption
    from resolver.wire.message import MessageView
    from resolver.wire.rrset import RRset

__all__ = [
    "CLIENT_PURPOSES",
    "FOR_CLIENT",
    "FOR_DNSSEC",
    "FOR_NS_ADDRESS",
    "FOR_PREFETCH",
    "FOR_PRIMING",
    "AddressSynthesis",
    "Ask",
    "Budget",
    "ChildNsSets",
    "Context",
    "Delegations",
    "Effect",
    "EncryptedConnection",
    "Failure",
    "FailureKind",
    "Fetch",
    "Key",
    "Need",
    "Outcome",
    "Pause",
    "Policies",
    "Purpose",
    "Question",
    "RandomSource",
    "RawReply",
    "Reply",
    "SecondLevel",
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
    """Only replies that cannot be parsed or used."""
    CASE_MISMATCH = 4
    """A reply that matches except for the letter case of its qname (0x20): the server changes case, or it is forged."""
    RCODE = 5
    """The servers replied with an error (SERVFAIL, REFUSED, ...)."""
    LAME = 6
    """The servers do not serve the zone that was delegated to them."""
    UNREACHABLE = 7
    """No server of the zone could be queried, or none gave a usable reply."""
    CYCLE = 8
    """The query would wait for its own result (TsuNAME)."""
    BUDGET = 9
    """The client query has used up its packets, sub-queries, depth, referrals or aliases (NXNSAttack, CAMP)."""
    DEADLINE = 10
    """The client query has used up its time."""
    BOGUS = 11
    """DNSSEC validation failed (verdict BOGUS) or could not be completed (verdict INDETERMINATE)."""
    CACHED_ERROR = 12
    """A cached failure: the query is not tried again yet (RFC 9520)."""
    CANCELLED = 13
    """The resolver is closing."""
    INTERNAL = 14
    """A fault of this program."""
    LOCAL_RESOURCE = 15
    """This host could not send: it had no descriptor, buffer, memory or port left, or a limit of this program was
    reached. Nothing was sent, so nothing is known about the server."""
    NO_ROUTE = 16
    """This host cannot reach the address: no route, no address of that family, or its firewall forbids it."""
    OVERLOAD = 17
    """No job slot or memory was left for the query or one of its sub-queries, or it was ended for a newer query."""
    SPOOF_SUSPECTED = 18
    """Many UDP packets matched no query, so an off-path attacker may be guessing: to be queried again over TCP."""
    NO_FAMILY = 19
    """As NO_ROUTE, and the kernel has no route to the configured reference addresses of that family either."""
    POLICY = 20
    """A policy forbids the name servers of a zone; `Task.answered` is its answer."""
    QUOTA = 21
    """As many fetches of the zone, or queries to its servers, are outstanding as are permitted."""


class Failure:
    """The reason why something was not obtained: kind, Extended DNS Error code (RFC 8914), and a sentence.

    `verdict` is the security status of data that was obtained nevertheless: BOGUS when it failed validation,
    INDETERMINATE when a part of its chain of trust could not be obtained (RFC 4035 section 4.3), None when there was no
    data. A client that validates itself (CD) gets the data in the first two cases. `name` is the name that failed, when
    that is not the qname. No decision depends on the code; it is for clients only.
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
        """DNSSEC validation failed, or could not be completed."""
        return self.kind is FailureKind.BOGUS

    @property
    def is_timeout(self) -> bool:
        """Time ran out."""
        return self.kind in (FailureKind.TIMEOUT, FailureKind.DEADLINE)

    @property
    def is_unrouted(self) -> bool:
        """This host cannot reach the address that was to be queried."""
        return self.kind in (FailureKind.NO_ROUTE, FailureKind.NO_FAMILY)

    @property
    def is_transient(self) -> bool:
        """Trying again later may help."""
        return self.kind not in (FailureKind.BOGUS, FailureKind.CYCLE, FailureKind.INTERNAL)

    def __repr__(self) -> str:
        return f"Failure({self.kind.name}, {ede_to_text(self.ede)}, {self.text!r})"


class Question:
    """A name, a type and a class. Two are equal when they differ only in letter case."""

    __slots__ = ("key", "qclass", "qname", "qtype")

    def __init__(self, qname: bytes, qtype: int, qclass: int = IN) -> None:
        self.qname = qname
        self.qtype = qtype
        self.qclass = qclass
        self.key = (lower(qname), qtype, qclass)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Question({to_text(self.qname)} {class_to_text(self.qclass)} {type_to_text(self.qtype)})"


class Server:
    """One upstream address. `name` is the name-server name it was found by, for traces; `key` is for tables.

    `encryption` is how an encrypted server is reached, None for plain DNS. Then it is part of `key`.
    `edns_broken_until` is the monotonic second until which it is queried without EDNS, because it fails with it. It is
    of this zone only: another program may answer for another zone at the same address, to which anyone can delegate
    his, and without EDNS no signed zone there could be validated.
    """

    __slots__ = ("address", "edns_broken_until", "encryption", "key", "name", "port")

    def __init__(
        self, address: str, port: int, name: bytes | None = None, encryption: "Encryption | None" = None
    ) -> None:
        self.address = address
        self.port = port
        self.name = name
        self.encryption = encryption
        self.edns_broken_until = 0.0
        self.key: tuple[object, ...] = (address, port) if encryption is None else (address, port, encryption)

    @property
    def over(self) -> str:
        """The encrypted transport as a word for texts: TLS or HTTPS; empty for plain DNS."""
        return "" if self.encryption is None else self.encryption.protocol.upper()

    def __repr__(self) -> str:
        return f"Server({self.over}{' ' if self.over else ''}{self.address}#{self.port})"


class Purpose(IntEnum):
    """Why a question is resolved."""

    CLIENT = 0
    NS_ADDRESS = 1
    """Address of a name server: not validated, used only as destination of queries."""
    PRIMING = 2
    """The current root servers (RFC 9609)."""
    DNSSEC = 3
    """DS or DNSKEY for validation."""
    PREFETCH = 4
    """The cached answer for clients is to be replaced before it expires, so none is taken from the cache."""


# The members by names of the module; `verdict` says why.
FOR_CLIENT = Purpose.CLIENT
FOR_NS_ADDRESS = Purpose.NS_ADDRESS
FOR_PRIMING = Purpose.PRIMING
FOR_DNSSEC = Purpose.DNSSEC
FOR_PREFETCH = Purpose.PREFETCH

CLIENT_PURPOSES = frozenset({FOR_CLIENT, FOR_PREFETCH})
"""The answer is for clients: policies, aliases and DNS64 apply to it."""


# --- effects ------------------------------------------------------------------------------------------------------


class Ask:
    """Send one query to one server; resumed with `Reply` or `Failure`.

    `timeout` is how long the query waits, in seconds. `edns_payload` None sends no OPT record. `randomise_case` allows
    0x20; the exchange chooses message id, source port and letter case. `tcp` sends over TCP at once. `cookie` is the
    content of the COOKIE option: client and server cookie as the server returned them last, b"" for a new client cookie
    alone, None for no option (RFC 7873). `subnet` is the content of the client subnet option, None for no option (RFC
    7871). `zone` is the zone that the server is queried for; sockets are shared out by it. The first packet is charged
    already; `budget` is charged when the query must be sent again, None when nothing is. `joined`: another query has
    the same result and notes what it says about the server.
    """

    __slots__ = ("budget", "checking_disabled", "cookie", "do", "edns_payload", "joined", "qname", "qtype",
                 "randomise_case", "rd", "server", "subnet", "tcp", "timeout", "zone")

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
        subnet: bytes | None = None,
        zone: bytes = ROOT,
        budget: "Budget | None" = None,
    ) -> None:
        self.budget = budget
        self.joined = False
        self.subnet = subnet
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
        return f"Ask({self.server!r}, {to_text(self.qname)} {type_to_text(self.qtype)}, tcp={self.tcp})"


class Need:
    """Resolve another question, from the cache or by a job; resumed with `Outcome` or `Failure`.

    The sub-query spends the budget of the query that yields this.
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
    """Wait for some seconds; resumed with None."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Fetch:
    """Look a question up in the second-level cache; resumed with `SharedReply`, or with None when there is no usable
    reply in time. The time is charged to `budget`."""

    __slots__ = ("budget", "qname", "qtype")

    def __init__(self, qname: bytes, qtype: int, budget: "Budget") -> None:
        self.qname = qname
        self.qtype = qtype
        self.budget = budget


Effect: TypeAlias = Ask | Need | Verify | Pause | Fetch
Steps: TypeAlias = Generator[Effect, Any, T]


# --- results ------------------------------------------------------------------------------------------------------


class Reply:
    """The reply to an `Ask`; the exchange has matched address, port, id, question and letter case.

    `rtt` is in seconds. A truncated UDP reply is returned as it is (``view.tc``). `cookie` is the content of its COOKIE
    option with the client cookie checked, b"" without such an option or without a server cookie in it. `tcp`: it came
    over a connection, encrypted or not. `connection` describes an encrypted one, None for plain DNS.
    """

    __slots__ = ("connection", "cookie", "rtt", "server", "tcp", "view")

    def __init__(
        self,
        view: "MessageView",
        rtt: float,
        tcp: bool,
        server: Server,
        cookie: bytes = b"",
        connection: "EncryptedConnection | None" = None,
    ) -> None:
        self.connection = connection
        self.cookie = cookie
        self.view = view
        self.rtt = rtt
        self.tcp = tcp
        self.server = server


class EncryptedConnection(Protocol):
    """What a trace shows of an encrypted connection to a server."""

    def describe(self) -> dict[str, object]: ...


class RawReply:
    """The reply of one zone for one name, scrubbed and not yet validated: from `iterate` or the cache to `validate`.

    `answer` is the alias chain in order and, when the chain ends in data, the data. A CNAME without signatures that
    follows the DNAME it was made from was synthesised here (RFC 6672 section 3.1). `alias` is the name to resolve next,
    None when the chain is complete. `name` is the name that `rcode`, `soa` and `proofs` refer to: the last one of the
    chain, or an ancestor of the qname (`denies_ancestor`). `denied` is True for NODATA and NXDOMAIN. `zone` is the zone
    whose servers were queried (lower case), `server` the one that answered, None when the reply comes from the cache.
    `synthesised`: it was made from denials of other names (RFC 8198). `ttl` is how long a denial may be cached, in
    seconds. `scope`: the clients that it is for; None: all.
    """

    __slots__ = ("aa", "alias", "answer", "denied", "name", "proofs", "qname", "qtype", "rcode", "scope", "server",
                 "soa", "synthesised", "ttl", "zone")

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
        self.zone: bytes = ROOT
        self.server: Server | None = None
        self.scope: Scope | None = None
        self.synthesised = False
        self.ttl = 0

    @property
    def authority(self) -> "list[RRset]":
        """SOA and proofs in the order of an authority section."""
        return self.proofs if self.soa is None else [self.soa, *self.proofs]

    @property
    def denies_ancestor(self) -> bool:
        """Whether it is an NXDOMAIN for an ancestor of the qname, `name`, to which a minimised query was sent."""
        return self.denied and not self.answer and len(self.name) < len(self.qname)

    def dname_of(self, cname: "RRset") -> "RRset | None":
        """The DNAME of this reply that `cname` was synthesised from; None when `cname` is signed or fits no DNAME.

        A DNAME applies to names strictly below its owner, and the target must be exactly the name that it yields (RFC
        6672 sections 2.2 and 5.3.1).
        """
        if cname.rtype != CNAME or cname.sig_len:
            return None
        name = cname.name
        for dname in self.answer:
            if dname is cname:
                break  # a DNAME precedes the CNAME made from it
            if dname.rtype != DNAME or len(name) <= len(dname.name) or not is_subdomain(name, dname.name):
                continue
            target = replace_suffix(name, dname.name, dname.targets()[0])
            if target is not None and equal(target, cname.targets()[0]):
                return dname
        return None


class Outcome:
    """The result of a question. RRsets include their signatures; `ttl` is the lowest TTL of the records, in seconds.

    `stale`: the data has expired (RFC 8767); then `ttl` is how long the reply may be cached, 0 while resolution goes
    on. `authoritative`: the answer of a local zone, which has AA set (RFC 6303 section 3). `serial` is that of the
    cache when the job began, so that nothing made from the outcome is cached after a flush; the mesh sets it.
    `referral`: a delegation instead of an answer; its NS set and addresses are always part of the reply. `applied` is
    the policy that made or changed it last, None without. `synthesised`: a denial in it was made from those of other
    names (RFC 8198). `embedded` are the IPv4 addresses that the prefixes of DNS64 have in its answer. `scope`: the
    clients that it is for (RFC 7871); None: all. Only then it may be cached for others.
    """

    __slots__ = ("additional", "answer", "applied", "authoritative", "authority", "ede", "embedded", "failure",
                 "from_cache", "question", "rcode", "referral", "scope", "serial", "stale", "synthesised", "ttl",
                 "verdict")

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
        self.synthesised = False
        self.serial = 0
        self.scope: Scope | None = None
        self.referral = False
        self.authoritative = False
        self.applied: Applied | None = None
        self.embedded: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return (f"Outcome({self.question!r}, {rcode_to_text(self.rcode)}, answer={len(self.answer)}, "
                f"verdict={self.verdict}, failure={self.failure!r})")


class TraceStep:
    """One step of a resolution and its reason, in the order in which they happened.

    `kind` is one of: cache, cut, ask, reply, truncated, retry, referral, failure, need, alias, keys, ds, check, proof,
    validate, stale, dns64, policy. `text` is a sentence for people; the other fields are set where they apply. `rtt` is
    in seconds. `facts` are the data behind the text, by kind, for `resolver.explain` only. `at` is in seconds since the
    query began; the collector of the steps may set it.
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


Key: TypeAlias = tuple[tuple[bytes, int, int], int, int, int | None]
"""Key of a job, all that its outcome depends on: the key of its question; 1 without validation (CD), else 0, plus 2 for
the chain of trust, plus 4 for what iteration asks in a view with policies for name servers; the view; the slot of the
client's subnet (`SubnetRules.slot`)."""


class Budget:
    """What one client query may still use, sub-queries included. It is never increased (CVE-2026-50045 was a reset).

    `deadline` is in seconds of the monotonic clock. `failure` is set when packets, sub-queries, look-ups, time or job
    slots ran out, and is replaced only when time runs out later. `exhausted`: the query needed more of something than
    was left. Its failures from then on say nothing about the names involved. `failed` are the sub-queries that failed:
    none is started again for the same client query, even where the failure may not be cached for others. `insecure` are
    the delegations that were proved insecure, with the `SecurityStatus` of each. `octets` is an upper bound of what all
    jobs of the query hold; `accounted_octets` is the part that the mesh has added to its sum. `fetching` is for how
    long the query has waited for the second-level cache, in seconds. `missing` is how many name servers turned out to
    have no usable address. `subnet` is that of the client (`Query.subnet`). `shortened`: the query began with less than
    `FULL_TIME` percent of the time of the settings, so it is not cached that it ran out of something.
    """

    __slots__ = (
        "accounted_octets",
        "deadline",
        "exhausted",
        "failed",
        "failure",
        "fetching",
        "hashes",
        "insecure",
        "lookups",
        "missing",
        "octets",
        "packets",
        "queries",
        "shortened",
        "subnet",
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
        self.exhausted = False
        self.failed: dict[Key, FailedQuery] = {}
        self.insecure: dict[bytes, object] = {}
        self.octets = 0
        self.accounted_octets = 0
        self.fetching = 0.0
        self.missing = 0
        self.shortened = False
        self.subnet: tuple[bytes, int] | None = None

    def take_lookup(self) -> bool:
        """Count one `Need`, answered from the cache or not; False when none is left."""
        if self.lookups <= 0:
            self._run_out("too many look-ups for one query")
            return False
        self.lookups -= 1
        return True

    def take_query(self) -> bool:
        """Count one sub-query that needs a job; False when none is left."""
        if self.queries <= 0:
            self._run_out("too many sub-queries for one query")
            return False
        self.queries -= 1
        return True

    def _run_out(self, text: str) -> None:
        self.exhausted = True
        if self.failure is None:
            self.failure = Failure(FailureKind.BUDGET, EDE_OTHER, text)

    def take_packet(self) -> bool:
        """Count one upstream packet; False when none is left."""
        if self.packets <= 0:
            self._run_out("too many upstream queries for one query")
            return False
        self.packets -= 1
        return True

    def take_verifications(self, count: int) -> bool:
        """Count signature checks (KeyTrap, CVE-2023-50387); False when fewer than `count` are left."""
        if count > self.verifications:
            self.exhausted = True
            return False
        self.verifications -= count
        return True

    def take_hashes(self, blocks: int) -> bool:
        """Count blocks of 64 octets to be hashed (CVE-2023-50868); False when fewer than `blocks` are left."""
        if blocks > self.hashes:
            self.exhausted = True
            return False
        self.hashes -= blocks
        return True


ChildNsSets: TypeAlias = "dict[bytes, tuple[RRset, dict[bytes, list[RRset]]]]"
"""By zone (lower case): the NS set that its own servers sent, and the addresses with it by name server."""


class FailedQuery(NamedTuple):
    """A sub-query that failed: its failure, and `Task.local_error` and `Task.cycle` of its job."""

    failure: Failure
    local_error: Failure | None
    cycle: frozenset[Key]


class Task:
    """The parameters of one job: question, budget, purpose, depth, trace.

    `cache_checked`: cache and policies were looked up just before and have nothing for the qname. `child_ns` are the NS
    sets that zones sent about themselves during one client query, sub-queries included; `iterate` adds to it. `octets`
    is the size of all replies, sub-query results and cached sets given to the job. All of it counts as held until the
    job ends, because tracking what is freed earlier would cost more than it saves. `answered` is the answer of the
    policy that ended the job with a failure of kind POLICY. `told_subnet`: for the current name of the alias chain, a
    server was told the subnet of the client, so that a failure may concern this subnet only.

    `local_error` is the first local error because of which this job, or a sub-query of it that failed, did not query a
    server, or a later refusal of a sub-query; any later failure may be its consequence, and is cached for a short time
    or not at all. It is no matter of the whole client query, because its sub-queries are shared with others. `cycle`
    are the keys of the jobs that waited for this one when it needed them itself. A failure of it may be due to that.
    """

    __slots__ = (
        "answered", "budget", "cache_checked", "cd", "child_ns", "cycle", "depth", "local_error", "octets", "purpose",
        "question", "told_subnet", "trace",
    )

    def __init__(
        self,
        question: Question,
        budget: Budget,
        *,
        cd: bool = False,
        depth: int = 0,
        purpose: Purpose = Purpose.CLIENT,
        trace: MutableSequence[TraceStep] | None = None,
        cache_checked: bool = False,
        child_ns: "ChildNsSets | None" = None,
    ) -> None:
        self.question = question
        self.child_ns: ChildNsSets = {} if child_ns is None else child_ns
        self.budget = budget
        self.cache_checked = cache_checked
        self.cd = cd
        self.depth = depth
        self.purpose = purpose
        self.trace = trace
        self.octets = 0
        self.answered: Outcome | None = None
        self.told_subnet = False
        self.local_error: Failure | None = None
        self.cycle: frozenset[Key] = frozenset()

    def account_octets(self, octets: int) -> None:
        """Count octets that were given to this job."""
        self.octets += octets
        self.budget.octets += octets

    def note(self, kind: str, text: str, **fields: Any) -> None:
        """Record a step. Callers check ``trace is not None`` first, so that texts are formatted only when needed."""
        if self.trace is not None:
            self.trace.append(TraceStep(kind, text, depth=self.depth, **fields))


class RandomSource(Protocol):
    """Source of unpredictable numbers: the kernel's in the daemon, a seeded generator in tests."""

    def bits(self, count: int, /) -> int: ...

    def below(self, bound: int, /) -> int: ...


class Policies(Protocol):
    """The policies of a view before any server is queried; `Pipeline` of `resolver.policy` implements it."""

    def answer(self, question: Question, /) -> Outcome | None:
        """The answer for a question; None when it is resolved."""
        ...

    def answer_alias(self, question: Question, earlier: Collection[bytes] = (), /) -> Outcome | None:
        """The answer for the target of an alias, with the names before it in the chain (lower case); None when it is
        resolved."""
        ...

    def changes(self, question: Question, /) -> bool:
        """Whether `answer_alias` may have one. Nothing is counted."""
        ...


NameServerPolicy: TypeAlias = "Callable[[Question, bytes, Sequence[bytes], Sequence[Server]], Outcome | None]"
"""The policies for the servers of a zone: called with the question for the name being resolved, the zone, the names of
its servers (lower case) and their addresses as far as known; returns the answer to give instead of querying them."""
ResponsePolicy: TypeAlias = "Callable[[Query, Outcome], Outcome]"
"""The policies for finished outcomes: called for each client with its outcome; returns the one to give."""


class Zone(Protocol):
    """A zone with its servers: name and server names in lower case, the number of labels of the name, and the addresses
    that are known."""

    @property
    def zone(self) -> bytes: ...

    @property
    def labels(self) -> int: ...

    @property
    def names(self) -> Sequence[bytes]: ...

    @property
    def servers(self) -> Sequence[Server]: ...


class Delegations(Protocol):
    """The part of `DelegationCache` that other packages than `iterate` use."""

    def forward_or_stub_for(self, name: bytes, /) -> Zone | None: ...

    def forget(self, zone: bytes, /) -> None: ...


class AddressSynthesis(Protocol):
    """AAAA records made from A records (RFC 6147)."""

    def needs_addresses(self, outcome: Outcome, /) -> bool: ...

    def without_excluded(self, outcome: Outcome, /) -> Outcome: ...

    def synthesise(self, question: Question, without: Outcome, found: Outcome, /) -> Outcome: ...


class AggressiveDenials(Protocol):
    """Answers from verified denials of other names (RFC 8198)."""

    def answer(
        self, qname: bytes, qtype: int, context: "Context", budget: Budget, /, *, with_soa: bool
    ) -> tuple[RawReply, Verdict] | None: ...


class SecondLevel(Protocol):
    """A cache outside this process, shared with other resolvers."""

    def start(
        self, fetch: Fetch, on_reply: "Callable[[SharedReply | None], None]", /
    ) -> "Cancellable | None":
        """Perform a `Fetch`. `on_reply` is called once unless cancelled, never from inside `start`. None: it cannot be
        performed now, and `on_reply` is not called."""
        ...

    def share(self, raw: RawReply, verdict: int, now: int, /) -> None:
        """Store a reply of a zone for the others. `now` is in seconds since 1970."""
        ...


class Cancellable(Protocol):
    """An operation in progress."""

    def cancel(self) -> object: ...


class KeySentinel(Protocol):
    """Queries that test which root keys are trusted (RFC 8509)."""

    def forbids(self, question: Question, now: int, /) -> str | None: ...


class Validation(Protocol):
    """What `resolve` uses of the validator besides its verdicts."""

    @property
    def aggressive_nsec(self) -> AggressiveDenials | None: ...

    @property
    def sentinel(self) -> KeySentinel: ...

    def validates(self, name: bytes, now: int, /) -> bool:
        """Whether a trust anchor applies to `name` at the time `now`, and no negative one."""
        ...

    def shares_anchor(self, name: bytes, other: bytes, now: int, /) -> bool:
        """Whether the same trust anchor applies to both names at the time `now`, or none to either."""
        ...


class Context:
    """What all queries of one worker share. The driver sets `now` and `monotonic` before it resumes a generator.

    `now` is in whole seconds of the real-time clock (for the cache), `monotonic` in seconds (for timers). Each view has
    a context of its own, which differs from the others in `view` and the policies. `shares_failures`: no other view has
    local names, so a failure that local names cause may be cached.
    """

    __slots__ = (
        "delegations",
        "dns64",
        "has_server_rules",
        "monotonic",
        "name_server",
        "now",
        "on_query_end",
        "policy",
        "reads_second_level",
        "response",
        "rng",
        "second_level",
        "settings",
        "shares_failures",
        "store",
        "sub_policy",
        "subnets",
        "validation",
        "validator",
        "view",
    )

    def __init__(
        self, store: "Store", settings: "Settings", rng: RandomSource, policy: Policies | None = None, view: int = 0
    ) -> None:
        self.view = view
        self.shares_failures = True
        self.name_server: NameServerPolicy | None = None
        """None when no policy has the point."""
        self.has_server_rules: Callable[[], bool] | None = None
        """Whether one of them may object now; None: always. A policy zone may have no trigger for name servers."""
        self.response: ResponsePolicy | None = None
        """None when no policy has the point."""
        self.on_query_end: Callable[[bytes, float, bool], object] | None = None
        """Called when a query to a server of a zone has ended: zone, seconds, and whether there was a reply. None
        without watchers."""
        self.store = store
        self.settings = settings
        self.rng = rng
        self.policy = policy
        self.sub_policy: Policies | None = None
        """The policies for sub-queries for name servers and keys: own zones and built-in local zones. What is about
        clients does not apply to them; None without any."""
        self.now = 0
        self.monotonic = 0.0
        self.dns64: AddressSynthesis | None = None
        """None without DNS64."""
        self.second_level: SecondLevel | None = None
        """None without a second-level cache."""
        self.reads_second_level = False
        self.subnets: SubnetRules | None = None
        """None where no client subnet is ever sent."""
        self.delegations: Delegations
        """The delegation cache of `iterate`; to be set before any generator runs."""
        self.validation: Validation | None = None
        """None as `validator`."""
        self.validator: Callable[[Question, RawReply, Context, Task], Steps[tuple[Verdict, int, str]]] | None = None
        """``validate`` of the validator; None without validation."""

    def server_policy(self) -> "NameServerPolicy | None":
        """The policies for name servers, None when none of them may object now."""
        asks = self.has_server_rules
        return self.name_server if asks is None or asks() else None
