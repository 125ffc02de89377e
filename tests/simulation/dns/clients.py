"""Clients that send packets to the parts behind a listener, with every flag and size.

`Front` is one worker's service with its fast path, beside the resolver of a run. `ClientQuery` is one query: over UDP
or TCP, with or without EDNS, with any of RD, AD, CD and DO, in any letter case, sometimes sent twice or signed with an
unknown key. First the form of a reply is checked against the query (`faults`): it must be a reply to it, fit the
client's size limit, and have AD and signatures only when the client requested them. Then it is converted to an outcome
and checked like any other.
"""

import random
import struct
from dataclasses import dataclass, field
from typing import Any

from support.wire_names import randomise_case

from resolver.cache import Store
from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.mesh import Clock, Mesh
from resolver.net.fastpath import FastPath
from resolver.net.pending_queries import PendingQuery
from resolver.net.service import Service
from resolver.policy import PolicyPipeline
from resolver.settings import Settings
from resolver.verdict import Verdict
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.edns import parse_ede
from resolver.wire.message import MessageView

__all__ = ["ClientQuery", "Front"]

CLIENT = ("127.0.0.1", 40_000)
HEADER = 12
SMALLEST, LARGEST = 512, 65_535
KEY = names.from_text("key.mallory.")
ALGORITHM = names.from_text("hmac-sha256.")
DNSSEC_TYPES = frozenset({c.RRSIG, c.NSEC, c.NSEC3})
DNSSEC_ERRORS = frozenset(range(c.EDE_DNSSEC_BOGUS, c.EDE_NSEC_MISSING + 1))


@dataclass(frozen=True)
class ClientQuery:
    """One query as it is sent."""

    question: Question
    identity: int
    qname: bytes
    flags: int
    payload: int | None
    do: bool
    stream: bool
    signed: bool
    twice: bool

    @classmethod
    def draw(cls, question: Question, rng: random.Random) -> "ClientQuery":
        """`question` as one of the many possible queries."""
        qname = randomise_case(question.qname, rng.getrandbits(256)) if rng.random() < 0.5 else question.qname
        flags = 0 if rng.random() < 0.05 else c.RD
        flags |= (c.CD if rng.random() < 0.2 else 0) | (c.AD if rng.random() < 0.5 else 0)
        payload = rng.choice((None, 0, SMALLEST, 1232, 4096, LARGEST))
        return cls(question, rng.getrandbits(16), qname, flags, payload, payload is not None and rng.random() < 0.6,
                   rng.random() < 0.3, rng.random() < 0.08, rng.random() < 0.1)

    def __repr__(self) -> str:
        flags = [word for bit, word in ((c.RD, "RD"), (c.AD, "AD"), (c.CD, "CD")) if self.flags & bit]
        flags += [word for has, word in ((self.do, "DO"), (self.signed, "TSIG"), (self.twice, "twice")) if has]
        return f"{self.question!r} over {'TCP' if self.stream else 'UDP'}, EDNS {self.payload}, {' '.join(flags)}"

    @property
    def cd(self) -> bool:
        return bool(self.flags & c.CD)

    @property
    def wants_verdict(self) -> bool:
        """Whether the reply may have AD (RFC 6840 section 5.7)."""
        return not self.cd and (self.do or bool(self.flags & c.AD))

    @property
    def packet(self) -> bytes:
        made = make_query(self.identity, self.qname, self.question.qtype, flags=self.flags, edns_payload=self.payload,
                          do=self.do)
        if not self.signed:
            return made
        content = ALGORITHM + struct.pack("!HIHH", 0, 1, 300, 32) + bytes(32) + struct.pack("!HHH", self.identity, 0, 0)
        record = KEY + struct.pack("!HHIH", c.TSIG, c.CLASS_ANY, 0, len(content)) + content
        return made[:10] + struct.pack("!H", int.from_bytes(made[10:12], "big") + 1) + made[12:] + record

    @property
    def limit(self) -> int:
        """Maximum size of the reply in octets."""
        return LARGEST if self.stream else max(SMALLEST, self.payload or 0)

    def faults(self, packet: bytes) -> list[str]:
        """Return what is wrong with the form of a reply."""
        try:
            view = MessageView.parse(packet)
        except WireError as error:
            return [f"the reply cannot be read: {error}"]
        question = struct.pack("!HH", self.question.qtype, c.IN)
        wrong = [] if packet.startswith(self.qname + question, HEADER) else ["the reply has another question"]
        kept = c.RD | c.CD
        if (view.id, view.flags & kept, view.opcode) != (self.identity, self.flags & kept, 0) or not view.qr:
            wrong.append(f"the reply has the id {view.id} and the flags {view.flags:#x}")
        if len(packet) > self.limit:
            wrong.append(f"the reply has {len(packet)} octets")
        if (view.edns is None) != (self.payload is None) or (view.edns is not None and view.edns.do != self.do):
            wrong.append(f"the reply has the OPT record {view.edns}")
        if view.ad and not self.wants_verdict:
            wrong.append("AD is set for a client that did not request it")
        # A client that queries for ANY requests these types too; their signatures need DO.
        unasked = DNSSEC_TYPES - (DNSSEC_TYPES if self.question.qtype == c.ANY else {self.question.qtype})
        if not self.do and any(
            rrset.rtype in unasked or rrset.sigs() for rrset in (*view.answer, *view.authority, *view.additional)
        ):
            wrong.append("signatures or proofs are sent to a client that did not request them")
        wrong += self._faults_of_refusal(view, packet)
        return wrong

    def _faults_of_refusal(self, view: MessageView, packet: bytes) -> list[str]:
        """Return what is wrong with the reply to a query that must be refused; empty for other queries."""
        if self.signed:
            # RFC 8945 section 5.2.1: the key is unknown, and the error reply is unsigned.
            content = ALGORITHM + struct.pack("!HIHH", 0, 1, 300, 0) + struct.pack("!HHH", self.identity, c.BADKEY, 0)
            record = KEY + struct.pack("!HHIH", c.TSIG, c.CLASS_ANY, 0, len(content)) + content
            if view.rcode != c.NOTAUTH or not packet.endswith(record):
                return [f"a query signed with an unknown key gets {c.rcode_to_text(view.rcode)}, not BADKEY"]
        elif not self.flags & c.RD:
            if view.rcode != c.REFUSED or view.answer:
                return [f"a query without RD gets {c.rcode_to_text(view.rcode)}"]
        elif view.rcode not in (c.NOERROR, c.NXDOMAIN, c.SERVFAIL, c.YXDOMAIN):
            return [f"a query gets {c.rcode_to_text(view.rcode)}"]
        return []

    def outcome(self, packet: bytes, *, maybe_stale: bool) -> Outcome | None:
        """Convert a reply without faults; None when it has no answer to the question.

        A client without EDNS cannot see that data is stale: `maybe_stale` is then assumed.
        """
        view = MessageView.parse(packet)
        if self.signed or not self.flags & c.RD or view.tc:
            return None
        soa = [rrset.ttl for rrset in view.authority if rrset.rtype == c.SOA]
        errors = [] if view.edns is None else [parse_ede(value) for code, value in view.edns.options
                                               if code == c.OPTION_EDE]
        failure = None
        if view.rcode == c.SERVFAIL:
            bogus = next((text for code, text in errors if code in DNSSEC_ERRORS), None)
            failure = Failure(FailureKind.UNREACHABLE if bogus is None else FailureKind.BOGUS, c.EDE_OTHER,
                              bogus or "SERVFAIL")
        found = Outcome(self.question, view.rcode, view.answer, view.authority,
                        Verdict.SECURE if view.ad else Verdict.INSECURE, min(soa, default=0), failure=failure)
        codes = {code for code, _ in errors}
        found.stale = maybe_stale if view.edns is None else bool(
            codes & {c.EDE_STALE_ANSWER, c.EDE_STALE_NXDOMAIN_ANSWER})
        return found


@dataclass
class _Sink:
    """Collects the replies to one client."""

    stream: bool
    packets: list[bytes] = field(default_factory=list)
    skipped: int = 0
    idle_timeout: float = 10.0
    padding_block: int = 0

    @property
    def origin(self) -> tuple[str, str]:
        return ("tcp" if self.stream else "udp", "127.0.0.1:53")

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        self.packets.append(packet)

    def skip(self) -> None:
        self.skipped += 1

    def forget(self, pending: PendingQuery) -> None:
        """Waiting queries are not stored here."""

    def abort(self) -> None:
        raise AssertionError("no reply could be made to a query that needs one")


class Asked:
    """A query that a front is processing."""

    def __init__(self, front: "Front", query: ClientQuery) -> None:
        self.front, self.query = front, query
        self.sink = _Sink(query.stream)
        self.expected = 2 if query.twice else 1
        joined = front.service.joined
        for _ in range(self.expected):
            front.take(query.packet, self.sink)
        self.expected -= front.service.joined - joined

    @property
    def over(self) -> bool:
        return len(self.sink.packets) + self.sink.skipped >= self.expected


class Front:
    """The service of one worker and its fast path, on the mesh and the cache of a run."""

    def __init__(self, settings: Settings, mesh: Mesh, store: Store, clock: Clock) -> None:
        plan = PolicyPipeline(settings)
        self.clock = clock
        self.fast = FastPath(store.answers, plan.access, prefetch=settings.cache.prefetch)
        self.service = Service(settings, mesh=mesh, plan=plan, fast=self.fast, clock=clock)

    def take(self, packet: bytes, sink: _Sink) -> None:
        """Process one packet of a client, as a listener does."""
        reply = self.fast.answer(packet, CLIENT, self.clock.time(), sink.stream)
        if reply is None:
            self.service.handle(packet, CLIENT, sink)
        elif reply:
            sink.send(reply, CLIENT)
        else:
            sink.skip()
