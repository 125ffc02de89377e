"""The TCP listener on real sockets, on asyncio's loop and ours: order, limits, slow and greedy clients (RFC 7766)."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Coroutine, Iterator

import pytest
from support.service_parts import NOW, QNAME, Parts, address, positive, query
from support.shortage import FullDict
from support.upstream_peers import open_descriptors
from support.waiting import until
from support.zone_versions import ORIGIN, version

import corenet
from resolver import limits
from resolver.effects import Outcome
from resolver.net import dns_connection
from resolver.net.clock_random import Clock
from resolver.net.fastpath import FastPath
from resolver.net.stream_listener import StreamListener, open_stream_socket
from resolver.net.zone_server import ZoneServer
from resolver.policy.zone_peers import ZonePeers
from resolver.settings import PolicySettings, Settings, ZoneSettings, replace
from resolver.wire import consts as c
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable

TIMEOUT = 30
Body = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(params=[asyncio.new_event_loop, corenet.new_event_loop], ids=["asyncio", "corenet"])
def run(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def limited() -> None:
            before = open_descriptors()
            async with asyncio.timeout(TIMEOUT):
                await body()
                while open_descriptors() > before:
                    await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=request.param) as running:
            running.run(limited())

    return runner


class Client:
    """One connection that speaks DNS messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def start(cls, listener: StreamListener) -> "Client":
        return cls(*await asyncio.open_connection(*listener.address[:2]))

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))

    async def read(self) -> MessageView:
        size = int.from_bytes(await self.reader.readexactly(2), "big")
        return MessageView.parse(await self.reader.readexactly(size))

    async def ask(self, packet: bytes) -> MessageView:
        self.send(packet)
        return await self.read()

    async def ended(self) -> bool:
        """True once the server has ended the connection."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


async def serve(parts: Parts, **options: float) -> StreamListener:
    parts.clock.real = Clock().time()
    listener = StreamListener(parts.service, parts.fast, parts.plan.access, parts.settings.server, **options)
    sock = open_stream_socket("127.0.0.1", 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)  # what tests of memory see is ours, not the kernel's
    await listener.start(sock)
    return listener


async def submitted(parts: Parts, count: int) -> None:
    while len(parts.mesh.tickets) < count:
        await asyncio.sleep(0)


def test_miss_then_hit_on_one_connection(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(count=100))
        listener = await serve(parts)
        client = await Client.start(listener)
        for identity in (1, 2):
            view = await client.ask(query(identity=identity, edns_payload=None))
            assert (view.id, view.tc, len(view.answer[0])) == (identity, False, 100)
        assert parts.service.queries == 1
        assert listener.connections == 1
        await client.close()
        while listener.connections:
            await asyncio.sleep(0)
        listener.close()

    run(body)


def test_any_chunking_gives_the_same_replies(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        client = await Client.start(listener)
        stream = b"".join(len(p).to_bytes(2, "big") + p for p in (query(identity=n) for n in range(6)))
        for n in range(0, len(stream), 7):
            client.writer.write(stream[n:n + 7])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert [(await client.read()).id for _ in range(6)] == list(range(6))
        await client.close()
        listener.close()

    run(body)


def test_replies_may_overtake_each_other(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        client = await Client.start(listener)
        await client.ask(query())
        parts.mesh.instant = None
        client.send(query(c.MX, identity=1), query(c.TXT, identity=2), query(identity=3))
        assert (await client.read()).id == 3
        await submitted(parts, 2)
        parts.mesh.tickets.reverse()
        parts.mesh.finish(positive())
        parts.mesh.finish(positive())
        assert [(await client.read()).id for _ in range(2)] == [2, 1]
        await client.close()
        listener.close()

    run(body)


def test_reading_pauses_while_too_much_is_unanswered(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_pipeline=4)
        listener = await serve(parts)
        client = await Client.start(listener)
        for n in range(12):
            client.send(query(identity=n))
            await client.writer.drain()
            for _ in range(8):
                await asyncio.sleep(0)
        assert len(parts.mesh.tickets) == 4
        got = []
        while len(got) < 12:
            await submitted(parts, 1)
            while parts.mesh.tickets:
                parts.mesh.finish(positive(address(ttl=0)))      # not kept, so that the next one has to wait as well
                got.append((await client.read()).id)
        assert got == list(range(12))
        await client.close()
        listener.close()

    run(body)


def test_many_queries_in_one_packet_are_answered_in_turns(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_pipeline=4)
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(*(query(identity=n) for n in range(100)))
        got = []
        while len(got) < 100:
            await submitted(parts, 1)
            assert len(parts.mesh.tickets) <= 4
            parts.mesh.finish(positive(address(ttl=0)))
            got.append((await client.read()).id)
        assert got == list(range(100))
        await client.close()
        listener.close()

    run(body)


def test_a_client_whose_query_has_no_memory_is_disconnected(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_pipeline=1)
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(query(identity=1), query(c.MX, identity=2))
        await submitted(parts, 1)
        ticket = parts.mesh.tickets.pop()

        def short(*_question: object, **_options: object) -> None:
            raise MemoryError

        parts.mesh.submit = short  # type: ignore[method-assign, assignment]
        with pytest.raises(MemoryError):
            ticket.on_done(positive())
        with contextlib.suppress(ConnectionError):
            await client.reader.read()  # to the end; the reply to the first one may be among it
        assert parts.service.waiting == 0
        await client.close()
        listener.close()

    run(body)


def test_no_more_is_sent_to_a_client_that_does_not_read(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    still_read = []
    become_deaf = dns_connection.DnsConnection.pause_writing

    def pause_writing(client: dns_connection.DnsConnection) -> None:
        become_deaf(client)
        still_read.append(client._transport is not None and client._transport.is_reading())

    monkeypatch.setattr(dns_connection.DnsConnection, "pause_writing", pause_writing)

    async def body() -> None:
        parts = Parts(tcp_idle_timeout=600.0)
        parts.mesh.instant = positive(address(count=200))
        listener = await serve(parts, message_timeout=0.2)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(listener.address[:2])
        packet = query(edns_payload=None)
        message = len(packet).to_bytes(2, "big") + packet
        while not still_read:
            sock.send(message * 8)  # whole messages: none may be late because a part of it is missing
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while listener.timed_out == 0:
                await asyncio.sleep(0)
        # It was cut off long before it could make us hold what it asked for.
        assert listener.timed_out == 1
        assert still_read == [False], "no more queries are taken before their answers are"
        assert parts.fast.statistics()["hits"] * 3300 < 64 << 20
        sock.close()
        listener.close()

    run(body)


def large_answer(parts: Parts) -> bytes:
    """A query over TCP whose answer of some 53 KB is in the cache."""
    packet = query(c.TXT, edns_payload=None)
    parts.clock.real = Clock().time()
    parts.answer(packet, large_outcome())
    return packet


def large_outcome(ttl: int = 300) -> Outcome:
    return positive(RRset(QNAME, c.TXT, ttl, [bytes([255]) + bytes([n]) * 255 for n in range(205)]))


def quiet_client(listener: StreamListener) -> socket.socket:
    """A client that will not read, and whose kernel holds little for it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(listener.address[:2])
    sock.setblocking(False)
    return sock


def blocked(client: object) -> bool:
    return isinstance(client, dns_connection.DnsConnection) and client._write_blocked_since is not None


def test_the_kernel_holds_little_for_a_client_that_does_not_read(run: Callable[[Body], None]) -> None:
    """The send buffer grows to megabytes by itself."""
    async def body() -> None:
        parts = Parts()
        packet = large_answer(parts)
        listener = StreamListener(parts.service, parts.fast, parts.plan.access, parts.settings.server)
        await listener.start(open_stream_socket("127.0.0.1", 0))
        sock = quiet_client(listener)
        sock.send((len(packet).to_bytes(2, "big") + packet) * 60)
        await until(lambda: any(blocked(one) for one in listener._slots), "a full send buffer")
        [client] = listener._slots
        assert isinstance(client, dns_connection.DnsConnection) and client._transport is not None
        accepted = client._transport.get_extra_info("socket")
        unsent = fcntl.ioctl(accepted.fileno(), termios.TIOCOUTQ, bytes(4))
        assert int.from_bytes(unsent, sys.byteorder) <= limits.STREAM_UNSENT + 2 * c.MESSAGE_MAX
        sock.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("path", ["fast", "service"])
def test_no_replies_are_made_for_a_client_that_does_not_read(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The most octets ever unsent for one connection, and what others get meanwhile; no clock is looked at."""
    held = []

    def watch(self: dns_connection.DnsConnection) -> None:
        work(self)
        if self._transport is not None:
            held.append(self._transport.get_write_buffer_size())

    work = dns_connection.DnsConnection._work
    monkeypatch.setattr(dns_connection.DnsConnection, "_work", watch)

    async def body() -> None:
        parts = Parts()
        packet = large_answer(parts)
        if path == "service":  # what is not kept is asked for each time
            packet = query(c.MX, edns_payload=None)
            parts.mesh.instant = large_outcome(ttl=0)
        listener = await serve(parts)
        sock = quiet_client(listener)
        burst = (len(packet).to_bytes(2, "big") + packet) * (37_000 // (len(packet) + 2))
        sock.sendall(burst)
        other = await Client.start(listener)
        for n in range(20):
            assert (await other.ask(query(c.TXT, identity=n, edns_payload=None))).id == n
        most = limits.STREAM_WRITE_HIGH + limits.STREAM_TURN_OCTETS + 65_537
        assert 0 < max(held) <= most
        made = parts.fast.statistics()["hits"] + parts.service.replies - 20
        assert made * 52_000 <= most + (256 << 10), "and what the kernels of both sides took"
        # As soon as it reads, all of it comes, and in order.
        count = 0
        sock.setblocking(True)
        reader, writer = await asyncio.open_connection(sock=sock)
        for _ in range(len(burst) // (len(packet) + 2)):
            size = int.from_bytes(await reader.readexactly(2), "big")
            assert len(await reader.readexactly(size)) > 52_000
            count += 1
        assert count == len(burst) // (len(packet) + 2)
        writer.close()
        await other.close()
        listener.close()

    run(body)


def test_small_replies_are_made_turn_by_turn(run: Callable[[Body], None]) -> None:
    """The number of messages is bounded as well as octets: of one connection, and of all in one iteration."""

    class Transport(Arrived):
        def write(self, data: bytes) -> None: ...

        def get_write_buffer_size(self) -> int:
            return 0

        def resume_reading(self) -> None: ...

    async def body() -> None:
        parts = Parts()
        packet = query(edns_payload=None)
        parts.clock.real = Clock().time()
        parts.answer(packet, positive(address()))
        listener = await serve(parts)
        count = 2 * limits.STREAM_TURN_MESSAGES + 1
        clients = [dns_connection.DnsConnection(listener) for _ in range(4)]
        for client in clients:
            client.connection_made(Transport("127.0.0.1"))  # type: ignore[arg-type]
            client.data_received((len(packet).to_bytes(2, "big") + packet) * count)
        seen, made = 0, parts.fast.statistics()["hits"]
        assert made == limits.STREAM_ITERATION_MESSAGES == 2 * limits.STREAM_TURN_MESSAGES
        while made > seen:
            assert made - seen <= limits.STREAM_ITERATION_MESSAGES + limits.STREAM_TURN_MESSAGES
            await asyncio.sleep(0)
            seen, made = made, parts.fast.statistics()["hits"]
        assert made == len(clients) * count
        listener.close()
        for client in clients:
            client.connection_lost(None)

    run(body)


@pytest.mark.parametrize("path", ["fast", "service"])
def test_one_connection_has_no_more_than_its_share_of_a_turn(run: Callable[[Body], None], path: str) -> None:
    """A client that reads as fast as it can gets its replies turn by turn, not all of them at once."""
    written: list[int] = []

    class Transport(Arrived):
        def write(self, data: bytes) -> None:
            written.append(len(data))

        def get_write_buffer_size(self) -> int:
            return 0

        def resume_reading(self) -> None: ...

    async def body() -> None:
        parts = Parts()
        packet = large_answer(parts)
        if path == "service":
            packet = query(c.MX, edns_payload=None)
            parts.mesh.instant = large_outcome(ttl=0)
        listener = await serve(parts)
        client, transport = dns_connection.DnsConnection(listener), Transport("127.0.0.1")
        client.connection_made(transport)  # type: ignore[arg-type]
        client.data_received((len(packet).to_bytes(2, "big") + packet) * 50)
        seen = 0
        while len(written) > seen:
            assert sum(written[seen:]) <= limits.STREAM_TURN_OCTETS + 65_537
            seen = len(written)
            await asyncio.sleep(0)
        assert sum(written) > 50 * 52_000
        listener.close()
        client.connection_lost(None)

    run(body)


def test_replies_to_a_client_that_does_not_read_are_bounded(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        sock = quiet_client(listener)
        for n in range(100):
            packet = query(c.TXT, identity=n, edns_payload=None)
            sock.sendall(len(packet).to_bytes(2, "big") + packet)
        await submitted(parts, 100)
        outcome = positive(RRset(QNAME, c.TXT, 0, [bytes([255]) + bytes([n]) * 255 for n in range(205)]))
        most = 0
        while parts.mesh.tickets:
            parts.mesh.finish(outcome)
            most = max([most, *(client._transport.get_write_buffer_size() for client in listener._slots
                                if client._transport is not None)])
        assert most <= limits.STREAM_WRITE_LIMIT
        assert (listener.write_overrun, parts.service.waiting) == (1, 0)
        sock.close()
        listener.close()

    run(body)


def test_slow_loris_is_ended(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=600.0)
        listener = await serve(parts, message_timeout=0.1)
        client = await Client.start(listener)
        client.writer.write(b"\x00")
        ended = asyncio.ensure_future(client.ended())
        # A byte now and then does not help: the message as a whole is late.
        while not ended.done():
            if not client.writer.transport.is_closing():
                client.writer.write(b"\x20")
            await asyncio.wait([ended], timeout=0.02)
        assert listener.timed_out == 1
        await client.close()
        listener.close()

    run(body)


def test_idle_connection_is_closed_but_not_while_it_waits(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_idle_timeout=0.4)
        listener = await serve(parts)
        waiting = await Client.start(listener)
        waiting.send(query())
        await submitted(parts, 1)
        idle = await Client.start(listener)
        assert await idle.ended()
        await asyncio.wait([asyncio.ensure_future(waiting.ended())], timeout=0.5)
        assert listener.connections == 1
        parts.mesh.finish(positive())
        await until(lambda: not listener.connections, "the listener to let its connections go")
        assert listener.timed_out == 2
        for client in (idle, waiting):
            await client.close()
        listener.close()

    run(body)


def test_client_may_close_its_side_and_still_gets_replies(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(query(identity=1), query(identity=2))
        client.writer.write_eof()
        await submitted(parts, 2)
        for _ in range(5):
            await asyncio.sleep(0)
        parts.mesh.finish(positive())
        parts.mesh.finish(positive())
        assert [(await client.read()).id for _ in range(2)] == [1, 2]
        assert await client.ended()
        await client.close()
        listener.close()

    run(body)


def test_an_incomplete_message_before_the_end_of_a_client_has_no_timeout(run: Callable[[Body], None]) -> None:
    """It can never be completed, and must not end the connection before the reply to an earlier query."""

    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = dns_connection.DnsConnection(listener)
        client.connection_made(Arrived("127.0.0.1"))  # type: ignore[arg-type]
        packet = query()
        client.data_received(len(packet).to_bytes(2, "big") + packet + b"\0")
        await submitted(parts, 1)
        late = listener.now() + listener.message_timeout + 0.1
        assert client.is_late(late)
        assert client.eof_received() and not client.is_late(late)
        listener.close()
        client.connection_lost(None)

    run(body)


def test_queries_of_a_client_that_disconnects_are_cancelled(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(query(identity=1), query(identity=2))
        await submitted(parts, 2)
        # A reset, not an end: the latter might mean that replies are still wanted.
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        while parts.service.waiting:
            await asyncio.sleep(0)
        assert len(parts.mesh.cancelled) == 2
        await client.close()
        listener.close()

    run(body)


def test_one_address_may_not_take_all_connections(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_connections_per_client=2)
        parts.mesh.instant = positive()
        listener = await serve(parts)
        clients = [await Client.start(listener) for _ in range(4)]
        for client in clients[:2]:
            assert (await client.ask(query())).rcode == c.NOERROR
        for client in clients[2:]:
            assert await client.ended()
        assert listener.rejected == 2
        await clients[0].close()
        while listener.connections == 2:
            await asyncio.sleep(0)
        again = await Client.start(listener)
        assert (await again.ask(query())).rcode == c.NOERROR
        for client in (*clients, again):
            await client.close()
        listener.close()

    run(body)


class Arrived:
    """The transport of a connection from anywhere."""

    def __init__(self, host: str) -> None:
        self.peer = (host, 9)
        self.aborted = False

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return self.peer if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ([f"192.0.2.{n}" for n in range(20)], "192.0.3.1"),
        ([f"2001:db8:0:{n:x}::{n + 1:x}" for n in range(20)], "2001:db8:0:100::1"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_one_network_may_not_take_all_connections(run: Callable[[Body], None], near: list[str], far: str) -> None:
    async def body() -> None:
        anybody = Settings(policy=PolicySettings(allow=("0.0.0.0/0", "::/0")))
        parts = Parts(anybody, tcp_connections=16, tcp_connections_network_percent=50)
        listener = await serve(parts)
        clients = []

        def wait(client: dns_connection.DnsConnection, queries: int) -> None:
            client.waiting = queries
            listener.note_progress(client)

        def connect(host: str, busy: int = 1) -> bool:
            client, transport = dns_connection.DnsConnection(listener), Arrived(host)
            client.connection_made(transport)  # type: ignore[arg-type]
            wait(client, busy)
            clients.append(client)
            return not transport.aborted

        assert [connect(host) for host in near] == [True] * 8 + [False] * 12
        assert (listener.rejected, listener.accepted, listener.connections) == (12, 8, 8)
        assert connect(far, busy=0)
        clients[0].connection_lost(None)
        assert connect(near[9]) and not connect(near[10]), "the place goes back to the network, once"
        wait(clients[2], 0)
        wait(clients[1], 0)
        assert connect(near[11]) and listener.connections == 9
        assert [clients[n] in listener._slots for n in (1, 2, 20)] == [True, False, True], "its longest idle left"
        server = replace(parts.settings.server, tcp_connections_network_percent=100)
        listener.switch(parts.service, parts.fast, parts.plan.access, server)
        for client in clients[3:8]:
            wait(client, 0)
        assert [connect(host) for host in near[12:20]] == [True] * 8, "its own longest idle make room"
        assert listener.connections == 16
        for client in clients:
            wait(client, 0)
        listener.switch(parts.service, parts.fast, parts.plan.access, replace(server, tcp_connections=4))
        assert connect(far) and listener.connections == 4
        for client in clients:
            client.connection_lost(None)
        assert (listener.connections, listener._per_address) == (0, {})
        listener.close()

    run(body)


@pytest.mark.parametrize("behaviour", ["begun messages", "unanswered queries"])
@pytest.mark.parametrize("networks", [["192.0.2", "198.51.100"], ["2001:db8:100:1:", "2001:db8:200:2:"]],
                         ids=["IPv4", "IPv6"])
def test_two_networks_may_not_hold_all_connections(
    run: Callable[[Body], None], behaviour: str, networks: list[str]
) -> None:
    """An octet now and then is no progress, and a query that waits protects no more than a fair share."""

    async def body() -> None:
        anybody = Settings(policy=PolicySettings(allow=("0.0.0.0/0", "::/0")))
        parts = Parts(anybody, tcp_connections=16)
        listener = await serve(parts)
        clients: list[dns_connection.DnsConnection] = []

        def connect(host: str, data: bytes) -> Arrived:
            client, transport = dns_connection.DnsConnection(listener), Arrived(host)
            client.connection_made(transport)  # type: ignore[arg-type]
            if not transport.aborted:
                client.data_received(data)
                clients.append(client)
            return transport

        separator = ":" if ":" in networks[0] else "."
        packet = query(c.MX)
        whole = len(packet).to_bytes(2, "big") + packet
        data = b"\0" if behaviour == "begun messages" else whole
        for n in range(1, 9):
            for network in networks:
                connect(f"{network}{separator}{n}", data)
        assert listener.connections == 16
        honest = []
        for n in range(1, 6):
            prefix = f"2001:db8:{n}:1::" if separator == ":" else f"203.0.{n}."
            for host in (1, 2):
                honest.append(connect(f"{prefix}{host}", b"" if data == b"\0" else whole))
        assert not any(transport.aborted for transport in honest)
        assert listener.connections == 16
        # Those who came first try again: they get at each other's places only.
        for n in range(20, 28):
            for network in networks:
                connect(f"{network}{separator}{n}", data)
        assert listener.connections == 16
        assert not any(transport.aborted for transport in honest)
        listener.close()
        for client in clients:
            client.connection_lost(None)
        assert parts.service.waiting == 0

    run(body)


def test_a_connection_without_memory_keeps_no_slot(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        listener = await serve(Parts())
        client = dns_connection.DnsConnection(listener)
        listener._per_address = FullDict()
        transport = Arrived("127.0.0.1")
        with pytest.raises(MemoryError):
            client.connection_made(transport)  # type: ignore[arg-type]
        assert transport.aborted
        client.connection_lost(None)
        assert (listener.connections, listener._per_address) == (0, {})
        listener.close()

    run(body)


@pytest.mark.parametrize("where", ["_per_address", "_arm"])
def test_a_connection_without_memory_for_its_slot_is_ended(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Loops keep a connection whose connection_made has raised: it would not be counted and never time out."""
    def fail() -> None:
        raise MemoryError

    async def body() -> None:
        parts, told = Parts(), []
        parts.mesh.instant = positive()
        listener = await serve(parts)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        for _ in range(3):
            with monkeypatch.context() as shortage:
                shortage.setattr(listener, where, FullDict() if where == "_per_address" else fail)
                client = await Client.start(listener)
                assert await client.ended()  # although it sends nothing that could end it
                await client.close()
            await until(lambda: listener.connections == 0, "its end")
            assert listener._per_address == {}
        assert [type(error) for error in told] == [MemoryError] * 3
        client = await Client.start(listener)
        assert (await client.ask(query())).rcode == c.NOERROR
        assert listener.connections == 1
        await client.close()
        listener.close()

    run(body)


def test_a_burst_is_accepted_as_slots_become_free(run: Callable[[Body], None]) -> None:
    """Descriptors are counted from the accept to the close, also of evicted ones."""
    async def body() -> None:
        parts = Parts(tcp_connections=8, tcp_connections_per_client=1000, tcp_connections_network_percent=100)
        listener = await serve(parts)
        host = listener.address[:2]
        bound = open_descriptors() + 8 + limits.STREAM_WITHOUT_SLOT
        for _ in range(2):
            # All of them wait in the kernel before the loop has a turn.
            clients = [socket.create_connection(host, timeout=TIMEOUT) for _ in range(200)]
            done = listener.accepted + listener.rejected + len(clients)
            most = 0
            while listener.accepted + listener.rejected < done:
                assert listener.connections <= 8
                most = max(most, open_descriptors() - len(clients))
                await asyncio.sleep(0)
            # Of asyncio's listeners the kernel's queue is the only bound.
            assert most <= bound or not isinstance(asyncio.get_running_loop(), corenet.Loop)
            assert listener.connections == 8
            for client in clients:
                client.close()
            await until(lambda: listener.connections == 0, "the end of all")
        listener.close()

    run(body)


def test_a_burst_beyond_the_limit_is_counted_to_the_last(run: Callable[[Body], None]) -> None:
    """All are accepted in one turn, most end inside `connection_made`, and the clients of some are gone by then."""
    async def body() -> None:
        parts = Parts(tcp_connections=5, tcp_connections_per_client=100, tcp_connections_network_percent=100)
        parts.mesh.instant = None
        listener = await serve(parts)
        host = listener.address[:2]
        clients = []
        for number in range(60):
            client = socket.create_connection(host, timeout=TIMEOUT)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
            client.sendall(len(query()).to_bytes(2, "big") + query())
            if number % 3 == 2:
                client.close()
            else:
                clients.append(client)
        await until(lambda: listener.accepted + listener.rejected >= 40, "all that are still there")
        assert listener.connections <= 5
        assert sum(listener._per_address.values()) == listener.connections
        for client in clients:
            client.close()
        await until(lambda: listener.connections == 0, "the end of all")
        assert listener._per_address == {}
        again = await Client.start(listener)
        parts.mesh.instant = positive()
        assert (await again.ask(query())).rcode == c.NOERROR
        await again.close()
        listener.close()

    run(body)


def test_the_longest_idle_connection_is_evicted(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts(tcp_connections=2, tcp_connections_network_percent=100)
        parts.mesh.instant = positive()
        listener = await serve(parts)
        first, second = await Client.start(listener), await Client.start(listener)
        await second.ask(query())
        await first.ask(query())
        third = await Client.start(listener)
        assert (await third.ask(query())).rcode == c.NOERROR
        assert await second.ended()
        assert (await first.ask(query())).rcode == c.NOERROR
        # Now both wait for answers: none is evicted for a new one.
        parts.mesh.instant = None
        for client in (first, third):
            client.send(query(c.MX))
        await submitted(parts, 2)
        late = await Client.start(listener)
        assert await late.ended()
        assert listener.connections == 2
        for client in (first, second, third, late):
            await client.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("behind", [b"", b"\0\x05hello", bytes(60_000)], ids=["nothing", "more", "much more"])
def test_queries_before_garbage_are_answered(run: Callable[[Body], None], behind: bytes) -> None:
    async def body() -> None:
        parts = Parts()
        parts.clock.real = Clock().time()
        parts.answer(query(), positive())
        listener = await serve(parts)
        client = await Client.start(listener)
        good = [query(identity=1), query(c.MX, identity=2), query(identity=3)]
        client.writer.write(b"".join(len(p).to_bytes(2, "big") + p for p in good) + b"\0\x05hello" + behind)
        assert [(await client.read()).id for _ in range(2)] == [1, 3]
        await submitted(parts, 1)
        parts.mesh.finish(positive())
        assert (await client.read()).id == 2
        assert await client.ended()
        assert listener.malformed == 1
        assert parts.service.queries == 2, "what stands behind is not looked at"
        await client.close()
        while listener.connections:
            await asyncio.sleep(0)
        listener.close()

    run(body)


def test_after_garbage_the_connection_ends_soon(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        listener = await serve(Parts(), message_timeout=0.1)
        stays, sends = await Client.start(listener), await Client.start(listener)
        for client in (stays, sends):
            client.writer.write(b"\0\x05hello")
            assert await client.ended()
        while listener.connections == 2 or not listener.timed_out:
            if not sends.writer.transport.is_closing():
                sends.writer.write(bytes(4096))
            await asyncio.sleep(0)
        await until(lambda: not listener.connections, "the listener to let its connections go")
        assert listener.timed_out == 1
        for client in (stays, sends):
            await client.close()
        listener.close()

    run(body)


@pytest.mark.parametrize("rubbish", [b"\0\0", b"\0\x05hello", b"\0\x0c" + bytes(2) + b"\x80" + bytes(9)])
def test_garbage_ends_the_connection(run: Callable[[Body], None], rubbish: bytes) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = await Client.start(listener)
        client.writer.write(rubbish)
        assert await client.ended()
        assert listener.malformed == 1
        await client.close()
        listener.close()

    run(body)


def test_malformed_query_gets_a_format_error_and_the_connection_stays(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        client = await Client.start(listener)
        assert (await client.ask(query()[:-1])).rcode == c.FORMERR
        assert (await client.ask(query(c.AXFR))).rcode == c.REFUSED
        assert (await client.ask(query())).rcode == c.NOERROR
        await client.close()
        listener.close()

    run(body)


def test_clients_without_access_are_not_served(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        dropping = Parts(replace(Settings(), policy=PolicySettings(allow=(), drop=("127.0.0.0/8",))))
        refusing = Parts(replace(Settings(), policy=PolicySettings(allow=())))
        refusing.clock.real = Clock().time()
        refusing.store.answers.put(Parts().answer(query(edns_payload=None), positive()).wire, do=False, cd=False,
                                   now=refusing.clock.real, ttl=300)
        listeners = [await serve(dropping), await serve(refusing)]
        silent, refused = [await Client.start(listener) for listener in listeners]
        assert await silent.ended()
        assert (await refused.ask(query())).rcode == c.REFUSED
        for client in (silent, refused):
            await client.close()
        for listener in listeners:
            listener.close()

    run(body)


def test_secondaries_may_connect_although_they_are_dropped_as_clients(run: Callable[[Body], None]) -> None:
    """Their requests for zones are answered, and nothing else is."""
    zone = ZoneSettings(name="e.test.", file="unused", allow_transfer=("127.0.0.0/8",))
    settings = replace(Settings(), policy=PolicySettings(allow=(), drop=("127.0.0.0/8",)), zone=(zone,))

    async def body() -> None:
        parts = Parts(settings)
        parts.mesh.instant = positive()
        table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
        table.put(ORIGIN, version(5, 2), 0)
        parts.fast = FastPath(parts.store.answers, parts.plan.access, peers=ZonePeers.create(settings))
        given = (settings, table, lambda _: None, lambda: NOW, lambda _: None, parts.service)
        parts.service.zone_server = ZoneServer(*given)
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(query(identity=5))
        transfer = await client.ask(query(c.AXFR, qname=ORIGIN, identity=6, edns_payload=None))
        assert (transfer.id, transfer.rcode, len(transfer.answer)) == (6, c.NOERROR, 4)
        assert parts.mesh.tickets == [] and parts.service.denied == 1
        listener.switch(parts.service, parts.fast, parts.plan.access, parts.settings.server)
        assert listener.connections == 1
        strict = FastPath(parts.store.answers, parts.plan.access)
        listener.switch(parts.service, strict, parts.plan.access, parts.settings.server)
        assert await client.ended()
        again = await Client.start(listener)
        assert await again.ended()
        for one in (client, again):
            await one.close()
        listener.close()

    run(body)


def test_a_transfer_that_cannot_go_on_ends_its_connection(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that waits for a reply has no timeout, so it would stay for ever."""
    zone = ZoneSettings(name="e.test.", file="unused", allow_transfer=("127.0.0.0/8",))
    settings = replace(Settings(), zone=(zone,))

    def messages(*_: object, **__: object) -> Iterator[bytes]:
        yield bytes(limits.STREAM_TURN_OCTETS // 2)
        yield bytes(limits.STREAM_TURN_OCTETS // 2)
        raise ValueError("no more")  # in the next turn

    monkeypatch.setattr("resolver.net.zone_server.transfer_messages", messages)

    async def body() -> None:
        problems: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))
        parts = Parts(settings)
        table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
        table.put(ORIGIN, version(5, 2), 0)
        given = (settings, table, lambda _: None, lambda: NOW, lambda _: None, parts.service)
        parts.service.zone_server = ZoneServer(*given)
        listener = await serve(parts)
        client = await Client.start(listener)
        client.send(query(c.AXFR, qname=ORIGIN, edns_payload=None))
        with contextlib.suppress(ConnectionError):
            while await client.reader.read(1 << 16):
                continue
        assert listener.connections == 0
        assert [str(one) for one in problems] == ["no more"]
        await client.close()
        listener.close()

    run(body)


def test_close_ends_every_connection(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        clients = [await Client.start(listener) for _ in range(3)]
        clients[0].send(query())
        await submitted(parts, 1)
        listener.close()
        for client in clients:
            assert await client.ended()
            await client.close()
        assert parts.service.waiting == 0

    run(body)
