"""create_connection: addresses in order and in a race, errors when none accepts, local addresses. `all_errors` came
with Python 3.12; older versions of asyncio have nothing to compare with.
"""

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.ports import free_port
from support.twin import Recorder, loop_factory, twin

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


class Names:
    """Answers lookups of one name with the addresses given; everything else goes to the real method."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *addresses: tuple[str, int]) -> None:
        self.original = loop.getaddrinfo
        self.addresses = addresses
        loop.getaddrinfo = self  # type: ignore[method-assign]

    async def __call__(self, host: Any, port: Any, **kwargs: Any) -> Any:
        if host != "several.test":
            return await self.original(host, port, **kwargs)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, number))
            for address, number in self.addresses
        ]


async def served() -> Any:
    return await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)


async def finish(server: Any, *transports: Any) -> None:
    for transport in transports:
        transport.abort()
        await transport.get_protocol().lost
    server.close()


@pytest.mark.parametrize("delay", [None, 0.01, 30])
def test_the_first_address_that_accepts_is_used(twin: Twin, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await served()
        port = server.sockets[0].getsockname()[1]
        Names(loop, ("127.0.0.1", free_port()), ("::1", free_port()), ("127.0.0.1", port))
        transport, _ = await loop.create_connection(Recorder, "several.test", port, happy_eyeballs_delay=delay)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        await finish(server, transport)

    twin(main())


@pytest.mark.parametrize("delay", [None, 0.01])
def test_the_error_when_no_address_accepts(twin: Twin, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = free_port(), free_port()
        Names(loop, ("127.0.0.1", one), ("127.0.0.1", two))
        with pytest.raises(OSError, match=r"Multiple exceptions: .*Connect call failed.*, .*Connect call failed"):
            await loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=delay)
        Names(loop, ("127.0.0.1", one), ("127.0.0.1", one))
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=delay)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "127.0.0.1", one)

    twin(main())


def test_all_errors_are_raised_as_a_group(twin: Twin, loop_factory: Any) -> None:
    known = sys.version_info >= (3, 12) or loop_factory is not asyncio.SelectorEventLoop

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Names(loop, ("127.0.0.1", free_port()), ("::1", free_port()))
        if not known:  # asyncio of this version does not have the keyword
            with pytest.raises(TypeError, match="all_errors"):
                await loop.create_connection(Recorder, "several.test", 1, all_errors=True)
            return
        with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
            await loop.create_connection(Recorder, "several.test", 1, all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2

    twin(main())


def test_connections_are_made_from_the_local_address(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await served()
        where = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Recorder, *where, local_addr=("127.0.0.9", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.9"
        with pytest.raises(OSError, match=r"no matching local address with family=.*AF_INET.* found"):
            await loop.create_connection(Recorder, *where, local_addr=("::1", 0))
        taken = transport.get_extra_info("sockname")
        with pytest.raises(OSError, match="error while attempting to bind on address"):
            await loop.create_connection(Recorder, *where, local_addr=taken)
        await finish(server, transport)

    twin(main())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "host and port was not specified and no sock specified"),
        ({"host": "127.0.0.1", "server_hostname": "x"}, "server_hostname is only meaningful with ssl"),
        ({"port": 1, "ssl": True}, "You must set server_hostname when using ssl without a host"),
        ({"host": "127.0.0.1", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"host": "127.0.0.1", "ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
def test_contradicting_arguments_are_refused(twin: Twin, arguments: dict[str, Any], words: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=words):
            await asyncio.get_running_loop().create_connection(Recorder, **arguments)
        with socket.socket() as sock, pytest.raises(ValueError, match="can not be specified at the same time"):
            await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", 1, sock=sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Sock"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=sock)

    twin(main())


def test_a_cancelled_race_leaves_no_socket(twin: Twin) -> None:
    """The attempts that lost, and those of a cancelled race, close their sockets."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            where = full.getsockname()
            # A backlog of one is full after two connections; further ones wait.
            others = [socket.create_connection(where), socket.socket(), socket.socket()]
            for sock in others[1:]:
                sock.setblocking(False)
                assert sock.connect_ex(where) in (0, 115)
            Names(loop, where, where)
            task = loop.create_task(
                loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=0.001)
            )
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.05)
            for sock in others:
                sock.close()

    twin(main())


def test_a_race_cancelled_after_its_success_closes_the_winner() -> None:
    """The connection is made and the call cancelled in one iteration. asyncio leaves that to the garbage collector."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await served()
        where = server.sockets[0].getsockname()
        Names(loop, where, where)
        connected: list[socket.socket] = []
        real = loop.sock_connect

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            await real(sock, address)
            connected.append(sock)
            task.cancel()

        loop.sock_connect = sock_connect
        task = loop.create_task(loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=60))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [sock.fileno() for sock in connected] == [-1]
        del loop.sock_connect, loop.getaddrinfo
        server.close()

    corenet.run(main())


def test_a_race_cancelled_while_the_losers_end_closes_the_winner() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await served()
        where = server.sockets[0].getsockname()
        Names(loop, ("127.0.0.1", 1), where)
        winners: list[socket.socket] = []
        real = loop.sock_connect

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            if address != where:
                try:
                    await loop.create_future()
                except asyncio.CancelledError:
                    task.cancel()
                    raise
            await real(sock, address)
            winners.append(sock)

        loop.sock_connect = sock_connect
        task = loop.create_task(loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=0.001))
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await task
        assert [sock.fileno() for sock in winners] == [-1]
        del loop.sock_connect, loop.getaddrinfo
        server.close()

    corenet.run(main())


# --- a protocol that cannot be made ----------------------------------------------------------------------------------


def descriptors() -> int:
    """The number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def broken() -> Any:
    """A protocol factory that fails."""
    raise ZeroDivisionError("no protocol today")


@pytest.mark.parametrize(
    "kind", ["tcp", "tls", "unix", "datagram", "unix datagram", "bad context", "datagram without a transport"]
)
def test_no_socket_stays_open_when_the_factory_fails(tmp_path: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # asyncio leaves the socket to the garbage collector, so there is nothing to compare with.
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        server = await (loop.create_unix_server(Recorder, path) if kind == "unix" else served())
        address = server.sockets[0].getsockname()
        before = descriptors()
        expected: Any = pytest.raises(ZeroDivisionError)
        if kind == "unix":
            call = loop.create_unix_connection(broken, path)
        elif kind == "datagram":
            call = loop.create_datagram_endpoint(broken, local_addr=("127.0.0.1", 0))
        elif kind == "datagram without a transport":
            monkeypatch.setattr("corenet.transports.datagram.make_datagram", lambda *_arguments: broken())
            call = loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
        elif kind == "unix datagram":
            call = loop.create_datagram_endpoint(broken, local_addr=path, family=socket.AF_UNIX)
        elif kind == "bad context":
            expected = pytest.raises((TypeError, AttributeError))
            call = loop.create_connection(Recorder, *address, ssl=object(), server_hostname="x")
        else:
            context = ssl.create_default_context() if kind == "tls" else None
            call = loop.create_connection(
                broken, *address, ssl=context, server_hostname="localhost" if context else None
            )
        accepted = asyncio.all_tasks()
        with expected as caught:
            await call
        # The traceback's frames hold the socket, so only a close can have freed its descriptor.
        assert caught.value is not None
        assert asyncio.all_tasks() == accepted
        assert descriptors() - before <= (0 if "datagram" in kind else 1), "more than the server's end"
        server.close()
        server.abort_clients()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("kind", ["stream", "accepted", "datagram"])
def test_which_given_sockets_are_closed_when_the_factory_fails(twin: Twin, kind: str) -> None:
    """A given stream socket is closed, as by asyncio from 3.14.10 and 3.15 on; a given datagram socket stays open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if kind == "datagram":
            sock = socket.socket(type=socket.SOCK_DGRAM)
            call: Any = loop.create_datagram_endpoint(broken, sock=sock)
        else:
            sock, other = socket.socketpair()
            other.close()
            method = loop.create_connection if kind == "stream" else loop.connect_accepted_socket
            call = method(broken, sock=sock)
        with pytest.raises(ZeroDivisionError):
            await call
        if isinstance(loop, corenet.Loop) or sys.version_info >= (3, 14, 10):
            assert (sock.fileno() >= 0) is (kind == "datagram")
        sock.close()

    twin(main())


def test_the_datagram_protocol_is_the_object_of_the_factory(twin: Twin) -> None:
    made = []

    class Noted(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            made.append(self)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        transport, protocol = await loop.create_datagram_endpoint(Noted, local_addr=("127.0.0.1", 0))
        assert made == [protocol]
        transport.close()

    twin(main())


def test_a_server_whose_factory_fails_closes_the_connection_and_keeps_serving() -> None:
    # asyncio leaves the connection to the garbage collector here too.
    reported: list[Any] = []
    turns = iter([broken, Recorder])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        loop.set_debug(True)
        server = await loop.create_server(lambda: next(turns)(), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        before = descriptors()
        _, first = await loop.create_connection(Recorder, *address)
        await first.lost
        for _ in range(3):
            await asyncio.sleep(0)
        assert descriptors() == before
        transport, second = await loop.create_connection(Recorder, *address)
        transport.write(b"!")
        transport.write_eof()
        await second.lost
        server.close()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))
    assert [type(error) for error in reported] == [ZeroDivisionError]
