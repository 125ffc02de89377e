"""Which errors tell of this host: by number, and as the upstreams tell them."""

import asyncio
import errno
import socket

import pytest
from support.upstream_peers import Collector

from resolver.effects import Ask, Failure, FailureKind, Server
from resolver.net.ambient import Entropy
from resolver.net.local_errors import kind_of_error
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.wire import consts as c
from resolver.wire import name as names

EXPECTED = {
    FailureKind.LOCAL: (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE),
    FailureKind.NO_ROUTE: (errno.EPERM, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAFNOSUPPORT),
    FailureKind.NETWORK: (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ETIMEDOUT, None),
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in EXPECTED.items() for code in codes])
def test_the_kind_of_an_error_number(kind: FailureKind, code: int | None) -> None:
    assert kind_of_error(code) is kind


@pytest.mark.parametrize(("code", "kind"), [(errno.EMFILE, FailureKind.LOCAL), (errno.ENOBUFS, FailureKind.LOCAL),
                                            (errno.EPERM, FailureKind.NO_ROUTE)])
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
