"""`create_connection` to a name with several addresses: happy eyeballs, order of families, `all_errors`, cancellation.

Also its argument checks, `connect_accepted_socket`, and `getaddrinfo` of numeric hosts.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.ports import free_port
from support.twin import Recorder, loop_factory, since, twin
from support.waiting import until

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]

V4 = socket.AF_INET
V6 = socket.AF_INET6


def addrinfo(host: str, port: int) -> tuple[Any, ...]:
    """One entry of a `getaddrinfo` result."""
    if ":" in host:
        return (V6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
    return (V4, socket.SOCK_STREAM, 6, "", (host, port))


def answer_with(loop: Any, *infos: tuple[Any, ...]) -> None:
    """Replace `loop.getaddrinfo` by one that returns `infos`."""

    async def getaddrinfo(*_args: Any, **_keywords: Any) -> list[tuple[Any, ...]]:
        return list(infos)

    loop.getaddrinfo = getaddrinfo


def open_descriptors() -> int:
    """Number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_the_next_address_is_tried(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        answer_with(loop, addrinfo("127.0.0.2", free_port()), addrinfo("127.0.0.1", port))
        transport, _ = await loop.create_connection(Recorder, "host.example", port)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.abort()
        server.close()

    twin(main())


class UnresponsiveAddress:
    """A listening socket whose backlog is full, so that a connect to it does not end. `close` closes all sockets."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.3", 0))
        self.sock.listen(0)
        self.port: int = self.sock.getsockname()[1]
        self.fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.3", self.port))
            self.fillers.append(filler)

    def close(self) -> None:
        for sock in (self.sock, *self.fillers):
            sock.close()


def test_happy_eyeballs_skip_an_unresponsive_address(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        unresponsive = UnresponsiveAddress()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        answer_with(loop, addrinfo("127.0.0.3", unresponsive.port), addrinfo("127.0.0.1", port))
        began = loop.time()
        transport, _ = await loop.create_connection(Recorder, "host.example", port, happy_eyeballs_delay=0.02)
        assert loop.time() - began > 0.015
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.abort()
        server.close()
        unresponsive.close()

    twin(main())


def test_interleave_alternates_families(twin: Twin) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        tried: list[str] = []

        async def sock_connect(sock: Any, address: Any) -> None:
            tried.append(address[0])
            raise OSError(111, f"refused {address[0]}")

        loop.sock_connect = sock_connect
        answer_with(
            loop, *(addrinfo(f"127.0.0.{n}", 1) for n in (1, 2, 3)), *(addrinfo(f"::{n}", 1) for n in (1, 2, 3))
        )
        for interleave, expected in (
            (None, ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "::2", "::3"]),
            (1, ["127.0.0.1", "::1", "127.0.0.2", "::2", "127.0.0.3", "::3"]),
            (2, ["127.0.0.1", "127.0.0.2", "::1", "127.0.0.3", "::2", "::3"]),
        ):
            tried.clear()
            with pytest.raises(OSError, match="Multiple exceptions"):
                await loop.create_connection(Recorder, "host.example", 1, interleave=interleave)
            assert tried == expected
        tried.clear()
        with pytest.raises(OSError):
            await loop.create_connection(Recorder, "host.example", 1, happy_eyeballs_delay=10)
        assert tried == ["127.0.0.1", "::1", "127.0.0.2", "::2", "127.0.0.3", "::3"]

    twin(main())


@since(3, 12)
@pytest.mark.parametrize("delay", [None, 0.01])
def test_all_errors_are_raised_as_a_group(twin: Twin, delay: float | None) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        port = free_port()
        answer_with(loop, addrinfo("127.0.0.1", port), addrinfo("127.0.0.2", port))
        with pytest.raises(ExceptionGroup) as caught:
            await loop.create_connection(Recorder, "host.example", port, all_errors=True, happy_eyeballs_delay=delay)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2
        server = await loop.create_server(Recorder, sock=socket.create_server(("127.0.0.2", port)))
        transport, _ = await loop.create_connection(
            Recorder, "host.example", port, all_errors=True, happy_eyeballs_delay=delay
        )
        assert transport.get_extra_info("peername")[0] == "127.0.0.2"
        transport.abort()
        server.close()
        for wrong in ({"server_hostname": "x"}, {"ssl_handshake_timeout": 1}, {"ssl_shutdown_timeout": 1}):
            with pytest.raises(ValueError, match="only meaningful with ssl"):
                await loop.create_connection(Recorder, "host.example", port, all_errors=True, **wrong)
        answer_with(loop)
        with pytest.raises(OSError, match="empty list"):
            await loop.create_connection(Recorder, "host.example", port, all_errors=True)

    twin(main())


def test_of_two_connected_attempts_one_is_closed() -> None:
    """Both attempts connect in one iteration: the second socket is closed. asyncio leaks it before 3.13.1."""
    import corenet

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2"], 0)
        ports = [sock.getsockname() for sock in server.sockets]
        answer_with(loop, *(addrinfo(host, port) for host, port in ports))
        both_connected: asyncio.Future[None] = loop.create_future()
        real = loop.sock_connect
        connected: list[socket.socket] = []

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            await real(sock, address)
            connected.append(sock)
            if len(connected) == 2:
                both_connected.set_result(None)
            await asyncio.shield(both_connected)

        loop.sock_connect = sock_connect
        transport, _ = await loop.create_connection(Recorder, "host.example", 1, happy_eyeballs_delay=0.01)
        await asyncio.sleep(0)
        assert len(connected) == 2
        assert sorted(sock.fileno() == -1 for sock in connected) == [False, True]
        transport.abort()
        server.close()
        del loop.sock_connect, loop.getaddrinfo

    gc.collect()
    before = open_descriptors()
    corenet.run(main())
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.parametrize("delay", [None, 0.01, 30])
def test_exceptions_other_than_os_errors_are_raised(delay: float | None) -> None:
    """asyncio discards it and raises OSError. So this runs on corenet only."""
    import corenet

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        answer_with(loop, addrinfo("127.0.0.1", free_port()), addrinfo("127.0.0.2", 1), addrinfo("127.0.0.3", 1))
        real = loop.sock_connect

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            if address[0] == "127.0.0.2":
                raise LookupError("a bug of the program")
            await real(sock, address)

        loop.sock_connect = sock_connect
        before = open_descriptors()
        with pytest.raises(LookupError, match="a bug of the program"):
            await loop.create_connection(Recorder, "host.example", 1, happy_eyeballs_delay=delay)
        assert open_descriptors() == before
        del loop.sock_connect, loop.getaddrinfo

    corenet.run(main())


def test_connections_are_made_from_the_local_address(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(Recorder, "127.0.0.1", port, local_addr=("127.0.0.9", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.9"
        transport.abort()
        with pytest.raises(OSError, match="bind"):
            await loop.create_connection(Recorder, "127.0.0.1", port, local_addr=("192.0.2.1", 0))
        server.close()

    twin(main())


def test_contradicting_arguments_are_refused(twin: Twin) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        datagram = socket.socket(V4, socket.SOCK_DGRAM)
        with left, right, datagram:
            for arguments, keywords in (
                ((), {}),
                (("127.0.0.1", 1), {"sock": left}),
                ((), {"sock": datagram}),
                (("127.0.0.1", 1), {"server_hostname": "x"}),
                (("127.0.0.1", 1), {"ssl_handshake_timeout": 1.0}),
                (("127.0.0.1", 1), {"ssl_shutdown_timeout": 1.0}),
                ((), {"sock": left, "ssl": True}),
            ):
                with pytest.raises(ValueError):
                    await loop.create_connection(Recorder, *arguments, **keywords)

    twin(main())


def test_accepted_socket_becomes_a_transport(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            with socket.create_connection(listening.getsockname()) as peer:
                accepted, _ = listening.accept()
                transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
                peer.send(b"hello")
                await protocol.until(lambda: protocol.data == b"hello")
                transport.write(b"there")
                assert peer.recv(10) == b"there"
                transport.close()
                await protocol.lost
        with socket.socket(V4, socket.SOCK_DGRAM) as datagram, pytest.raises(ValueError, match="Stream"):
            await loop.connect_accepted_socket(Recorder, datagram)

    twin(main())


@pytest.mark.parametrize("iterations", range(6))
def test_cancelled_connect_leaves_no_descriptor(twin: Twin, iterations: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        before = open_descriptors()
        for _ in range(20):
            task = asyncio.ensure_future(loop.create_connection(Recorder, *address))
            for _ in range(iterations):
                await asyncio.sleep(0)
            if task.done():
                task.result()[0].abort()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: open_descriptors() <= before, "the sockets of cancelled connects to be closed")
        server.close()

    twin(main())


def test_numeric_hosts_are_resolved_as_by_socket_getaddrinfo(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        scope_id = socket.if_nametoindex("lo")
        for host, port in (("fe80::1%lo", 80), ("127.1", 53), ("", 1), (None, "http"), ("::1", "80"), ("0x7f.1", 1)):
            for family in (0, V4, V6):
                try:
                    expected: Any = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
                except socket.gaierror as error:
                    with pytest.raises(socket.gaierror, match=str(error.args[1])[:12]):
                        await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
                    continue
                assert await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM) == expected
        found = await loop.getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
        assert found[0][4][0].startswith("fe80::1") and found[0][4][1:] == (80, 0, scope_id)
        assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (
            "127.0.0.1", "80"
        )

    twin(main())
