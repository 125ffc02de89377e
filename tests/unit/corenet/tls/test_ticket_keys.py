"""Session ticket keys: contexts with the same keys resume each other's sessions, and no others."""

import gc
import random
import ssl
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.tls_engines import ENGINES

from corenet.tls import server_context, set_ticket_keys

pytestmark = pytest.mark.skipif("openssl" not in ENGINES, reason="libssl is not to be had in this Python")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
OLD, NEW, NEXT, OTHER = (random.Random(n).randbytes(80) for n in range(4))


class Pair:
    """An authority, servers of it, and one client."""

    def __init__(self, folder: Path, version: ssl.TLSVersion) -> None:
        authority = Authority(folder)
        self.leaf = authority.leaf("dns.example")
        self.client = ssl.create_default_context(cafile=str(authority.cafile))
        self.client.minimum_version = self.client.maximum_version = version

    def server(self, *keys: bytes) -> ssl.SSLContext:
        context = server_context(self.leaf.certificate, self.leaf.key)
        if keys:
            set_ticket_keys(context, keys)
        return context

    def connect(self, server: ssl.SSLContext, session: Any = None) -> Any:
        """The client's end of a connection that has sent and received something."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = self.client.wrap_bio(to_client, to_server, server_hostname="dns.example", session=session)
        other = server.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(4):
            for side in (one, other):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        other.write(b"x")
        assert one.read(1) == b"x"  # with TLS 1.3, tickets come before it
        assert one.session_reused is other.session_reused
        return one


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(tmp_path, request.param)


@pytest.mark.parametrize(
    ("issued", "asked", "resumed"),
    [
        ((OLD,), (OLD,), True),
        ((OLD,), (NEW, OLD, NEXT), True),  # the former key, one period later
        ((NEXT, NEW), (NEW, OLD, NEXT), True),  # another process is ahead
        ((OLD, NEW), (NEW,), False),  # only the first key encrypts
        ((OLD,), (NEW,), False),
        ((), (NEW,), False),
        ((NEW,), (), False),
    ],
)
def test_only_contexts_with_the_key_of_a_ticket_resume_it(
    pair: Pair, issued: tuple[bytes, ...], asked: tuple[bytes, ...], resumed: bool
) -> None:
    session = pair.connect(pair.server(*issued)).session
    assert pair.connect(pair.server(*asked), session).session_reused is resumed


def test_a_ticket_of_the_former_key_is_renewed(pair: Pair) -> None:
    session = pair.connect(pair.server(OLD)).session
    second = pair.connect(pair.server(NEW, OLD), session)
    assert second.session_reused
    assert pair.connect(pair.server(OTHER, NEW), second.session).session_reused


def test_each_connection_of_tls_1_3_gets_a_new_ticket(pair: Pair) -> None:
    """As without our keys. With TLS 1.2 a ticket is kept while its key is the first one."""
    fresh = pair.client.minimum_version is ssl.TLSVersion.TLSv1_3
    for server in (pair.server(), pair.server(NEW)):
        sessions = [pair.connect(server).session]
        for _ in range(3):
            connection = pair.connect(server, sessions[-1])
            assert connection.session_reused
            sessions.append(connection.session)
        assert len({session.id for session in sessions}) == (4 if fresh else 1)


def test_keys_of_a_context_are_replaced(pair: Pair) -> None:
    server = pair.server(OLD)
    session = pair.connect(server).session
    set_ticket_keys(server, [NEW, OLD])
    assert pair.connect(server, session).session_reused
    set_ticket_keys(server, [NEXT, NEW])
    again = pair.connect(server, session)
    assert not again.session_reused
    assert pair.connect(pair.server(NEXT), again.session).session_reused


def test_the_context_that_sni_chooses_needs_the_keys_too(pair: Pair) -> None:
    first, chosen = pair.server(NEW), pair.server(NEW)

    def choose(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = chosen

    first.sni_callback = choose
    session = pair.connect(first).session
    assert pair.connect(first, session).session_reused
    set_ticket_keys(first, [OTHER])
    set_ticket_keys(chosen, [OTHER])
    assert not pair.connect(first, session).session_reused


def test_a_changed_ticket_is_not_accepted(pair: Pair) -> None:
    """Each key has its own name, so only octets of the key itself differ here: the MAC does not fit."""
    session = pair.connect(pair.server(NEW)).session
    assert not pair.connect(pair.server(NEW[:16] + OTHER[16:]), session).session_reused


def test_keys_live_as_long_as_their_context(pair: Pair) -> None:
    for _ in range(50):
        set_ticket_keys(server_context(pair.leaf.certificate, pair.leaf.key), [OLD, NEW, NEXT, OTHER])
    gc.collect()
    connection = pair.connect(pair.server(NEW))
    gc.collect()
    assert connection.session is not None


@pytest.mark.parametrize(
    ("keys", "words"),
    [([], "1 to 4"), ([NEW] * 5, "1 to 4"), ([NEW[:-1]], "80 bytes, not 79"), ([NEW, NEW + b"x"], "80 bytes, not 81")],
)
def test_wrong_keys_are_refused_and_change_nothing(pair: Pair, keys: list[bytes], words: str) -> None:
    server = pair.server(NEW)
    session = pair.connect(server).session
    with pytest.raises(ValueError, match=words):
        set_ticket_keys(server, keys)
    assert pair.connect(server, session).session_reused


def test_without_libssl_the_reason_is_given(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corenet.tls.tickets.load", lambda: "this version of Python is not known")
    with pytest.raises(RuntimeError, match="session ticket keys cannot be set: this version"):
        pair.server(NEW)
