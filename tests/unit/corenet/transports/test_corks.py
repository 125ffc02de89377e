"""TCP_CORK belongs to the program: the transport does not uncork a socket that the program has corked.

When a callback has made several writes, the first write of the next one is sent with MSG_MORE; if none follows, the
transport uncorks the socket. It must not do that when the program has set TCP_CORK.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import connected_pair, finish, loop_factory, twin

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


def cork(sock: Any, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)


def is_corked(sock: Any) -> bool:
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


def several(transport: Any, _sock: Any) -> None:
    """Two pieces: the next callback is expected to write as many."""
    transport.write(b"a")
    transport.write(b"b")


def corked_before(transport: Any, sock: Any) -> None:
    cork(sock, 1)
    transport.write(b"c")


def corked_after(transport: Any, sock: Any) -> None:
    transport.write(b"c")
    cork(sock, 1)


def corked_between(transport: Any, sock: Any) -> None:
    transport.write(b"c")
    cork(sock, 1)
    transport.write(b"d")


def corked_alone(transport: Any, sock: Any) -> None:
    cork(sock, 1)


def uncorked_again(transport: Any, sock: Any) -> None:
    cork(sock, 1)
    transport.write(b"c")
    cork(sock, 0)


async def in_callback(call: Callable[[], object]) -> None:
    """Run `call` in its own callback; return what arrived when that has ended."""
    asyncio.get_running_loop().call_soon(call)
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("act", [corked_before, corked_after, corked_between, corked_alone, uncorked_again])
def test_a_cork_of_the_program_is_kept(twin: Twin, act: Callable[[Any, Any], None], accepted: bool) -> None:
    async def main() -> None:
        theirs, ours, server = await connected_pair()
        if accepted:
            theirs, ours = ours, theirs
        transport = ours.transport
        sock = transport.get_extra_info("socket")
        expected = bytearray()
        for _ in range(3):
            cork(sock, 0)
            await in_callback(lambda: several(transport, sock))
            await in_callback(lambda: act(transport, sock))
            assert is_corked(sock) is (act is not uncorked_again)
            expected += b"ab" + {corked_between: b"cd", corked_alone: b""}.get(act, b"c")
        cork(sock, 0)
        await asyncio.wait_for(theirs.until(lambda: theirs.data == expected), 30)
        await finish(server, ours, theirs)

    twin(main())


def test_a_single_write_after_several_is_sent_with_its_callback(twin: Twin) -> None:
    """No piece waits for the 200 ms after which TCP sends by itself. All ten would, so the fastest one is looked at."""

    async def main() -> None:
        theirs, ours, server = await connected_pair()
        loop = asyncio.get_running_loop()
        took = []
        expected = bytearray()
        for _ in range(10):
            began = loop.time()
            await in_callback(lambda: several(ours.transport, None))
            await in_callback(lambda: ours.transport.write(b"c"))
            expected += b"abc"
            await asyncio.wait_for(theirs.until(lambda: theirs.data == expected), 30)  # noqa: B023 - awaited here
            took.append(loop.time() - began)
        assert min(took) < 0.15
        await finish(server, ours, theirs)

    twin(main())
