"""Batches of datagrams below the protocol: joined and cut by the kernel, answered from the address they were sent to.

asyncio has none of this, so there is no run on its loop; the peers are plain sockets.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.native import set_echo

import corenet
from corenet import SocketOptions
from corenet.transports.peer import PeerAddress

from .test_datagram import Batches, Collector, address, close, endpoint

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
SO_NO_CHECK = 11
IP_PKTINFO = 8


@contextmanager
def plain_socket(host: str = "127.0.0.1", *options: int) -> Iterator[socket.socket]:
    """A blocking socket with a time limit; `options` of SOL_UDP are switched on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for option in options:
            sock.setsockopt(SOL_UDP, option, 1)
        sock.bind((host, 0))
        sock.settimeout(30)
        yield sock


def joined(sock: socket.socket) -> tuple[bytes, int]:
    """What one call receives, and the size at which it is to be cut."""
    data, control, _, _ = sock.recvmsg(65536, 256)
    sizes = [struct.unpack("i", value)[0] for level, kind, value in control if (level, kind) == (SOL_UDP, UDP_GRO)]
    return data, sizes[0] if sizes else len(data)


# --- sending in runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_equal_datagrams_to_one_peer_are_sent_as_one(host: str) -> None:
    async def main() -> None:
        end = await endpoint(local_addr=(host, 0))
        with plain_socket(host, UDP_GRO) as one, plain_socket(host, UDP_GRO) as two:
            sizes = [100, 100, 100, 40, 100, 100, 200, 0, 0, 7]
            end.transport.send_many(
                [(bytes([i]) * size, one.getsockname()) for i, size in enumerate(sizes)]
                + [(b"other", two.getsockname())]
            )
            # A shorter one ends a run, a longer one begins another, an empty one goes alone.
            assert [(len(data), size) for data, size in (joined(one) for _ in range(5))] == [
                (340, 100),
                (200, 100),
                (200, 200),
                (0, 0),
                (0, 0),
            ]
            assert joined(one) == (b"\x09" * 7, 7)
            assert joined(two) == (b"other", 5)
        await close(end)

    corenet.run(main())


def test_a_run_is_bounded_in_number_and_size() -> None:
    async def main() -> None:
        end = await endpoint()
        # Else the mark cuts the batch first.
        end.transport.set_write_buffer_limits(high=1 << 20)
        with plain_socket("127.0.0.1", UDP_GRO) as sink:
            end.transport.send_many([(b"x" * 1400, sink.getsockname())] * 60)
            assert [len(joined(sink)[0]) for _ in range(2)] == [46 * 1400, 14 * 1400]
            end.transport.send_many([(b"y" * 3, sink.getsockname())] * 130)
            assert [len(joined(sink)[0]) for _ in range(3)] == [64 * 3, 64 * 3, 2 * 3]
        await close(end)

    corenet.run(main())


def test_a_socket_without_gso_sends_one_by_one() -> None:
    """Without checksums the kernel refuses to cut (EINVAL, udp_send_skb); nothing is lost and no error is reported."""

    async def main() -> None:
        end = await endpoint()
        end.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        with plain_socket("127.0.0.1", UDP_GRO) as sink:
            for _ in range(2):
                end.transport.send_many([(bytes([i]) * 50, sink.getsockname()) for i in range(20)])
                assert [joined(sink) for _ in range(20)] == [(bytes([i]) * 50, 50) for i in range(20)]
        assert end.errors == []
        await close(end)

    corenet.run(main())


def test_a_run_to_a_closed_port_loses_its_first_datagram() -> None:
    async def main() -> None:
        gone = await endpoint()
        target = address(gone)
        await close(gone)
        client = await endpoint(local_addr=None, remote_addr=target)
        client.transport.sendto(b"x")
        client.transport.send_many([(b"y", None)] * 3)
        await client.until(lambda: bool(client.errors))
        assert {type(error) for error in client.errors} == {ConnectionRefusedError}
        assert not client.transport.is_closing()
        await close(client)

    corenet.run(main())


# --- receiving what was joined ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("kind", [Collector, Batches])
def test_joined_datagrams_are_delivered_one_by_one(kind: type[Collector], joins: bool) -> None:
    async def main() -> None:
        end = await endpoint(kind, options=SocketOptions(udp_gro=joins))
        with plain_socket() as source:
            source.sendto(b"", address(end))
            source.setsockopt(SOL_UDP, UDP_SEGMENT, 9)
            data = b"".join(b"number%3d" % i for i in range(60))
            source.sendto(data + b"end", address(end))
            await end.until(lambda: len(end.received) == 62)
            peer = source.getsockname()
        expected = [b"", *(b"number%3d" % i for i in range(60)), b"end"]
        assert end.received == [(data, peer) for data in expected]
        await close(end)

    corenet.run(main())


def test_a_protocol_that_closes_gets_no_more_datagrams() -> None:
    class Closing(Collector):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.close()

    async def main() -> None:
        end = await endpoint(Closing, options=SocketOptions(udp_gro=True))
        with plain_socket() as source:
            source.setsockopt(SOL_UDP, UDP_SEGMENT, 2)
            source.sendto(b"aabbcc", address(end))
            assert await end.lost is None
        assert [data for data, _ in end.received] == [b"aa"]

    corenet.run(main())


@pytest.mark.checkout
@pytest.mark.parametrize("joins", [True, False])
def test_a_native_handler_gets_single_datagrams(joins: bool) -> None:
    """More replies than a batch holds, some datagrams dropped, some left to Python."""

    async def main() -> None:
        end = await endpoint(Batches, options=SocketOptions(udp_gro=joins))
        set_echo(end.transport)
        with plain_socket() as cutter:
            cutter.setsockopt(SOL_UDP, UDP_SEGMENT, 4)
            pieces = [b"%4d" % i if i % 10 else b"\xff%3d" % i for i in range(60)]
            for _ in range(3):
                cutter.sendto(b"".join(pieces), address(end))
            await end.until(lambda: len(end.received) == 18)
            got = [cutter.recv(100) for _ in range(162)]
            peer = cutter.getsockname()
        echoed = [piece for piece in pieces if piece[0] != 0xFF]
        assert got == echoed * 3
        assert end.received == [(piece, peer) for piece in pieces if piece[0] == 0xFF] * 3
        assert end.transport.native_counters() == (162, 0, 18)
        await close(end)

    corenet.run(main())


# --- others that hold the socket --------------------------------------------------------------------------------------


def singles(sock: socket.socket, number: int) -> list[bytes]:
    """What `number` calls receive that know nothing of joined datagrams."""
    sock.settimeout(30)
    return [sock.recv(65536) for _ in range(number)]


def cut_by_the_kernel(target: Any) -> None:
    """Three datagrams that are sent as one and stay joined for a socket with UDP_GRO."""
    with plain_socket() as source:
        source.setsockopt(SOL_UDP, UDP_SEGMENT, 5)
        source.sendto(b"first" + b"2nd-2" + b"three", target)


THREE = [b"first", b"2nd-2", b"three"]


def in_a_child(sock: socket.socket) -> list[bytes]:
    """What a forked process receives on its copy of the socket."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(into, b"|".join(singles(sock, 3)))
        finally:
            os._exit(0)
    os.close(into)
    os.waitpid(pid, 0)
    with open(out, "rb") as pipe:
        return pipe.read().split(b"|")


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("when", ["open", "closed"])
@pytest.mark.parametrize("holder", ["dup", "child"])
def test_other_holders_of_the_socket_get_single_datagrams(given: bool, when: str, holder: str) -> None:
    async def main() -> None:
        if given:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            end = await endpoint(local_addr=None, sock=sock)
        else:
            end = await endpoint()
        target = address(end)
        # So that the following datagrams are for the other holder.
        end.transport.pause_reading()
        with end.transport.get_extra_info("socket").dup() as other:
            if when == "closed":
                await close(end)
            cut_by_the_kernel(target)
            assert (singles(other, 3) if holder == "dup" else in_a_child(other)) == THREE
        if when == "open":
            await close(end)

    corenet.run(main())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_options_of_a_given_socket_are_not_changed(family: int) -> None:
    """Also at the wildcard address, where the loop's own sockets get the local address of each datagram."""
    options = [
        (SOL_UDP, UDP_GRO),
        (SOL_UDP, UDP_SEGMENT),
        (socket.SOL_SOCKET, socket.SO_REUSEADDR),
        (socket.IPPROTO_IP, IP_PKTINFO) if family == socket.AF_INET else (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    ]

    def shown(sock: Any) -> list[int]:
        return [sock.getsockopt(*option) for option in options]

    async def main() -> None:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(("" if family == socket.AF_INET else "::", 0))
        before = shown(sock)
        end = await endpoint(local_addr=None, sock=sock)
        assert shown(sock) == before == [0, 0, 0, 0]
        await answered_by(end, "127.0.0.1" if family == socket.AF_INET else "::1")
        with sock.dup() as other:
            await close(end)
            assert shown(other) == before

    corenet.run(main())


async def answered_by(end: Collector, host: str) -> None:
    with plain_socket(host) as asker:
        asker.sendto(b"question", (host, address(end)[1]))
        await end.until(lambda: bool(end.received))
        end.transport.sendto(b"answer", end.received[0][1])
        assert asker.recv(100) == b"answer"
        # The destination address is not requested, so it is not known.
        assert end.received == [(b"question", asker.getsockname())]


# --- the address that was asked ---------------------------------------------------------------------------------------


async def answered_from(end: Collector, asked: str, **connect: Any) -> bytes:
    """Query the address `asked` with a connected socket, which receives from no other address."""
    client = await endpoint(local_addr=None, remote_addr=(asked, address(end)[1]), **connect)
    client.transport.sendto(b"question")
    await client.until(lambda: bool(client.received))
    answer: bytes = client.received[0][0]
    await close(client)
    return answer


class Answers(Collector):
    """Replies by each way to send."""

    way = "sendto"

    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        loop = asyncio.get_running_loop()
        if self.way == "sendto":
            self.transport.sendto(b"sendto", addr)
        elif self.way == "later":
            # Outside the callback nothing is corked.
            loop.call_soon(self.transport.sendto, bytearray(b"later"), addr)
        else:
            self.transport.send_many([(b"many", addr), (b"many", addr)])


@pytest.mark.parametrize("way", ["sendto", "later", "many"])
@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
def test_answer_is_sent_from_the_address_of_the_query(way: str, asked: str) -> None:
    async def main() -> None:
        end = await endpoint(type("Ways", (Answers,), {"way": way}), local_addr=("0.0.0.0", 0))
        assert await answered_from(end, asked) == way.encode()
        peer = end.received[0][1]
        assert isinstance(peer, PeerAddress)
        assert peer.local == asked
        assert peer == tuple(peer)
        assert hash(peer) == hash(tuple(peer))
        await close(end)

    corenet.run(main())


@pytest.mark.parametrize("asked", ["127.0.0.2", "::1"])
def test_socket_of_both_families(asked: str) -> None:
    """IPv4 on an IPv6 socket comes as a mapped address (RFC 4291 section 2.5.5.2)."""

    async def main() -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(("::", 0))
        end = await endpoint(Answers, local_addr=None, sock=sock)
        assert await answered_from(end, asked) == b"sendto"
        assert end.received[0][1].local == ("::ffff:127.0.0.2" if asked == "127.0.0.2" else asked)
        await close(end)

    corenet.run(main())


@pytest.mark.checkout
def test_native_answer_is_sent_from_the_address_of_the_query() -> None:
    async def main() -> None:
        end = await endpoint(local_addr=("0.0.0.0", 0))
        set_echo(end.transport)
        for asked in ("127.0.0.1", "127.0.0.2"):
            assert await answered_from(end, asked) == b"question"
        await close(end)

    corenet.run(main())


def test_a_bound_socket_has_plain_addresses_and_accepts_others() -> None:
    async def main() -> None:
        anywhere, bound = await endpoint(local_addr=("0.0.0.0", 0)), await endpoint()
        bound.transport.sendto(b"x", ("127.0.0.2", address(anywhere)[1]))
        await anywhere.until(lambda: bool(anywhere.received))
        peer = anywhere.received[0][1]
        # Another transport sends from its own address whatever the peer had asked.
        other = await endpoint()
        other.transport.sendto(b"y", peer)
        # For a plain tuple the kernel selects the source address.
        anywhere.transport.sendto(b"z", tuple(peer))
        await bound.until(lambda: len(bound.received) == 2)
        assert sorted(bound.received) == [(b"y", address(other)), (b"z", ("127.0.0.1", address(anywhere)[1]))]
        assert {type(peer) for _, peer in bound.received} == {tuple}
        await close(anywhere, bound, other)

    corenet.run(main())
