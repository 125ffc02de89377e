"""Queries over TLS to scripted servers: identity, padding, keepalive, resumption, pooling, and every way to fail.

The server that must see nothing listens for plain DNS on the same port number: no failure may send it a packet.
"""

import asyncio
import base64
import hashlib
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certs import Authority, Leaf
from support.loop_clock import stopped_clock
from support.observed import Observed
from support.upstream_peers import QNAME, Collector, StreamPeer, UdpPeer, echo

import corenet
from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply, Server
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.match import make_packet
from resolver.net.tls_upstream import TlsUpstream, with_options
from resolver.net.upstream import Upstream
from resolver.settings import IterationSettings
from resolver.upstream_address import Encryption
from resolver.wire import consts as c
from resolver.wire.message import MessageView

NAME = "dns.example"
SHORT = 0.1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Leaf:
    return authority.leaf(NAME, "127.0.0.1")


def context_of(leaf: Leaf) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)
    return context


def pin_of(path: Path) -> str:
    info = x509.load_pem_x509_certificate(path.read_bytes()).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def make(authority: Authority, **options: object) -> TlsUpstream:
    contexts = TlsContexts(str(authority.cafile))
    return TlsUpstream(
        asyncio.get_running_loop(), entropy=Entropy(), contexts=contexts, **options  # type: ignore[arg-type]
    )


def ask_for(port: int, *, name: str = NAME, pins: tuple[str, ...] = (), **options: object) -> Ask:
    options.setdefault("timeout", 20.0)
    server = Server("127.0.0.1", port, None, Encryption("tls", name, pins))
    return Ask(server, QNAME, c.A, tcp=True, **options)  # type: ignore[arg-type]


async def settle(upstream: TlsUpstream, *peers: StreamPeer) -> None:
    """Close everything; TLS needs some turns of the loop for it."""
    upstream.close()
    for peer in peers:
        await peer.close()
    await asyncio.sleep(0)


def run_on_both(body: Callable[[], object]) -> None:
    """On corenet's loop, whose TLS checks pins itself, and on asyncio's, where the upstream must."""
    corenet.run(body())  # type: ignore[arg-type]
    asyncio.run(body())  # type: ignore[arg-type]


def test_one_connection_serves_many_queries_and_describes_itself(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(tls=context_of(leaf)), make(authority), Collector()
        observed = Observed(None, {})
        upstream.observer = observed.observer
        for n in range(5):
            upstream.start(ask_for(peer.port), got)
            reply = (await got.wait(n + 1))[n]
            assert isinstance(reply, Reply) and reply.tcp
        assert reply.connection is not None
        facts = reply.connection.describe()
        assert (facts["version"], facts["subject"], facts["resumed"]) == ("TLSv1.3", NAME, False)
        assert facts["pin"] == pin_of(leaf.certificate)
        assert [len(queries) for queries in peer.connections] == [5]
        assert upstream.statistics()["handshakes"] == 1
        messages = observed.exchanged()
        assert messages[::2] == [("RESOLVER_QUERY", "DOT", query) for query in peer.connections[0]]
        assert messages[1::2] == [("RESOLVER_RESPONSE", "DOT", echo(query)[0]) for query in peer.connections[0]]
        await settle(upstream, peer)

    run_on_both(body)


def test_a_burst_shares_one_connection_until_it_is_busy(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(tls=context_of(leaf)), make(authority), Collector()
        for _ in range(limits.TLS_UPSTREAM_SPREAD):
            upstream.start(ask_for(peer.port), got)
        await got.wait(limits.TLS_UPSTREAM_SPREAD)
        assert len(peer.connections) == 1
        for _ in range(limits.TLS_UPSTREAM_SPREAD + 1):
            upstream.start(ask_for(peer.port), got)
        await got.wait(2 * limits.TLS_UPSTREAM_SPREAD + 1)
        assert len(peer.connections) == 2
        assert all(isinstance(x, Reply) for x in got.results)
        await settle(upstream, peer)

    corenet.run(body())


def test_replies_may_arrive_in_any_order_and_wrong_ones_are_ignored(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        held: list[bytes] = []

        def backwards(query: bytes) -> list[bytes]:
            held.append(query)
            if len(held) < 10:
                return []
            right = [echo(one)[0] for one in reversed(held)]
            return [bytes([right[0][0] ^ 1]) + right[0][1:], right[0][:13] + b"X" + right[0][14:], *right]

        peer, upstream, got = await StreamPeer.start(backwards, tls=context_of(leaf)), make(authority), Collector()
        for _ in range(10):
            upstream.start(ask_for(peer.port), got)
        assert all(isinstance(x, Reply) for x in await got.wait(10))
        assert upstream.unwanted_replies == 2
        await settle(upstream, peer)

    corenet.run(body())


def test_a_flood_of_messages_ends_the_connection(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(lambda query: [b"x" * 12] * 1000, tls=context_of(leaf))
        upstream, got = make(authority), Collector()
        upstream.start(ask_for(peer.port), got)
        [result] = await got.wait()
        assert isinstance(result, Failure) and result.kind is FailureKind.MALFORMED
        assert upstream.connection_count == 0
        await settle(upstream, peer)

    corenet.run(body())


# --- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["leaf", "authority"])
def test_with_a_name_the_pin_may_match_any_key_of_the_chain(authority: Authority, leaf: Leaf, of: str) -> None:
    pin = pin_of(leaf.certificate if of == "leaf" else authority.cafile)

    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(tls=context_of(leaf)), make(authority), Collector()
        upstream.start(ask_for(peer.port, pins=(pin,)), got)
        assert isinstance((await got.wait())[0], Reply)
        await settle(upstream, peer)

    run_on_both(body)


def test_a_pin_alone_accepts_any_issuer(authority: Authority, leaf: Leaf, tmp_path: Path) -> None:
    other_leaf = Authority(tmp_path).leaf("somebody.example")

    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(tls=context_of(other_leaf)), make(authority), Collector()
        upstream.start(ask_for(peer.port, name="", pins=(pin_of(other_leaf.certificate),)), got)
        assert isinstance((await got.wait())[0], Reply)
        await settle(upstream, peer)

    run_on_both(body)


REFUSED = [
    ("wrong name", {"name": "other.example"}, "the certificate is not for this host name"),
    ("wrong address", {"name": "192.0.2.1"}, "the certificate is not for this address"),
    ("wrong pin", {"pins": ("A" * 43 + "=",)}, "none of the pinned public keys"),
    ("wrong pin alone", {"name": "", "pins": ("A" * 43 + "=",)}, "none of the pinned public keys"),
    ("expired", {}, "has expired"),
    ("unknown authority", {}, "issuer is not known"),
    ("self-signed", {}, "self-signed"),
]


@pytest.mark.parametrize(("case", "identity", "words"), REFUSED, ids=[case for case, _, _ in REFUSED])
def test_a_server_that_fails_authentication_gets_no_query(
    case: str, identity: dict[str, object], words: str, authority: Authority, leaf: Leaf, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if case == "expired":
        leaf = authority.leaf(NAME, file="expired", expired=True)
    elif case == "unknown authority":
        leaf = Authority(tmp_path).leaf(NAME)
    elif case == "self-signed":
        made = Authority(tmp_path)
        leaf = Leaf(made.cafile, tmp_path / "ca.key")
        leaf.key.write_bytes(made.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        peer = await StreamPeer.start(tls=context_of(leaf))
        plain = await UdpPeer.start(port=peer.port)
        upstream, got = make(authority), Collector()
        upstream.start(ask_for(peer.port, **identity), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.NETWORK and failure.ede == c.EDE_NETWORK_ERROR
        assert words in failure.text and "127.0.0.1" in failure.text and f"port {peer.port} over TLS" in failure.text
        assert upstream.connection_count == 0
        assert upstream.statistics()["sent"] == 0 and upstream.statistics()["refused"] == 1
        assert not any(peer.connections) and not plain.queries
        plain.close()
        await settle(upstream, peer)

    run_on_both(body)
    assert words in caplog.text


# --- servers that fail ------------------------------------------------------------------------------------------------


class Raw:
    """A TCP server below TLS: `first` is sent to each client, whose bytes are kept. Without `first` it is silent."""

    def __init__(self, first: bytes | None) -> None:
        self.first = first
        self.received = bytearray()
        self.port = 0

    async def start(self) -> "Raw":
        self.writers: list[asyncio.StreamWriter] = []
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            if self.first is not None:
                writer.write(self.first)
            while data := await reader.read(65536):
                self.received += data
                if self.first == b"":
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"\0\x0cgarbage garbage garbage", "does not speak TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
        (b"\x15\x03\x03\0\2\x02\x28", "over TLS"),
        (b"", "ended the connection during the handshake"),
    ],
    ids=["garbage", "http", "alert", "closes"],
)
def test_a_server_without_tls_gets_no_query(authority: Authority, first: bytes, words: str) -> None:
    async def body() -> None:
        raw = await Raw(first).start()
        plain = await UdpPeer.start(port=raw.port)
        upstream, got = make(authority), Collector()
        upstream.start(ask_for(raw.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure) and failure.kind is FailureKind.NETWORK
        assert words in failure.text
        assert QNAME not in raw.received and not plain.queries
        assert upstream.connection_count == 0
        plain.close()
        upstream.close()
        await raw.close()

    run_on_both(body)


def test_the_timeout_includes_a_handshake_that_does_not_end(authority: Authority) -> None:
    async def body() -> None:
        raw = await Raw(None).start()
        plain = await UdpPeer.start(port=raw.port)
        upstream, got = make(authority), Collector()
        upstream.start(ask_for(raw.port, timeout=SHORT), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure) and failure.kind is FailureKind.TIMEOUT
        assert "no reply" in failure.text and "over TLS" in failure.text
        assert upstream.connection_count == 0
        assert QNAME not in raw.received and not plain.queries
        plain.close()
        upstream.close()
        await raw.close()

    run_on_both(body)


def test_a_server_that_closes_after_each_reply(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(tls=context_of(leaf), closes=True)
        upstream, got = make(authority), Collector()
        for n in range(5):
            upstream.start(ask_for(peer.port), got)
            assert isinstance((await got.wait(n + 1))[n], Reply)
        assert upstream.statistics()["resumed"] >= 1
        await settle(upstream, peer)

    corenet.run(body())


def test_a_slow_name_does_not_end_the_connection(authority: Authority, leaf: Leaf) -> None:
    """A recursive server is slow for some names while it answers others."""

    async def body() -> None:
        slow: list[bytes] = []
        peer = await StreamPeer.start(
            lambda query: [] if not slow and not slow.append(query) else echo(query),  # type: ignore[func-returns-value]
            tls=context_of(leaf),
        )
        upstream, got, late = make(authority), Collector(), Collector()
        with stopped_clock():  # the timeout covers the handshake, too
            upstream.start(ask_for(peer.port, timeout=SHORT), late)
            upstream.start(ask_for(peer.port), got)
            await got.wait(1)
        [failure] = await late.wait()
        assert isinstance(failure, Failure) and failure.kind is FailureKind.TIMEOUT
        upstream.start(ask_for(peer.port), got)
        await got.wait(2)
        assert len(peer.connections) == 1
        peer.script = lambda query: []
        upstream.start(ask_for(peer.port, timeout=SHORT), late)
        await late.wait(2)
        peer.script = echo
        upstream.start(ask_for(peer.port), got)
        await got.wait(3)
        assert len(peer.connections) == 2, "a connection on which nothing came since is left"
        await settle(upstream, peer)

    corenet.run(body())


def test_authorities_that_cannot_be_read_are_a_failure_with_the_reason(tmp_path: Path, leaf: Leaf) -> None:
    async def body() -> None:
        peer, got = await StreamPeer.start(tls=context_of(leaf)), Collector()
        upstream = TlsUpstream(
            asyncio.get_running_loop(), entropy=Entropy(), contexts=TlsContexts(str(tmp_path / "none.pem"))
        )
        upstream.start(ask_for(peer.port), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure) and "none.pem': cannot be read: No such file" in failure.text
        await settle(upstream, peer)

    corenet.run(body())


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", range(1, 60, 7))
def test_queries_are_padded_to_blocks(labels: int) -> None:
    qname = b"\3abc" * labels + b"\0"
    packet = make_packet(qname, c.A, 1, payload=1232, do=True)
    for keepalive in (False, True):
        padded = with_options(packet, keepalive=keepalive)
        assert len(padded) % 128 == 0 and len(padded) - len(packet) < 128 + 8
        edns = MessageView.parse(padded).edns
        assert edns is not None and set(edns.get(c.OPTION_PADDING) or b"\0") == {0}
        assert (edns.get(c.OPTION_KEEPALIVE) == b"") is keepalive


def test_every_query_is_padded_and_has_no_cookie(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer, upstream, got = await StreamPeer.start(tls=context_of(leaf)), make(authority), Collector()
        upstream.start(ask_for(peer.port, cookie=b""), got)
        await got.wait()
        [[query]] = peer.connections
        edns = MessageView.parse(query).edns
        assert len(query) % limits.QUERY_PADDING_BLOCK == 0
        assert edns is not None and edns.get(c.OPTION_COOKIE) is None and edns.get(c.OPTION_KEEPALIVE) == b""
        await settle(upstream, peer)

    corenet.run(body())


def with_keepalive(units: bytes) -> Callable[[bytes], list[bytes]]:
    """A script whose replies have a keepalive option with this content."""

    def script(query: bytes) -> list[bytes]:
        end = query.index(b"\0", 12) + 5
        option = struct.pack("!HH", c.OPTION_KEEPALIVE, len(units)) + units
        opt = b"\0" + struct.pack("!HHIH", c.OPT, 1232, 0, len(option)) + option
        return [query[:2] + b"\x80\0\0\1\0\0\0\0\0\1" + query[12:end] + opt]

    return script


@pytest.mark.parametrize(
    ("units", "seconds"),
    [
        (b"\0\x32", 5.0),
        (b"\xff\xff", limits.TLS_UPSTREAM_IDLE_MAX),
        (b"", limits.TLS_UPSTREAM_IDLE),
        (b"\1", limits.TLS_UPSTREAM_IDLE),
    ],
)
def test_the_idle_timeout_of_the_server_is_used(
    authority: Authority, leaf: Leaf, units: bytes, seconds: float
) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(with_keepalive(units), tls=context_of(leaf))
        upstream, got = make(authority), Collector()
        upstream.start(ask_for(peer.port), got)
        assert isinstance((await got.wait())[0], Reply)
        [connection] = upstream._open
        assert connection.idle_seconds == seconds and connection.idle_timer is not None
        await settle(upstream, peer)

    corenet.run(body())


def test_a_keepalive_of_zero_ends_the_use_of_the_connection(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(with_keepalive(b"\0\0"), tls=context_of(leaf))
        upstream, got = make(authority), Collector()
        for n in range(2):
            upstream.start(ask_for(peer.port), got)
            assert isinstance((await got.wait(n + 1))[n], Reply)
            assert upstream.connection_count == 0
        assert len(peer.connections) == 2
        await settle(upstream, peer)

    corenet.run(body())


def test_after_a_keepalive_of_zero_pending_replies_are_received(
    authority: Authority, leaf: Leaf
) -> None:
    async def body() -> None:
        held: list[bytes] = []

        def script(query: bytes) -> list[bytes]:
            held.append(query)
            return with_keepalive(b"\0\0")(query) if len(held) == 2 else echo(query) if len(held) == 3 else []

        peer, upstream = await StreamPeer.start(script, tls=context_of(leaf)), make(authority)
        got, due = Collector(), Collector()
        pending = upstream.start(ask_for(peer.port), due)
        upstream.start(ask_for(peer.port), got)
        await got.wait(1)
        upstream.start(ask_for(peer.port), got)
        await got.wait(2)
        assert [len(queries) for queries in peer.connections] == [2, 1]
        pending.cancel()
        await settle(upstream, peer)

    corenet.run(body())


def test_sessions_are_resumed_for_the_same_identity_only(authority: Authority, leaf: Leaf) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(tls=context_of(leaf))
        upstream, got = make(authority, idle_seconds=0), Collector()

        async def query(**identity: object) -> bool:
            upstream.start(ask_for(peer.port, **identity), got)
            reply = (await got.wait(len(got.results) + 1))[-1]
            assert isinstance(reply, Reply) and reply.connection is not None
            resumed = bool(reply.connection.describe()["resumed"])
            assert upstream.connection_count == 0
            return resumed

        assert not await query()
        assert await query()
        assert not await query(name="127.0.0.1")
        assert not await query(pins=(pin_of(leaf.certificate),))
        assert await query()
        await settle(upstream, peer)

    corenet.run(body())


# --- no way around it -------------------------------------------------------------------------------------------------


def test_an_encrypted_server_never_gets_a_plain_packet_whatever_the_query_says(
    authority: Authority, leaf: Leaf
) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(tls=context_of(leaf))
        plain = await UdpPeer.start(port=peer.port)
        upstream = Upstream(
            asyncio.get_running_loop(), IterationSettings(tls_cert_bundle=str(authority.cafile))
        )
        got = Collector()
        ask = ask_for(peer.port)
        ask.tcp = False
        upstream.start(ask, got)
        assert isinstance((await got.wait())[0], Reply)
        assert not plain.queries and [len(one) for one in peer.connections] == [1]
        assert upstream.statistics()["tls_sent"] == 1
        plain.close()
        upstream.close()
        await peer.close()

    corenet.run(body())


def test_slots_of_encrypted_connections_come_from_those_of_tcp() -> None:
    async def body() -> None:
        upstream = Upstream(asyncio.get_running_loop(), IterationSettings())
        before = upstream.stream._limit
        made = [upstream._encrypted(protocol) for protocol in ("tls", "https", "tls")]
        assert made[0] is made[2] and all(one._limit >= 1 for one in made)
        assert upstream.stream._limit + made[0]._limit + made[1]._limit == before
        upstream.close()

    corenet.run(body())


def test_plain_and_encrypted_queries_to_one_address_share_nothing(authority: Authority, leaf: Leaf) -> None:
    plain, encrypted = Server("127.0.0.1", 853), Server("127.0.0.1", 853, None, Encryption("tls", NAME))
    assert plain.key != encrypted.key
    assert encrypted.key != Server("127.0.0.1", 853, None, Encryption("tls", "other.example")).key
    assert encrypted.key == Server("127.0.0.1", 853, None, Encryption("tls", NAME)).key


