"""Which errors are local ones: by number, and as the upstreams report them."""

import asyncio
import errno
import socket

import pytest
from support.upstream_peers import Collector, StreamPeer, play

from resolver.effects import Ask, Failure, FailureKind, Server
from resolver.net.clock_random import Entropy
from resolver.net.local_errors import kind_of_error
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.wire import consts as c
from resolver.wire import name as names

EXPECTED = {
    FailureKind.LOCAL_RESOURCE: (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EADDRINUSE,
    ),
    FailureKind.NETWORK: (
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EPROTO,
        errno.ETIMEDOUT,
    ),
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in EXPECTED.items() for code in codes])
def test_the_classification_of_error_numbers(kind: FailureKind, code: int | None) -> None:
    assert kind_of_error(code) is kind


def test_local_errors_are_never_attributed_to_the_server() -> None:
    known = {code for codes in EXPECTED.values() for code in codes}
    for code in {None, -2, 4096, *errno.errorcode} - known:
        assert kind_of_error(code) in (FailureKind.NO_ROUTE, FailureKind.LOCAL_RESOURCE), code
    for code in (errno.EINVAL, errno.EPERM, errno.EACCES, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAFNOSUPPORT,
                 errno.ENETDOWN, errno.ENODEV, None):
        assert kind_of_error(code) is FailureKind.NO_ROUTE, "another try changes nothing"


def test_an_address_unreachable_from_the_bound_source_is_a_local_error() -> None:
    """The kernel returns EINVAL: from a loopback address no other host can be reached."""
    async def body() -> None:
        for upstream in (UdpUpstream, StreamUpstream):
            made, got = upstream(asyncio.get_running_loop(), entropy=Entropy(), source_v4="127.0.0.9"), Collector()
            made.start(Ask(Server("192.0.2.1", 53), names.from_text("x."), c.A, timeout=5.0), got)
            [failure] = await got.wait()
            made.close()
            assert isinstance(failure, Failure)
            assert failure.kind is FailureKind.NO_ROUTE, (upstream, failure)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(errno.ENOBUFS, "no"), FailureKind.LOCAL_RESOURCE), (OSError(errno.EINVAL, "no"), FailureKind.NO_ROUTE),
     (MemoryError(), FailureKind.LOCAL_RESOURCE), (OSError(errno.ECONNRESET, "reset"), FailureKind.NETWORK),
     (None, FailureKind.NETWORK)],
    ids=repr,
)
def test_a_connection_lost_for_a_local_reason_is_not_the_servers_fault(
    error: Exception | None, kind: FailureKind
) -> None:
    async def body() -> None:
        peer = await StreamPeer.start(lambda _: [])
        made, got = StreamUpstream(asyncio.get_running_loop(), entropy=Entropy()), Collector()
        made.start(Ask(Server("127.0.0.1", peer.port), names.from_text("x."), c.A, timeout=20.0), got)
        async with asyncio.timeout(30):
            while not peer.connections or not peer.connections[0]:
                await asyncio.sleep(0)
        [connection] = made._open
        transport = connection.transport
        assert transport is not None
        connection.connection_lost(error)
        transport.abort()
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is kind
        made.close()
        await peer.close()

    play(body)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("no address")], ids=repr)
def test_a_connection_that_cannot_be_started_fails_at_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async def refuse(*_: object, **__: object) -> None:
            raise error

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_connection", refuse)
        made, got = StreamUpstream(loop, entropy=Entropy()), Collector()
        made.start(Ask(Server("127.0.0.1", 1), names.from_text("x."), c.A, timeout=60.0), got)
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.LOCAL_RESOURCE, "nothing was sent"
        made.close()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EMFILE, FailureKind.LOCAL_RESOURCE),
        (errno.ENOBUFS, FailureKind.LOCAL_RESOURCE),
        (errno.EPERM, FailureKind.NO_ROUTE),
    ],
)
@pytest.mark.parametrize("upstream", [UdpUpstream, StreamUpstream])
def test_no_socket_is_a_local_error(
    upstream: type[UdpUpstream | StreamUpstream], code: int, kind: FailureKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()

        def refuse(*_: object, **__: object) -> socket.socket:
            raise OSError(code, "no")

        async def refuse_later(*_: object, **__: object) -> None:
            refuse()

        made, got = upstream(loop, entropy=Entropy()), Collector()
        monkeypatch.setattr(loop, "create_connection", refuse_later)
        monkeypatch.setattr(socket, "socket", refuse)
        try:
            made.start(Ask(Server("127.0.0.1", 1), names.from_text("x."), c.A, timeout=1.0), got)
            [failure] = await got.wait()
        finally:
            monkeypatch.undo()
            made.close()
        assert isinstance(failure, Failure)
        assert failure.kind is kind

    asyncio.run(body())
