"""create_connection: addresses in turn and in a race, what is said when none answers, local addresses.

`all_errors` came with Python 3.12; before it asyncio's loop has nothing to compare with.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

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


def refused() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def served() -> Any:
    return await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)


async def finish(server: Any, *transports: Any) -> None:
    for transport in transports:
        transport.abort()
        await transport.get_protocol().lost
    server.close()


@pytest.mark.parametrize("delay", [None, 0.01, 30])
def test_the_first_that_answers(twin: Twin, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await served()
        port = server.sockets[0].getsockname()[1]
        Names(loop, ("127.0.0.1", refused()), ("::1", refused()), ("127.0.0.1", port))
        transport, _ = await loop.create_connection(Recorder, "several.test", port, happy_eyeballs_delay=delay)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        await finish(server, transport)

    twin(main())


@pytest.mark.parametrize("delay", [None, 0.01])
def test_nobody_answers(twin: Twin, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = refused(), refused()
        Names(loop, ("127.0.0.1", one), ("127.0.0.1", two))
        with pytest.raises(OSError, match=r"Multiple exceptions: .*Connect call failed.*, .*Connect call failed"):
            await loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=delay)
        Names(loop, ("127.0.0.1", one), ("127.0.0.1", one))
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "several.test", 1, happy_eyeballs_delay=delay)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "127.0.0.1", one)

    twin(main())


def test_all_errors(twin: Twin, loop_factory: Any) -> None:
    known = sys.version_info >= (3, 12) or loop_factory is not asyncio.SelectorEventLoop

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Names(loop, ("127.0.0.1", refused()), ("::1", refused()))
        if not known:  # this asyncio is older than the keyword
            with pytest.raises(TypeError, match="all_errors"):
                await loop.create_connection(Recorder, "several.test", 1, all_errors=True)
            return
        with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
            await loop.create_connection(Recorder, "several.test", 1, all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2

    twin(main())


def test_local_address(twin: Twin) -> None:
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
def test_arguments_that_contradict_each_other(twin: Twin, arguments: dict[str, Any], words: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=words):
            await asyncio.get_running_loop().create_connection(Recorder, **arguments)
        with socket.socket() as sock, pytest.raises(ValueError, match="can not be specified at the same time"):
            await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", 1, sock=sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Sock"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=sock)

    twin(main())


def test_a_cancelled_race_leaves_no_socket(twin: Twin) -> None:
    """The attempts that lost, and those of a race that was given up, close what they opened."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            where = full.getsockname()
            # A queue of one is full after two; whoever comes then waits.
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
