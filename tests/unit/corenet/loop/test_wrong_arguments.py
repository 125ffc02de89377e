"""Wrong arguments raise Python's usual errors. Each finding of the fuzzer has a test of its own."""

import asyncio
import socket
from typing import Any

import pytest

import corenet


@pytest.mark.parametrize("address", [(), ("127.0.0.1",), [], "x", 5, (1, 2), ("127.0.0.1", None, 3, 4, 5), ((), ())])
def test_wrong_addresses_of_datagrams_are_refused(address: Any) -> None:
    """An index beyond an empty tuple was not checked in the release build: the process died."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        try:
            transport.sendto(b"data", address)
        except (TypeError, ValueError, OSError):
            pass
        transport.abort()

    corenet.run(main())


@pytest.mark.parametrize("answer", [[], [()], [(1, 2, 3)], None, 7])
def test_wrong_results_of_a_resolver_are_refused(answer: Any) -> None:
    class Resolver:
        async def getaddrinfo(self, *_args: Any, **_keywords: Any) -> Any:
            return answer

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_resolver(Resolver())
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises((OSError, TypeError, ValueError)):
                await loop.sock_connect(sock, ("host.example", 80))
        with pytest.raises((OSError, TypeError, ValueError, IndexError)):
            await loop.create_connection(asyncio.Protocol, "host.example", 80)

    corenet.run(main())


@pytest.mark.parametrize("into", [False, True])
def test_a_blocking_socket_does_not_block_the_loop(into: bool) -> None:
    """sock_recvfrom on a blocking socket without data blocked the whole loop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            loop.call_soon(right.send, b"data")
            buffer = bytearray(9)
            receiving = loop.sock_recvfrom_into(left, buffer) if into else loop.sock_recvfrom(left, 9)
            got, _ = await receiving
            assert got == (4 if into else b"data")

    corenet.run(main())
