"""DNS over QUIC on real sockets, on both loops: queries, broken rules, hostile clients, limits."""

import asyncio
import random
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from support import waiting
from support.certs import Authority
from support.quic_client import QuicPeer, client_configuration
from support.service_parts import QNAME, Parts, address, positive, query

import corenet
from resolver import limits
from resolver.net import doq
from resolver.net.clock_random import Clock
from resolver.net.quic_hello import HelloReader
from resolver.net.quic_listener import QuicListener
from resolver.net.quic_packets import parse_header
from resolver.net.turns import Turns
from resolver.net.udp_listener import open_udp_socket
from resolver.policy import AccessTable
from resolver.wire import consts as c
from resolver.wire.message import MessageView

TIMEOUT = 30
Body = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(params=[asyncio.new_event_loop, corenet.new_event_loop], ids=["asyncio", "corenet"])
def run(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def limited() -> None:
            async with asyncio.timeout(TIMEOUT):
                await body()

        with asyncio.Runner(loop_factory=request.param) as running:
            running.run(limited())

    return runner


async def until(condition: Callable[[], object]) -> None:
    """Wait for the server's side."""
    await waiting.until(condition, "the server's side")


class Keys:
    """The certificates of this module: one authority and two leaves."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.leaf = authority.leaf("dns.example", "127.0.0.1")
        self.other = authority.leaf("other.example", file="other")
        self.cafile = authority.cafile

    def server(self, *leaves: Any, **named: Any) -> Any:
        """The configurations with the first of `leaves`, and others by name ("_" for a dot)."""
        return {
            name.replace("_", "."): self._configuration(leaf)
            for name, leaf in {"": leaves[0] if leaves else self.leaf, **named}.items()
        }

    def _configuration(self, leaf: Any) -> Any:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["doq"])
        configuration.load_cert_chain(leaf.certificate.read_bytes(), leaf.key.read_bytes())
        return configuration

    def client(self, **options: Any) -> Any:
        return client_configuration(self.cafile, **options)


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    with tempfile.TemporaryDirectory() as folder:
        yield Keys(Path(folder))


async def serve(parts: Parts, keys: Keys, *, access: AccessTable | None = None, **options: Any) -> QuicListener:
    parts.clock.real = Clock().time()
    listener = QuicListener(
        parts.service, parts.fast, access or parts.plan.access, parts.settings.server, keys.server(), **options
    )
    await listener.start(open_udp_socket("127.0.0.1", 0))
    return listener


def ask_for(**options: Any) -> bytes:
    return query(identity=0, **options)


# --- queries ------------------------------------------------------------------------------------------------------


def test_miss_and_hit(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(count=100))
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        assert peer.established
        for _ in range(2):
            view = MessageView.parse(await peer.ask(ask_for()))
            assert (view.id, len(view.answer[0])) == (0, 100)
        assert parts.service.queries == 1 and parts.fast.statistics()["hits"] == 1
        found = listener.statistics()
        assert (found["accepted"], found["handshakes"], found["queries"], found["retries"]) == (1, 1, 2, 0)
        peer.close()
        await until(lambda: not listener.connections)
        assert listener.statistics()["handshake_failures"] == {} and not listener._by_id
        listener.close()

    run(body)


def test_the_librarys_own_client(run: Callable[[Body], None], keys: Keys) -> None:
    """A client that knows nothing of our tests."""
    from qh3.asyncio.client import connect

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        host, port = listener.address[:2]
        async with connect(host, port, configuration=keys.client()) as connection:
            for _ in range(3):
                reader, writer = await connection.create_stream()
                message = ask_for()
                writer.write(len(message).to_bytes(2, "big") + message)
                writer.write_eof()
                data = await reader.read()
                assert len(MessageView.parse(data[2:]).answer) == 1
        await until(lambda: not listener.connections)
        listener.close()

    run(body)


def test_queries_are_answered_in_any_order(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        slow = peer.query(ask_for())
        await until(lambda: len(parts.mesh.tickets) == 1)
        quick = peer.query(ask_for(qclass=c.CH))
        assert MessageView.parse(await peer.reply(quick)).rcode == c.REFUSED and slow not in peer.ended
        parts.mesh.finish(positive(address()))
        assert len(MessageView.parse(await peer.reply(slow)).answer) == 1
        peer.close()
        listener.close()

    run(body)


def test_closed_streams_are_replaced(run: Callable[[Body], None], keys: Keys) -> None:
    """A connection may have 100 streams at a time, and any number one after the other; one more is not possible."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        for _ in range(6):
            streams = [peer.query(ask_for()) for _ in range(50)]
            for stream in streams:
                assert MessageView.parse(await peer.reply(stream)).rcode == c.NOERROR
        assert listener.queries == 300
        await until(lambda: listener._slots)
        (client,) = listener._slots

        def flood() -> None:
            for _ in range(150):
                peer.send(GOOD[:3], end=False)

        with pytest.raises(ValueError, match="limit"):
            flood()
        stream = min(peer.quic._created_local_stream_ids - peer.ended)
        peer.send(GOOD[3:], stream=stream)
        await peer.reply(stream)
        assert 0 < len(client._streams) <= 100
        peer.close()
        listener.close()

    run(body)


def test_a_large_query_and_a_large_reply(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(count=limits.RRSET_RECORDS))
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        padded = ask_for(options=[(c.OPTION_PADDING, bytes(60_000))])
        view = MessageView.parse(await peer.ask(padded))
        assert len(view.answer[0]) == limits.RRSET_RECORDS
        peer.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("cached", [False, True])
def test_replies_to_padded_queries_are_padded(run: Callable[[Body], None], keys: Keys, cached: bool) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        if cached:
            await peer.ask(ask_for())
        reply = await peer.ask(ask_for(options=[(c.OPTION_PADDING, bytes(20))]))
        assert len(reply) % limits.PADDING_BLOCK == 0
        peer.close()
        listener.close()

    run(body)


# --- broken rules (RFC 9250 section 4.3.3) --------------------------------------------------------------------------


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


GOOD = framed(ask_for())
BROKEN = {
    "a message id is not 0": framed(query(identity=7)),
    "more than one message on a stream": GOOD + GOOD,
    "a stream ended within its message": GOOD[:-1],
    "a message is not a query": framed(ask_for()[:2] + b"\x81" + ask_for()[3:]),
    "a query has edns-tcp-keepalive": framed(
        ask_for(options=[(c.OPTION_KEEPALIVE, b"")])
    ),
}


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_a_broken_rule_ends_the_connection(run: Callable[[Body], None], keys: Keys, rule: str) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.send(BROKEN[rule])
        assert await peer.end() == doq.PROTOCOL_ERROR
        assert listener.statistics()["protocol_errors"] == {rule: 1}
        assert not listener.connections and not listener.queries and listener.malformed == 1
        peer.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0\5abcde"], ids=["nothing", "half", "empty", "short"])
def test_octets_that_are_no_message(run: Callable[[Body], None], keys: Keys, data: bytes) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.send(data)
        assert await peer.end() == doq.PROTOCOL_ERROR
        peer.close()
        listener.close()

    run(body)


def test_a_unidirectional_stream_ends_the_connection(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.send(b"x", end=False, stream=peer.quic.get_next_available_stream_id(is_unidirectional=True))
        assert await peer.end() == doq.PROTOCOL_ERROR
        assert listener.statistics()["protocol_errors"] == {"a unidirectional stream": 1}
        peer.close()
        listener.close()

    run(body)


def test_another_alpn_gets_no_connection(run: Callable[[Body], None], keys: Keys) -> None:
    """It takes two seconds, because the library keeps a failed connection for three retransmission timeouts."""

    async def body() -> None:
        listener = await serve(Parts(), keys)
        peer = await QuicPeer.start(listener.address, keys.client(alpn="h3"))
        await peer.end()
        assert not peer.established
        await until(lambda: not listener.connections)
        assert sum(listener.handshake_failures.values()) == 1
        peer.close()
        listener.close()

    run(body)


# --- cancelled queries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "reset", "close"])
def test_a_cancelled_query_is_forgotten(run: Callable[[Body], None], keys: Keys, how: str) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        stream = peer.query(ask_for())
        await until(lambda: len(parts.mesh.tickets) == 1)
        if how == "stop":
            peer.quic.stop_stream(stream, doq.REQUEST_CANCELLED)
        elif how == "reset":
            peer.quic.stop_stream(stream, doq.REQUEST_CANCELLED)
            peer.quic.reset_stream(stream, doq.REQUEST_CANCELLED)
        else:
            peer.quic.close(doq.NO_ERROR)
        peer.flush()
        await until(lambda: len(parts.mesh.cancelled) == 1)
        assert parts.service.waiting == 0
        if how != "close":
            await peer.until(lambda: stream in peer.resets)
            assert peer.resets[stream] == doq.REQUEST_CANCELLED
            parts.mesh.instant = positive(address())
            assert MessageView.parse(await peer.ask(ask_for())).rcode == c.NOERROR
        peer.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("cached", [False, True], ids=["resolved", "cached"])
def test_a_query_that_is_cancelled_at_once_ends_no_other(
    run: Callable[[Body], None], keys: Keys, *, cached: bool
) -> None:
    """The library reports STOP_SENDING before the octets of the stream, and refuses to send on it."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        if cached:
            await peer.ask(ask_for())
        else:
            parts.mesh.instant = None
        other = peer.send(GOOD[:9], end=False)
        stream = peer.quic.get_next_available_stream_id()
        message = ask_for()
        peer.quic.send_stream_data(stream, len(message).to_bytes(2, "big") + message, True)
        peer.quic.stop_stream(stream, doq.REQUEST_CANCELLED)
        peer.flush()
        if not cached:
            await until(lambda: len(parts.mesh.tickets) == 1)
            parts.mesh.finish(positive(address()))
        await peer.until(lambda: stream in peer.resets)
        parts.mesh.instant = positive(address())
        peer.send(GOOD[9:], stream=other)
        assert MessageView.parse(await peer.reply(other)).rcode == c.NOERROR
        assert listener.dropped == {} and parts.service.waiting == 0
        peer.close()
        listener.close()

    run(body)


def test_cancelled_queries_that_wait_for_a_turn_are_not_kept(run: Callable[[Body], None], keys: Keys) -> None:
    """While the pipeline is full, a client may cancel any number of queries, each with 64 KiB of octets."""

    async def body() -> None:
        parts = Parts(tcp_pipeline=1)
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.query(ask_for())
        await until(lambda: len(parts.mesh.tickets) == 1)
        (client,) = listener._slots
        for _ in range(3):
            stream = peer.query(ask_for())
            await until(lambda: len(client._backlog) == 1)
            peer.quic.stop_stream(stream, doq.REQUEST_CANCELLED)
            peer.flush()
            await peer.until(lambda stream=stream: stream in peer.resets)
            await until(lambda: not client._backlog)
        assert client._held == len(ask_for()) + 2
        peer.close()
        listener.close()

    run(body)


def test_a_query_cancelled_before_it_was_complete(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        stream = peer.send(GOOD[:9], end=False)
        peer.quic.stop_stream(stream, doq.REQUEST_CANCELLED)
        peer.flush()
        await peer.until(lambda: stream in peer.resets)
        peer.send(GOOD[9:], stream=stream)
        await peer.ask(ask_for())
        await until(lambda: listener._slots)
        (client,) = listener._slots
        await until(lambda: not client._streams)
        assert listener.queries == 1 and client._held == 0
        peer.close()
        listener.close()

    run(body)


# --- the pipeline and what is held --------------------------------------------------------------------------------


def test_the_pipeline_is_limited(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts(tcp_pipeline=2)
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        streams = [peer.query(ask_for(qtype=qtype)) for qtype in (c.A, c.AAAA, c.TXT, c.MX)]
        await until(lambda: listener._slots)
        (client,) = listener._slots
        await until(lambda: len(client._backlog) == 2)
        assert len(parts.mesh.tickets) == 2 and client.waiting == 2
        for _ in streams:
            await until(lambda: parts.mesh.tickets)
            parts.mesh.finish(positive())
        for stream in streams:
            assert MessageView.parse(await peer.reply(stream)).rcode == c.NOERROR
        assert client.waiting == 0 and client._held == 0
        peer.close()
        listener.close()

    run(body)


def test_connections_wait_for_their_turn(run: Callable[[Body], None], keys: Keys) -> None:
    """What other listeners of the worker have used up is not there for this one."""

    async def body() -> None:
        parts, turns = Parts(), Turns()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys, turns=turns)
        peer = await QuicPeer.start(listener.address, keys.client())
        await until(lambda: listener._slots)
        (client,) = listener._slots
        waited = []

        class Flood:
            """A connection of another listener that always has work, and uses up the budget."""

            network = "192.0.2.0"

            def turn(self) -> None:
                turns.spend(limits.STREAM_ITERATION_MESSAGES, 0)
                waited.append(turns.waits(client))
                if True not in waited:
                    turns.add(self)

        turns.add(Flood())
        turns.spend(limits.STREAM_ITERATION_MESSAGES, 0)  # before the first packet of the queries can be read
        streams = [peer.query(ask_for()) for _ in range(9)]
        for stream in streams:
            assert MessageView.parse(await peer.reply(stream)).rcode == c.NOERROR
        assert True in waited and listener.queries == 9
        peer.close()
        await until(lambda: not listener.connections)
        assert not turns.waits(client)
        listener.close()

    run(body)


def test_octets_of_incomplete_queries_are_limited(run: Callable[[Body], None], keys: Keys) -> None:
    """Each stream promises 64 KiB and brings most of it."""

    async def body() -> None:
        listener = await serve(Parts(), keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        for _ in range(4):
            peer.send(b"\xff\xff" + bytes(60_000), end=False)
        assert await peer.end() == doq.EXCESSIVE_LOAD
        assert not listener.connections and not listener.timed_out
        peer.close()
        listener.close()

    run(body)


def test_a_query_that_is_not_completed_in_time(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(tcp_idle_timeout=600.0), keys, message_timeout=0.05)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.send(GOOD[:9], end=False)
        assert await peer.end() == doq.EXCESSIVE_LOAD
        assert listener.timed_out == 1
        peer.close()
        listener.close()

    run(body)


def test_idle_connections_are_closed(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(tcp_idle_timeout=0.1), keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        await peer.end()
        await until(lambda: not listener.connections)
        assert not listener._by_id
        peer.close()
        listener.close()

    run(body)


LONG = tuple(address(name=bytes((1, at)) + QNAME, count=500) for at in range(97, 102))  # some 40 KB


def test_a_client_that_does_not_read_replies_is_disconnected(run: Callable[[Body], None], keys: Keys) -> None:
    """The replies to queries that wait come at the same time, and its windows stay closed."""

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client(max_data=1, max_stream_data=1))
        for _ in range(40):
            peer.query(ask_for())
        await until(lambda: parts.service.waiting == 40)
        while parts.mesh.tickets:
            parts.mesh.finish(positive(*LONG))
        assert await peer.end() == doq.EXCESSIVE_LOAD
        assert listener.write_overrun == 1
        peer.close()
        listener.close()

    run(body)


def test_nothing_is_made_for_a_client_that_does_not_read(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=600.0)
        parts.mesh.instant = positive(*LONG)
        listener = await serve(parts, keys, message_timeout=0.2)
        peer = await QuicPeer.start(listener.address, keys.client(max_data=1, max_stream_data=1))
        for _ in range(40):
            peer.query(ask_for())
        assert await peer.end() == doq.EXCESSIVE_LOAD
        assert (listener.timed_out, listener.write_overrun) == (1, 0) and listener.queries <= 3
        peer.close()
        listener.close()

    run(body)


def test_a_client_that_reads_late_gets_all_replies(run: Callable[[Body], None], keys: Keys) -> None:
    """Nothing is read for a while; then acknowledgements, of which the last ones bring nothing else."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(*LONG)
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        peer.deaf = True
        streams = [peer.query(ask_for()) for _ in range(40)]
        await until(lambda: listener.queries >= 2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert listener.queries < 10
        peer.deaf = False
        for stream in streams:
            assert len(MessageView.parse(await peer.reply(stream)).answer) == len(LONG)
        assert listener.queries == 40
        peer.close()
        listener.close()

    run(body)


# --- who may connect ------------------------------------------------------------------------------------------------


def test_connections_of_one_client_are_limited(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(tcp_connections_per_client=2), keys)
        first = [await QuicPeer.start(listener.address, keys.client()) for _ in range(2)]
        third = await QuicPeer.start(listener.address, keys.client())
        assert await third.end() == doq.EXCESSIVE_LOAD
        assert (listener.connections, listener.rejected, listener.accepted) == (2, 1, 2)
        for peer in (*first, third):
            peer.close()
        await until(lambda: not listener.connections)
        assert listener._per_address == {}
        listener.close()

    run(body)


def test_the_longest_idle_connection_is_evicted(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(tcp_connections=2, tcp_connections_network_percent=100), keys)
        first = await QuicPeer.start(listener.address, keys.client())
        others = [await QuicPeer.start(listener.address, keys.client()) for _ in range(2)]
        assert await first.end() == doq.EXCESSIVE_LOAD
        assert (listener.connections, listener.evicted) == (2, 1)
        for peer in (first, *others):
            peer.close()
        listener.close()

    run(body)


def test_the_access_list(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        refusing = await serve(parts, keys, access=AccessTable((), ("127.0.0.0/8",), ()), own_access=True)
        peer = await QuicPeer.start(refusing.address, keys.client())
        assert MessageView.parse(await peer.ask(ask_for())).rcode == c.REFUSED
        peer.close()
        silent = await serve(parts, keys, access=AccessTable((), (), ("127.0.0.0/8",)), own_access=True)
        dropped = await QuicPeer.start(silent.address, keys.client(), wait=False)
        await until(lambda: silent.dropped)
        assert silent.statistics()["dropped"].keys() == {"access list"} and not silent.connections
        assert dropped.received == 0
        dropped.close()
        silent.close()
        refusing.close()

    run(body)


def test_a_reload_changes_certificate_and_access(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        listener.reconfigure(keys.server(keys.other), "")
        other = await QuicPeer.start(listener.address, keys.client(name="other.example"))
        assert other.established
        assert MessageView.parse(await peer.ask(ask_for(qclass=c.CH))).rcode == c.REFUSED
        listener.switch(
            parts.service, parts.fast, AccessTable((), (), ("127.0.0.0/8",)), parts.settings.server, own_access=True
        )
        for one in (peer, other):
            assert await one.end() == doq.UNSPECIFIED_ERROR
        assert not listener.connections and listener.statistics()["access_closed"] == 2
        peer.close()
        other.close()
        listener.close()

    run(body)


def test_the_certificate_is_selected_by_sni(run: Callable[[Body], None], keys: Keys) -> None:
    """The library's client sends its extensions in any order, so the name may be in the second datagram."""

    async def body() -> None:
        listener = await serve(Parts(), keys)
        listener.reconfigure(keys.server(other_example=keys.other), "")
        for name in ["dns.example", "other.example", "OTHER.example"] * 6:
            peer = await QuicPeer.start(listener.address, keys.client(name=name))
            assert peer.established, name
            peer.close()
        wrong = await QuicPeer.start(listener.address, keys.client(name="third.example"))
        assert not wrong.established
        await until(lambda: listener.handshake_failures)
        wrong.close()
        await until(lambda: not listener.connections)
        assert listener.handshakes == 18 and not listener.dropped
        listener.close()

    run(body)


def test_an_incomplete_client_hello_ends_at_the_handshake_timeout(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys, handshake_timeout=0.1)
        listener.reconfigure(keys.server(other_example=keys.other), "")
        quic = QuicConnection(configuration=keys.client())
        quic.connect(listener.address[:2], 0.0)
        first = [data for data, _ in quic.datagrams_to_send(0.0)]
        begins = [data for data in first if HelloReader(parse_header(data).destination).feed(data) is None]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(begins[-1], listener.address)  # the end of a hello, or its begin without the name
            await until(lambda: listener.connections)
            assert not listener.handshakes
            await until(lambda: not listener.connections)
        assert listener.timed_out == 1 and listener.handshake_failures == {"timeout": 1}
        assert not listener._by_id and not listener.dropped
        listener.close()

    run(body)


def test_closing_the_listener_notifies_the_clients(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        listener.close()
        assert await peer.end() == doq.NO_ERROR
        assert not listener.connections and not listener._by_id
        peer.close()

    run(body)


# --- before a connection ------------------------------------------------------------------------------------------


class Raw:
    """A UDP socket beside QUIC."""

    def __init__(self, listener: QuicListener) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect(listener.address[:2])

    async def read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, 65536)


def first_datagrams(keys: Keys, listener: QuicListener) -> list[bytes]:
    from qh3.quic.connection import QuicConnection

    quic = QuicConnection(configuration=keys.client())
    quic.connect(listener.address[:2], 0.0)
    return [data for data, _ in quic.datagrams_to_send(0.0)]


def test_other_versions_get_version_negotiation(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        raw = Raw(listener)
        head = b"\xc0\x0a\x1a\x2a\x3a" + b"\x14" + b"d" * 20 + b"\x08" + b"s" * 8
        raw.sock.send(head + bytes(1200 - len(head)))
        reply = await raw.read()
        assert reply[1:5] == bytes(4) and len(reply) < 1200
        assert reply[5:14] == b"\x08" + b"s" * 8 and reply[14:35] == b"\x14" + b"d" * 20
        assert reply[35:] == b"\0\0\0\1"
        # What is smaller, or is Version Negotiation itself, is not answered.
        raw.sock.send(head + bytes(1199 - len(head)))
        raw.sock.send(b"\xc0" + bytes(4) + head[5:] + bytes(1200 - len(head)))
        await until(lambda: sum(listener.dropped.values()) == 2)
        assert listener.dropped == {"first datagram too small": 1, "not QUIC": 1}
        assert listener.versions_negotiated == 1 and not listener.connections
        raw.sock.close()
        listener.close()

    run(body)


def test_garbage_creates_no_connection(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        raw = Raw(listener)
        (first, *_) = first_datagrams(keys, listener)
        head = parse_header(first)
        assert head is not None
        short = first[:5] + b"\x07" + b"d" * 7 + first[6 + len(head.destination):]
        datagrams = [
            b"", b"\0", b"\x40" * 30, b"\x40" + bytes(8), bytes(1200), b"\xff" * 1200, b"\xc0\0\0\0\1" + b"\xff" * 1195,
            first[:1199], b"\xe0" + first[1:], short,
        ]
        for data in datagrams:
            raw.sock.send(data)
        await until(lambda: sum(listener.dropped.values()) + listener.versions_negotiated == len(datagrams))
        assert listener.dropped == {
            "not QUIC": 4, "unknown connection": 3, "first datagram too small": 1, "connection id too short": 1
        }
        assert not listener.connections and not listener._by_id
        # It looks like a first packet, and nothing in it can be decrypted: a handshake that never continues.
        raw.sock.send(first[:60] + bytes(1140))
        await until(lambda: listener.connections == 1)
        listener.handshake_timeout = 0.0
        await until(lambda: not listener.connections)
        assert not listener._by_id and listener.handshake_failures == {"timeout": 1}
        raw.sock.close()
        listener.close()

    run(body)


def test_half_open_handshakes_are_bounded(
    run: Callable[[Body], None], keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, first packets cost nothing, and a client that answers Retry is served."""
    monkeypatch.setattr(limits, "HANDSHAKE_BURST", 10**9)  # so that no handshake waits

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        raw = Raw(listener)
        flood = limits.QUIC_UNVALIDATED + 20
        for _ in range(flood):
            raw.sock.send(first_datagrams(keys, listener)[0])
            await until(lambda: listener.connections + listener.retries > 0)
        await until(lambda: listener.connections + listener.retries == flood)
        assert listener.connections == limits.QUIC_UNVALIDATED and listener.retries == 20
        assert listener.accepted == 0  # they have no slot of anybody
        peer = await QuicPeer.start(listener.address, keys.client())
        repeated = len(first_datagrams(keys, listener))  # each of them is answered with a Retry packet
        assert peer.established and listener.retries == 20 + repeated and listener.accepted == 1
        assert MessageView.parse(await peer.ask(ask_for())).rcode == c.NOERROR
        listener.handshake_timeout = 0.0
        await until(lambda: listener.connections == 1)
        assert len(listener._by_id) == len(next(iter(listener._slots))._identities)
        peer.close()
        raw.sock.close()
        listener.close()

    run(body)


def test_while_handshakes_wait_clients_prove_their_address_and_are_served_later(
    run: Callable[[Body], None], keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is time for the first handshake, and none for others until the test gives some."""
    monkeypatch.setattr(limits, "HANDSHAKE_BURST", 1)
    monkeypatch.setattr(limits, "HANDSHAKE_IDLE", 1e-9)
    monkeypatch.setattr(limits, "HANDSHAKE_SHARE", 0)

    async def body() -> None:
        listener = await serve(Parts(), keys)
        raw = Raw(listener)
        raw.sock.send(first_datagrams(keys, listener)[0])
        await until(lambda: listener.connections == 1)
        waiting = first_datagrams(keys, listener)[0]
        raw.sock.send(waiting)
        await until(lambda: listener.handshake_budget.waiting == 1)
        for _ in range(limits.QUIC_HELLO):  # a ClientHello may be in several, of which one has arrived
            raw.sock.send(waiting)
        await until(lambda: listener.dropped == {"handshake waits": 1})
        assert listener.connections == 1 and listener.retries == 0
        # The time to accept is used up, too: what does not wait yet is dropped.
        raw.sock.send(first_datagrams(keys, listener)[0])
        await until(lambda: listener.dropped == {"handshake waits": 1, "too many handshakes": 1})
        monkeypatch.setattr(limits, "HANDSHAKE_BURST", 10**9)
        monkeypatch.setattr(limits, "HANDSHAKE_IDLE", 10**9)
        await until(lambda: listener.connections == 2)
        assert listener.handshake_budget.waiting == 0 and not listener._pending_clients
        raw.sock.close()
        listener.close()

    run(body)


def test_a_wrong_token_is_dropped(run: Callable[[Body], None], keys: Keys) -> None:
    async def body() -> None:
        listener = await serve(Parts(), keys)
        raw = Raw(listener)
        head = b"\xc0\0\0\0\1\x08" + b"d" * 8 + b"\x08" + b"s" * 8 + b"\x20" + b"t" * 32
        raw.sock.send(head + b"\x44\x00" + random.Random(5).randbytes(1200))
        await until(lambda: listener.dropped)
        assert listener.dropped == {"token not valid": 1} and not listener.connections
        raw.sock.close()
        listener.close()

    run(body)


def test_at_most_three_times_the_received_octets_are_sent(run: Callable[[Body], None], keys: Keys) -> None:
    """A client that never answers, as one whose address is forged (RFC 9000 section 8.1)."""

    async def body() -> None:
        listener = await serve(Parts(), keys, handshake_timeout=1.0)
        peer = await QuicPeer.start(listener.address, keys.client(), wait=False)
        peer.deaf = True
        await until(lambda: listener.timed_out)
        await until(lambda: not listener.connections)
        assert 0 < peer.received <= 3 * peer.sent
        peer.close()
        listener.close()

    run(body)


def test_a_connection_of_another_address(run: Callable[[Body], None], keys: Keys) -> None:
    """Who knows a connection id from elsewhere cannot speak for the client, nor use its slot."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        identity = next(iter(listener._by_id))
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("127.0.0.2", 0))
        other.sendto(b"\x40" + identity + bytes(40), listener.address[:2])
        await until(lambda: listener.dropped)
        assert listener.dropped == {"connection of another address": 1}
        assert MessageView.parse(await peer.ask(ask_for())).rcode == c.NOERROR
        other.close()
        peer.close()
        listener.close()

    run(body)


def test_the_clients_port_may_change(run: Callable[[Body], None], keys: Keys) -> None:
    """As behind a router that has forgotten it."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        await peer.ask(ask_for())
        old = peer._transport
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, remote_addr=listener.address[:2])
        old.close()
        assert MessageView.parse(await peer.ask(ask_for())).rcode == c.NOERROR
        assert listener.connections == 1
        peer.close()
        listener.close()

    run(body)


def test_a_port_that_the_library_does_not_follow_ends_the_connection(run: Callable[[Body], None], keys: Keys) -> None:
    """Else the client would wait for replies until its own timeout."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        await peer.ask(ask_for())
        for number in range(limits.QUIC_PORTS):
            old = peer._transport
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, remote_addr=listener.address[:2])
            old.close()
            stream = peer.query(ask_for())
            if number < limits.QUIC_PORTS - 1:
                assert MessageView.parse(await peer.reply(stream)).rcode == c.NOERROR
        assert await peer.end() == doq.NO_ERROR
        assert not listener.connections and not listener.timed_out
        peer.close()
        listener.close()

    run(body)


def test_an_error_of_the_library_ends_one_connection(run: Callable[[Body], None], keys: Keys) -> None:
    class Panic(BaseException):
        """What a panic of native code looks like."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address())
        listener = await serve(parts, keys)
        peer = await QuicPeer.start(listener.address, keys.client())
        await until(lambda: listener._slots)
        (client,) = listener._slots

        class Broken:
            def receive_datagram(self, *_: Any) -> None:
                raise Panic

        client._quic = Broken()
        peer.query(ask_for())
        await until(lambda: not listener.connections)
        assert listener.dropped["library error"] == 1
        other = await QuicPeer.start(listener.address, keys.client())
        assert MessageView.parse(await other.ask(ask_for())).rcode == c.NOERROR
        other.close()
        peer.close()
        listener.close()

    run(body)
