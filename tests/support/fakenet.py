"""A network in virtual time: delay, loss, reordering, truncation and forged packets, without sockets or clocks.

It implements the exchange and the clock that `resolver.mesh` needs. Thousands of resolutions per second run in one
thread, and each run is reproducible. Real packets are exchanged: the query is built, a host (bytes in, bytes out)
answers it, and the resolver's `match` decides whether it is the reply, with the same consequences as on sockets: a
reply with different letter case fails the query, and so do an error without a question and too many near misses.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from support.wire_names import randomise_case

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply
from resolver.mesh import Mesh
from resolver.net.match import cookie_of, explain_match, truncated_stub
from resolver.net.subnet_option import with_subnet
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

Host = Callable[[bytes, bool], bytes | None]
START = 1_700_000_000
HEADER = 12


@dataclass(slots=True)
class Link:
    """How packets to one address travel. Times in seconds, probabilities from 0 to 1."""

    delay: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    truncate_above: int = 65535
    """UDP replies longer than this arrive without records and with TC."""
    dead_tcp: bool = False
    unreachable: bool = False
    """There is no route: the query fails at once."""
    local: FailureKind | None = None
    """The query cannot be sent from here, for this reason."""


@dataclass(slots=True)
class Asked:
    """One query as the server saw it, for assertions."""

    at: float
    address: str
    qname: str
    qtype: int
    tcp: bool
    edns: int | None
    rd: bool
    do: bool
    cookie: bytes | None
    subnet: bytes | None = None


class SeededRandom:
    """The numbers of a run: unpredictable enough for the code, the same every time for the test."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count) if count else 0

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)


@dataclass(slots=True)
class _Pending:
    """A query under way; the exchange's handle."""

    ask: Ask
    on_reply: Callable[[Reply | Failure], None]
    query: bytes
    sent: float
    cookie: bytes | None
    tcp: bool
    unwanted_replies: int = 0
    over: bool = False

    def cancel(self) -> None:
        self.over = True


@dataclass
class FakeNet:
    """Hosts by address, and the time. Addresses without a host are unreachable silence."""

    hosts: dict[str, Host] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        self.now = 1000.0
        self.shift = 0
        self.log: list[Asked] = []
        self.forge: Callable[[Ask, bytes], list[tuple[float, bytes]]] | None = None
        """Packets that an attacker sends for a query: (delay in seconds, packet). He has not seen the query."""
        self.cancelled = 0
        self.ignored = 0
        self.spoofing_suspected = 0
        """Queries that UDP gave no proven reply to."""
        self._random = random.Random(self.seed)
        self._cookies = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    # --- clock ---

    def time(self) -> int:
        return START + self.shift + int(self.now)

    def monotonic(self) -> float:
        return self.now

    # --- exchange ---

    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], None]) -> _Pending:
        """Send `ask`; what comes of it happens when `run` gets there."""
        qname = randomise_case(ask.qname, self._random.getrandbits(256)) if ask.randomise_case else ask.qname
        flags = (c.RD if ask.rd else 0) | (c.CD if ask.checking_disabled else 0)
        cookie = ask.cookie
        if cookie is not None and not cookie:
            cookie = self._cookies.randbytes(8)
        query = make_query(
            self._random.getrandbits(16),
            qname,
            ask.qtype,
            flags=flags,
            edns_payload=ask.edns_payload,
            do=ask.do,
            options=[] if cookie is None else [(c.OPTION_COOKIE, cookie)],
        )
        if ask.subnet is not None:
            query = with_subnet(query, ask.subnet, cookie)
        pending = _Pending(ask, on_reply, query, self.now, cookie, ask.tcp)
        address = ask.server.address
        self.log.append(
            Asked(
                self.now,
                address,
                names.to_text(names.lower(ask.qname)),
                ask.qtype,
                ask.tcp,
                ask.edns_payload,
                ask.rd,
                ask.do,
                cookie,
                ask.subnet,
            )
        )
        link = self.links.get(address, Link())
        if link.local is not None:
            local = Failure(link.local, c.EDE_NETWORK_ERROR, "cannot send from here")
            self._at(0.0, lambda: None if pending.over else self._finish(pending, local))
            return pending
        if link.unreachable:
            failure = Failure(FailureKind.NETWORK, c.EDE_NETWORK_ERROR, "network is unreachable")
            self._at(0.0, lambda: None if pending.over else self._finish(pending, failure))
            return pending
        self._send(pending)
        if self.forge is not None and not ask.tcp:
            for delay, packet in self.forge(ask, query):
                self._at(delay, lambda packet=packet: self._arrive(pending, packet))
        self._at(ask.timeout, lambda: self._give_up(pending))
        return pending

    def _send(self, pending: _Pending) -> None:
        """Let the host have the query, over UDP or TCP, and its reply travel back."""
        tcp, address = pending.tcp, pending.ask.server.address
        link = self.links.get(address, Link())
        host = self.hosts.get(address)
        travel = link.delay + link.jitter * self._random.random()
        if host is None or self._random.random() < link.loss or (tcp and link.dead_tcp):
            return
        reply = host(pending.query, tcp)
        if reply is not None:
            if not tcp and len(reply) > link.truncate_above:
                reply = _truncated(reply)
            self._at(travel, lambda: self._arrive(pending, reply, tcp))

    def _at(self, delay: float, event: Callable[[], None]) -> None:
        heappush(self._events, (self.now + delay, next(self._order), event))

    def _arrive(self, pending: _Pending, packet: bytes, tcp: bool = False) -> None:
        if pending.over or tcp is not pending.tcp:
            return
        matched = explain_match(pending.query, packet)
        if matched == "case" and not tcp:
            self._finish(pending, Failure(FailureKind.CASE_MISMATCH, c.EDE_OTHER, "letter case differs"))
            return
        if matched == "bare" and not tcp:
            self._fail_unproved(pending)
            return
        if matched not in ("reply", "bare"):
            self._miss(pending)
            return
        try:
            view = MessageView.parse(packet)
        except WireError:
            stub = truncated_stub(packet)
            if stub is None:
                self.ignored += 1
                return
            packet = stub
            view = MessageView.parse(packet)
        cookie: bytes | None = b""
        if pending.cookie is not None:
            cookie = cookie_of(pending.cookie, view.edns)
            if cookie is None:
                self._miss(pending)
                return
        ask = pending.ask
        if view.qname is not None:
            # What is compressed against the question shall have the asker's spelling again.
            view = MessageView.parse(packet[:HEADER] + ask.qname + packet[HEADER + len(ask.qname) :])
        self._finish(pending, Reply(view, self.now - pending.sent, tcp, ask.server, cookie))

    def _miss(self, pending: _Pending) -> None:
        """A packet that matches nothing; many of them to one query look like an attack, which TCP ends."""
        self.ignored += 1
        pending.unwanted_replies += 1
        if not pending.tcp and pending.unwanted_replies >= limits.UNWANTED_REPLY_THRESHOLD:
            self._fail_unproved(pending)

    def _fail_unproved(self, pending: _Pending) -> None:
        self.spoofing_suspected += 1
        self._finish(pending, Failure(FailureKind.SPOOF_SUSPECTED, c.EDE_INVALID_DATA, "replies that prove nothing"))

    def _give_up(self, pending: _Pending) -> None:
        if not pending.over:
            self._finish(pending, Failure(FailureKind.TIMEOUT, c.EDE_NO_REACHABLE_AUTHORITY, "no reply in time"))

    def _finish(self, pending: _Pending, result: Reply | Failure) -> None:
        pending.over = True
        pending.on_reply(result)

    # --- turning it ---

    def run(self, mesh: Mesh, *, seconds: float = 60.0, until: Callable[[], bool] | None = None) -> None:
        """Let time pass until nothing is left to happen, `until` holds, or `seconds` are over."""
        end = self.now + seconds
        while until is None or not until():
            due = mesh.tick(self.now)
            assert mesh.next_timer() <= (float("inf") if due is None else due), "`MeshTimer` would come too late"
            if until is not None and until():
                return
            upcoming = self._events[0][0] if self._events else None
            if due is not None and (upcoming is None or due < upcoming):
                if due > end:
                    break
                self.now = max(self.now, due)
                continue
            if upcoming is None:
                return
            if upcoming > end:
                break
            self.now = max(self.now, upcoming)
            heappop(self._events)[2]()
        else:
            return
        self.now = end

    def sleep(self, mesh: Mesh, seconds: float) -> None:
        """Let `seconds` pass, with all that happens in them."""
        end = self.now + seconds
        self.run(mesh, seconds=seconds)
        self.now = max(self.now, end)

    # --- asking afterwards ---

    def asked(self, address: str | None = None, qname: str | None = None, qtype: int | None = None) -> list[Asked]:
        """The queries that servers saw, optionally only some."""
        return [
            entry
            for entry in self.log
            if address in (None, entry.address) and qname in (None, entry.qname) and qtype in (None, entry.qtype)
        ]


def hosts_from(authorities: Mapping[str, object]) -> dict[str, Host]:
    """Hosts out of objects with ``answer(packet, *, tcp)``."""
    return {address: _host(authority) for address, authority in authorities.items()}


def _host(authority: object) -> Host:
    answer = authority.answer  # type: ignore[attr-defined]
    return lambda packet, tcp: answer(packet, tcp=tcp)


def _truncated(reply: bytes) -> bytes:
    """Header with TC and the question, nothing else."""
    end = HEADER
    while reply[end]:
        end += reply[end] + 1
    flags = int.from_bytes(reply[2:4], "big") | c.TC
    return reply[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + reply[HEADER : end + 5]
