"""The UDP listener on real sockets, on asyncio's loop and on ours: the same replies, hits in C, misses as a list."""

import asyncio
import socket
from collections.abc import Callable, Coroutine

import pytest
from support.service_parts import Parts, address, positive, query

import corenet
from resolver.net.clock_random import Clock
from resolver.net.udp_listener import UdpListener, open_udp_socket
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


class Client(asyncio.DatagramProtocol):
    """Asks one listener and waits for what comes."""

    def __init__(self) -> None:
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()

    @classmethod
    async def start(cls, listener: UdpListener) -> "Client":
        client = cls()
        client.transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: client, remote_addr=listener.address[:2]
        )
        return client

    transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.replies.put_nowait(data)

    async def ask(self, packet: bytes) -> MessageView:
        self.transport.sendto(packet)
        return MessageView.parse(await self.replies.get())


async def serve(parts: Parts, host: str = "127.0.0.1", **options: bool) -> UdpListener:
    parts.clock.real = Clock().time()
    listener = UdpListener(parts.service, parts.fast, **options)
    await listener.start(open_udp_socket(host, 0))
    return listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_miss_then_hit(run: Callable[[Body], None], host: str) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, host)
        client = await Client.start(listener)
        first = await client.ask(query(identity=1))
        second = await client.ask(query(identity=2))
        assert [(x.id, x.rcode, len(x.answer)) for x in (first, second)] == [(1, c.NOERROR, 1), (2, c.NOERROR, 1)]
        assert parts.service.queries == 1
        assert parts.fast.statistics()["hits"] == 1
        native = isinstance(asyncio.get_running_loop(), corenet.Loop)
        assert listener.native is native
        client.transport.close()
        listener.close()

    run(body)


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_reply_is_sent_from_the_queried_address(host: str, asked: str) -> None:
    """From Python, from C, and later. The connected client accepts only this address (RFC 1123 section 4.1.3.5)."""

    async def main() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts, host)
        client = Client()
        client.transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: client, remote_addr=(asked, listener.address[1])
        )
        async with asyncio.timeout(TIMEOUT):
            assert [(await client.ask(query(identity=n))).id for n in (1, 2)] == [1, 2]
            assert parts.fast.statistics()["hits"] == 1
            parts.mesh.instant = None
            client.transport.sendto(query(c.AAAA, identity=3))
            while not parts.mesh.tickets:
                await asyncio.sleep(0)
            parts.mesh.finish(positive())
            assert MessageView.parse(await client.replies.get()).id == 3
        client.transport.close()
        listener.close()

    corenet.run(main())


def test_a_delayed_reply_is_sent(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = await Client.start(listener)
        for n in range(40):
            client.transport.sendto(query(identity=n))
        while len(parts.mesh.tickets) < 40:
            await asyncio.sleep(0)
        while parts.mesh.tickets:
            parts.mesh.finish(positive())
        got = {MessageView.parse(await client.replies.get()).id for _ in range(40)}
        assert got == set(range(40))
        client.transport.close()
        listener.close()

    run(body)


def test_garbage_does_not_stop_the_service(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = await serve(parts)
        client = await Client.start(listener)
        for packet in (b"", b"x", query(flags=0x8100), bytes(65_000)):
            client.transport.sendto(packet)
        assert (await client.ask(query()[:-1])).rcode in (c.FORMERR, c.NOTIMP)
        while not client.replies.empty():
            client.replies.get_nowait()
        assert (await client.ask(query(flags=4 << 11))).rcode in (c.NOTIMP, c.FORMERR)
        assert (await client.ask(query())).rcode in (c.NOERROR, c.NOTIMP)
        client.transport.close()
        listener.close()

    run(body)


def test_large_answer_is_truncated(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive(address(count=100))
        listener = await serve(parts)
        client = await Client.start(listener)
        for _ in range(2):
            assert (await client.ask(query())).tc
        client.transport.close()
        listener.close()

    run(body)


def test_python_path_on_our_loop_gives_the_same() -> None:
    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        native, plain = await serve(parts), await serve(parts, native=False)
        assert (native.native, plain.native) == (True, False)
        one, two = await Client.start(native), await Client.start(plain)
        for packet in (query(), query(do=True), query(edns_payload=None), query(c.ANY), query(flags=0), query()[:-2]):
            assert (await one.ask(packet)).wire == (await two.ask(packet)).wire
        for client in (one, two):
            client.transport.close()
        native.close()
        plain.close()

    corenet.run(body())


def test_switch_serves_new_queries_with_the_new_parts(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        old, new = Parts(), Parts()
        new.mesh.instant = positive(address(count=2))
        new.clock.real = Clock().time()
        listener = await serve(old)
        client = await Client.start(listener)
        client.transport.sendto(query(identity=1))
        while not old.mesh.tickets:
            await asyncio.sleep(0)
        listener.switch(new.service, new.fast)
        assert len((await client.ask(query(identity=2))).answer[0]) == 2
        old.mesh.finish(positive())
        late = MessageView.parse(await client.replies.get())
        assert (late.id, len(late.answer[0])) == (1, 1)
        assert (await client.ask(query(identity=3))).id == 3
        assert new.fast.statistics()["hits"] == 1
        client.transport.close()
        listener.close()

    run(body)


def test_closed_listener_sends_nothing(run: Callable[[Body], None]) -> None:
    async def body() -> None:
        parts = Parts()
        listener = await serve(parts)
        client = await Client.start(listener)
        client.transport.sendto(query())
        while not parts.mesh.tickets:
            await asyncio.sleep(0)
        listener.close()
        listener.close()
        parts.mesh.finish(positive())
        assert parts.service.waiting == 0
        client.transport.close()

    run(body)


def test_two_sockets_share_a_port() -> None:
    first = open_udp_socket("127.0.0.1", 0, reuse_port=True)
    port = first.getsockname()[1]
    second = open_udp_socket("127.0.0.1", port, reuse_port=True)
    with pytest.raises(OSError, match="in use"):
        open_udp_socket("127.0.0.1", port)
    assert not first.getblocking()
    assert first.getsockopt(socket.IPPROTO_IP, 10) == 5
    first.close()
    second.close()
