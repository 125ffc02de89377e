"""Datagram transports: batches, errors of single datagrams, flow control, and the native handler."""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.native import set_echo
from support.twin import loop_factory, twin
from support.watermarks import record_pauses

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


class Collector(asyncio.DatagramProtocol):
    """Keeps what comes; `batches` counts the deliveries."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.events: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self.changed.set()

    def error_received(self, error: Exception) -> None:
        self.errors.append(error)
        self.changed.set()

    def note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.set_result(error)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Batches(Collector):
    """Takes batches as lists."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def datagrams_received(self, datagrams: list[tuple[bytes, Any]]) -> None:
        self.batches.append(len(datagrams))
        self.received.extend(datagrams)
        self.changed.set()


async def endpoint(kind: type[Collector] = Collector, **kwargs: Any) -> Collector:
    kwargs.setdefault("local_addr", ("127.0.0.1", 0))
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(kind, **kwargs)
    return protocol


def address(end: Collector) -> Any:
    return end.transport.get_extra_info("sockname")


async def close(*ends: Collector) -> None:
    for end in ends:
        end.transport.close()
        assert await end.lost is None


def test_unconnected_and_connected(twin: Twin) -> None:
    async def main() -> None:
        server = await endpoint()
        client = await endpoint(local_addr=None, remote_addr=address(server))
        client.transport.sendto(b"one")
        client.transport.sendto(bytearray(b"two"), address(server))
        await server.until(lambda: len(server.received) == 2)
        assert server.received == [(b"one", address(client)), (b"two", address(client))]
        server.transport.sendto(b"back", address(client))
        await client.until(lambda: len(client.received) == 1)
        assert client.received == [(b"back", address(server))]
        assert client.transport.get_extra_info("peername") == address(server)
        with pytest.raises(ValueError, match="Invalid address"):
            client.transport.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(TypeError):
            client.transport.sendto("text")
        await close(server, client)

    twin(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_sizes_and_families(twin: Twin, host: str) -> None:
    async def main() -> None:
        server = await endpoint(local_addr=(host, 0))
        client = await endpoint(local_addr=None, remote_addr=address(server)[:2])
        sizes = [1, 100, 1472, 9000, 65000, 65507 if host == "127.0.0.1" else 65487]
        for size in sizes:
            client.transport.sendto(b"x" * size)
            await server.until(lambda size=size: server.received[-1:] and len(server.received[-1][0]) == size)
        assert server.received[0][1] == address(client)
        await close(server, client)

    twin(main())


def test_burst_keeps_order(twin: Twin) -> None:
    async def main() -> None:
        server = await endpoint()
        client = await endpoint(local_addr=None, remote_addr=address(server))
        for number in range(200):
            client.transport.sendto(b"%d" % number)
        await server.until(lambda: len(server.received) == 200)
        assert [data for data, _ in server.received] == [b"%d" % number for number in range(200)]
        await close(server, client)

    twin(main())


def test_refused_port_is_an_error_of_the_datagram(twin: Twin) -> None:
    async def main() -> None:
        gone = await endpoint()
        target = address(gone)
        await close(gone)
        client = await endpoint(local_addr=None, remote_addr=target)
        client.transport.sendto(b"x")
        await client.until(lambda: bool(client.errors))
        assert isinstance(client.errors[0], ConnectionRefusedError)
        again = await endpoint(local_addr=target)
        while client.errors and not again.received:
            client.transport.sendto(b"y")
            await asyncio.sleep(0)
        await close(client, again)

    twin(main())


def test_unix_datagrams(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        paths = [str(tmp_path / name) for name in "ab"]
        one, two = [await endpoint(local_addr=path, family=socket.AF_UNIX) for path in paths]
        one.transport.sendto(b"x" * 100_000, paths[1])
        await two.until(lambda: bool(two.received))
        assert two.received == [(b"x" * 100_000, paths[0])]
        await close(one, two)

    twin(main())


def test_name_as_address(twin: Twin) -> None:
    async def main() -> None:
        server, client = await endpoint(), await endpoint()
        client.transport.sendto(b"x", ("localhost", address(server)[1]))
        await server.until(lambda: bool(server.received))
        await close(server, client)

    twin(main())


def test_flow_control(tmp_path: Path) -> None:
    """A Unix socket whose reader does not read is full after a few datagrams. No twin: 3.13.0 miscounts its buffer."""

    async def main() -> None:
        path = str(tmp_path / "full")
        reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        reader.bind(path)
        writer = await endpoint(local_addr=None, remote_addr=path, family=socket.AF_UNIX)
        seen = record_pauses(writer)
        writer.transport.set_write_buffer_limits(high=100, low=20)
        sent = 0
        while "pause" not in writer.events:
            waits = writer.transport.get_write_buffer_size()
            writer.transport.sendto(b"%8d" % sent)
            sent += 1
        assert waits <= 100 and seen == [("pause", waits + 8)]
        received = 0
        reader.setblocking(False)
        while received < sent:
            try:
                assert reader.recv(100) == b"%8d" % received
                received += 1
            except BlockingIOError:
                await asyncio.sleep(0)
        await writer.until(lambda: "resume" in writer.events)
        assert len(seen) == 2 and seen[1][0] == "resume" and seen[1][1] <= 20
        await close(writer)
        reader.close()

    corenet.run(main())


def test_is_an_instance_of_asyncios_class() -> None:
    """asyncio's own is one only from 3.12 on, so this is not a twin."""

    async def main() -> None:
        one = await endpoint()
        assert isinstance(one.transport, asyncio.DatagramTransport)
        assert isinstance(one.transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        await close(one)

    corenet.run(main())


def test_batches_are_delivered_as_one_list_and_sent_in_one_call() -> None:
    async def main() -> None:
        server, client = await endpoint(Batches), await endpoint()
        assert isinstance(server, Batches)
        client.transport.send_many([(b"%d" % number, address(server)) for number in range(150)])
        await server.until(lambda: len(server.received) == 150)
        assert [data for data, _ in server.received] == [b"%d" % number for number in range(150)]
        assert max(server.batches) >= 64
        assert len(server.batches) < 20
        await close(server, client)

    corenet.run(main())


def test_empty_datagram_is_data() -> None:
    async def main() -> None:
        server, client = await endpoint(), await endpoint()
        client.transport.sendto(b"", address(server))
        await server.until(lambda: bool(server.received))
        assert server.received == [(b"", address(client))]
        await close(server, client)

    corenet.run(main())


@pytest.mark.checkout
def test_native_handler_answers_drops_and_passes() -> None:
    async def main() -> None:
        server, client = await endpoint(Batches), await endpoint()
        set_echo(server.transport)
        client.transport.send_many([(data, address(server)) for data in (b"a", b"", b"\xffpython", b"b" * 9000)])
        await client.until(lambda: len(client.received) == 2)
        assert client.received == [(b"a", address(server)), (b"b" * 9000, address(server))]
        await server.until(lambda: bool(server.received))
        assert server.received == [(b"\xffpython", address(client))]
        assert server.transport.native_counters() == (2, 1, 1)
        server.transport.sendto(b"late", address(client))
        await client.until(lambda: len(client.received) == 3)
        await close(server, client)

    corenet.run(main())


@pytest.mark.checkout
def test_native_handler_on_a_connected_socket_survives_errors() -> None:
    async def main() -> None:
        server, peer = await endpoint(), await endpoint()
        connected = await endpoint(local_addr=None, remote_addr=address(peer))
        set_echo(connected.transport)
        peer.transport.sendto(b"ping", address(connected))
        await peer.until(lambda: bool(peer.received))
        assert peer.received == [(b"ping", address(connected))]
        target = address(peer)
        await close(peer)
        connected.transport.sendto(b"nobody")
        await connected.until(lambda: bool(connected.errors))
        assert isinstance(connected.errors[0], ConnectionRefusedError)
        again = await endpoint(local_addr=target)
        again.transport.sendto(b"again", address(connected))
        await again.until(lambda: any(data == b"again" for data, _ in again.received))
        await close(server, connected, again)

    corenet.run(main())


def test_a_failing_protocol_loses_one_datagram() -> None:
    class Failing(Collector):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise LookupError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        server, client = await endpoint(Failing), await endpoint()
        client.transport.send_many([(data, address(server)) for data in (b"good", b"bad", b"fine")])
        await server.until(lambda: len(server.received) == 3)
        assert [type(context["exception"]) for context in reported] == [LookupError]
        await close(server, client)

    corenet.run(main())


def test_an_unconnected_endpoint_sends_until_it_has_ended(twin: Twin) -> None:
    """Between `close` and connection_lost datagrams are sent and errors reported; afterwards nothing happens."""

    async def main() -> None:
        ours, theirs = await endpoint(), await endpoint()
        address = theirs.transport.get_extra_info("sockname")
        ours.transport.close()
        ours.transport.sendto(b"last", address)
        ours.transport.sendto(bytes(70_000), address)
        assert [error.errno for error in ours.errors] == [errno.EMSGSIZE]
        await theirs.until(lambda: bool(theirs.received))
        assert [data for data, _ in theirs.received] == [b"last"]
        await ours.lost
        theirs.transport.close()
        await theirs.lost

    twin(main())


def test_close_inside_a_batch_stops_delivery() -> None:
    class Closing(Collector):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(b"bye", addr)
            self.transport.close()

    async def main() -> None:
        server, client = await endpoint(Closing), await endpoint()
        client.transport.send_many([(b"x", address(server))] * 5)
        assert await server.lost is None
        assert len(server.received) == 1
        await client.until(lambda: bool(client.received))
        assert client.received[0][0] == b"bye"
        await close(client)

    corenet.run(main())


def test_netlink_socket() -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
        sock.bind((0, 0))
        sock.setblocking(False)
        end = await endpoint(local_addr=None, sock=sock)
        # RTM_GETLINK with NLM_F_REQUEST | NLM_F_DUMP (rtnetlink(7)).
        request = (20).to_bytes(4, "little") + bytes([18, 0, 1, 3]) + bytes(8) + bytes(4)
        end.transport.sendto(request, (0, 0))
        await end.until(lambda: bool(end.received))
        assert end.received[0][1] == (0, 0)
        await close(end)

    corenet.run(main())


class Mute(asyncio.DatagramProtocol):
    """A protocol without connection_made."""

    @property
    def connection_made(self) -> Any:
        raise AttributeError("connection_made")


def test_the_waiter_of_an_endpoint_gets_the_registration_error() -> None:
    """As for a connection; asyncio raises before there is a waiter."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(AttributeError):
            await loop.create_datagram_endpoint(Mute, local_addr=("127.0.0.1", 0))

    corenet.run(asyncio.wait_for(main(), 30))


def test_an_endpoint_whose_connection_made_ends_the_run_continues_in_the_next(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    class Interrupting(Collector):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            raise KeyboardInterrupt

    async def main() -> None:
        ours = Interrupting()
        made.append(ours)
        await loop.create_datagram_endpoint(lambda: ours, local_addr=("127.0.0.1", 0))

    async def later() -> None:
        [ours] = made
        theirs = await endpoint()
        theirs.transport.sendto(b"x", address(ours))
        await ours.until(lambda: bool(ours.received))
        await close(ours, theirs)

    made: list[Collector] = []
    loop = loop_factory()
    first = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(first)
    loop.run_until_complete(asyncio.wait_for(first, 30))
    loop.run_until_complete(asyncio.wait_for(later(), 30))
    loop.close()


class Stubborn(Collector):
    """On each error sends again to an unreachable address, in one of several ways."""

    way = "sendto"
    most = 20_000
    nowhere = ("255.255.255.255", 9)

    def again(self) -> None:
        if len(self.errors) >= self.most:
            raise AssertionError("the loop did not come back")
        if self.way == "send_many":
            self.transport.send_many([(b"again", self.nowhere)] * 2)
        else:
            for _ in range(100 if self.way == "many" else 1):
                self.transport.sendto(b"again", self.nowhere)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.again()

    inside = nested = False

    def error_received(self, error: Exception) -> None:
        super().error_received(error)
        self.nested = self.nested or self.inside
        if self.way != "stop":
            self.inside = True
            self.again()
            self.inside = False


@pytest.mark.parametrize("way", ["sendto", "send_many"])
def test_a_protocol_that_sends_again_on_each_error_does_not_block_the_loop(way: str) -> None:
    """What error_received sends in a batch that is answered waits for the next iteration."""

    async def main() -> None:
        protocol = await endpoint(Stubborn)
        protocol.way = way
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(3):
                peer.sendto(b"x", protocol.transport.get_extra_info("sockname"))
        await protocol.until(lambda: len(protocol.received) == 3)
        for _ in range(5):
            before = len(protocol.errors)
            await asyncio.sleep(0)
            assert len(protocol.errors) - before < 1000
        await protocol.until(lambda: len(protocol.errors) > 50)
        protocol.way = "stop"
        await asyncio.sleep(0)
        assert not protocol.nested
        protocol.transport.abort()
        await protocol.lost

    corenet.run(asyncio.wait_for(main(), 30))


def test_datagrams_sent_for_an_error_follow_the_queued_ones() -> None:
    class Apologetic(Collector):
        def error_received(self, error: Exception) -> None:
            super().error_received(error)
            self.transport.sendto(b"sorry", self.received[0][1])

    async def main() -> None:
        protocol = await endpoint(Apologetic)
        peer = await endpoint()
        address = peer.transport.get_extra_info("sockname")
        peer.transport.sendto(b"hello", protocol.transport.get_extra_info("sockname"))
        await protocol.until(lambda: bool(protocol.received))
        protocol.transport.send_many([(b"1", address), (b"lost", Stubborn.nowhere), (b"2", address)])
        await peer.until(lambda: len(peer.received) == 3)
        assert [data for data, _ in peer.received] == [b"1", b"2", b"sorry"]
        for one in (protocol, peer):
            one.transport.close()
            await one.lost

    corenet.run(asyncio.wait_for(main(), 30))
