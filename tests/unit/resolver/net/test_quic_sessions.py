"""Resumed sessions of DNS over QUIC: where they are used, where they are not, and never with early data."""

import asyncio
import datetime
from typing import Any

import pytest
from qh3.tls import CipherSuite, SessionTicket
from support.certs import Authority, Leaf
from support.quic_server import QuicServer
from support.upstream_peers import QNAME, Collector

import corenet
from corenet.limits import TLS_SESSION_LIFETIME, TLS_SESSIONS_PER_ORIGIN
from corenet.tls.sessions import SessionCache
from resolver.effects import Ask, Failure, Reply, Server
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.quic_tickets import Tickets
from resolver.net.quic_upstream import QuicUpstream
from resolver.upstream_address import Encryption
from resolver.wire import consts as c

NAME = "dns.example"
NOW = 1_800_000_000.0
FACTS: dict[str, object] = {"pin": "x"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Leaf:
    return authority.leaf(NAME, "127.0.0.1")


def make(contexts: TlsContexts) -> QuicUpstream:
    return QuicUpstream(asyncio.get_running_loop(), entropy=Entropy(), contexts=contexts, idle_seconds=0)


async def asked(upstream: QuicUpstream, port: int, name: str = NAME, pins: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the trace shows of the connection of a query."""
    got = Collector()
    server = Server("127.0.0.1", port, None, Encryption("quic", name, pins))
    upstream.start(Ask(server, QNAME, c.A, tcp=True, timeout=20.0), got)
    [reply] = await got.wait()
    assert isinstance(reply, Reply) and reply.connection is not None, reply
    return reply.connection.describe()



def test_a_session_is_resumed_for_the_same_identity_only(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        contexts = TlsContexts(str(authority.cafile))
        server, upstream = await QuicServer.start(leaf), make(contexts)
        first = await asked(upstream, server.port)
        again = await asked(upstream, server.port)
        assert (first["resumed"], again["resumed"]) == (False, True)
        for key in ("subject", "issuer", "not_after", "pin"):
            assert again[key] == first[key], "known from the full handshake"
        pin = str(first["pin"])
        for name, pins in (("127.0.0.1", ()), (NAME, (pin,)), ("", (pin,))):
            assert not (await asked(upstream, server.port, name, pins))["resumed"], (name, pins)
            assert (await asked(upstream, server.port, name, pins))["resumed"], (name, pins)
        found = upstream.statistics()
        assert (found["handshakes"], found["resumed"]) == (8, 4)
        other = await QuicServer.start(leaf)
        assert not (await asked(upstream, other.port))["resumed"], "another port"
        upstream.close()
        server.close()
        other.close()

    corenet.run(body())


def test_the_sessions_are_those_of_the_authorities(authority: Authority, leaf: Leaf) -> None:
    """A reload keeps them with the contexts; other authorities have none."""

    async def body() -> None:
        contexts = TlsContexts(str(authority.cafile))
        server, upstream = await QuicServer.start(leaf), make(contexts)
        await asked(upstream, server.port)
        upstream.close()
        upstream = make(contexts)
        assert (await asked(upstream, server.port))["resumed"]
        upstream.close()
        upstream = make(TlsContexts(str(authority.cafile)))
        assert not (await asked(upstream, server.port))["resumed"]
        upstream.close()
        server.close()

    corenet.run(body())


def test_a_ticket_unknown_to_the_server_leads_to_a_full_handshake(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        server, upstream = await QuicServer.start(leaf), make(TlsContexts(str(authority.cafile)))
        await asked(upstream, server.port)
        server.tickets.clear()
        assert not (await asked(upstream, server.port))["resumed"]
        assert (await asked(upstream, server.port))["resumed"]
        upstream.close()
        server.close()

    corenet.run(body())


def test_no_session_comes_from_a_server_without_the_pinned_key(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        contexts = TlsContexts(str(authority.cafile))
        server, upstream, got = await QuicServer.start(leaf), make(contexts), Collector()
        encryption = Encryption("quic", NAME, ("A" * 43 + "=",))
        for n in range(2):
            ask = Ask(Server("127.0.0.1", server.port, None, encryption), QNAME, c.A, tcp=True, timeout=20.0)
            upstream.start(ask, got)
            failure = (await got.wait(n + 1))[n]
            assert isinstance(failure, Failure) and "none of the pinned ones" in failure.text
        assert len(contexts.quic_sessions) == 0
        upstream.close()
        server.close()

    corenet.run(body())


# --- without sockets --------------------------------------------------------------------------------------------------


def ticket(label: bytes = b"t" * 100, seconds: int = 7200, early: int | None = 0xFFFFFFFF) -> SessionTicket:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    made = SessionTicket(
        age_add=1, cipher_suite=CipherSuite.AES_128_GCM_SHA256, not_valid_before=now,
        not_valid_after=now + datetime.timedelta(seconds=seconds), resumption_secret=bytes(32), server_name=NAME,
        ticket=label, max_early_data_size=early,
    )  # fmt: skip
    assert made.is_valid or not seconds
    return made


class Cached:
    def __init__(self) -> None:
        self.now = NOW
        self.cache = SessionCache(lambda: self.now)

    def connection(self, name: str = NAME) -> Tickets:
        return Tickets(self.cache, Encryption("quic", name), "192.0.2.1", 853)


def test_a_ticket_is_stored_without_early_data_and_used_once() -> None:
    cached = Cached()
    tickets = cached.connection()
    assert tickets.offer() is None
    tickets.authenticated(FACTS, int(NOW) + 10_000_000)
    tickets.take(ticket())
    again = cached.connection()
    offered = again.offer()
    assert offered is not None and offered.ticket == b"t" * 100 and offered.max_early_data_size is None
    assert again.resumed() == FACTS
    assert cached.connection().offer() is None
    assert cached.connection("other.example").offer() is None


def test_tickets_before_the_certificate_is_checked_are_held_and_bounded() -> None:
    cached = Cached()
    tickets = cached.connection()
    for n in range(100):
        tickets.take(ticket(bytes([n])))
    assert len(cached.cache) == 0 and len(tickets._held) == TLS_SESSIONS_PER_ORIGIN
    tickets.authenticated(FACTS, int(NOW) + 10_000_000)
    assert len(cached.cache) == TLS_SESSIONS_PER_ORIGIN and not tickets._held
    for n in range(100):
        tickets.take(ticket(bytes([n])))
    assert len(cached.cache) == TLS_SESSIONS_PER_ORIGIN


@pytest.mark.parametrize(
    ("lifetime", "not_after", "valid"),
    [(7200, 10**6, 7200), (7200, 100, 100), (10**7, 10**8, TLS_SESSION_LIFETIME)],
    ids=["ticket", "certificate", "limit"],
)
def test_a_session_expires_with_its_earliest_limit(lifetime: int, not_after: int, valid: int) -> None:
    for late, usable in ((valid - 1, True), (valid, False)):
        cached = Cached()
        tickets = cached.connection()
        tickets.authenticated(FACTS, int(NOW) + not_after)
        tickets.take(ticket(seconds=lifetime))
        cached.now = NOW + late
        assert (cached.connection().offer() is not None) is usable


def test_resuming_does_not_prolong_the_trust() -> None:
    cached = Cached()
    tickets = cached.connection()
    tickets.authenticated(FACTS, int(NOW) + 1000)
    for n in range(5):
        tickets.take(ticket(bytes([n]) * 50))
        cached.now = NOW + 200 * n
        tickets = cached.connection()
        assert tickets.offer() is not None
        tickets.resumed()
    tickets.take(ticket())
    cached.now = NOW + 1000
    assert cached.connection().offer() is None


def test_a_ticket_of_no_lifetime_or_too_many_octets_is_not_stored() -> None:
    cached = Cached()
    tickets = cached.connection()
    tickets.authenticated(FACTS, int(NOW) + 1000)
    tickets.take(ticket(seconds=0))
    tickets.take(ticket(bytes(65_000)))
    assert len(cached.cache) == 0


def test_a_failed_handshake_forgets_the_sessions_of_the_server() -> None:
    cached = Cached()
    tickets = cached.connection()
    tickets.authenticated(FACTS, int(NOW) + 1000)
    for n in range(3):
        tickets.take(ticket(bytes([n])))
    refused = cached.connection()
    assert refused.offer() is not None
    refused.failed()
    assert cached.connection().offer() is None
