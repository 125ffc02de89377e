"""What errors say about an address and its family, with a fake kernel whose routes the test sets."""

import asyncio
import errno
import socket
from collections.abc import Iterable
from typing import Any

import pytest
from support.upstream_peers import Collector, StreamPeer, play

from resolver.effects import Ask, Failure, FailureKind, Server
from resolver.net import routes
from resolver.net.clock_random import Entropy
from resolver.net.routes import RouteChecker
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.wire import consts as c
from resolver.wire import name as names

ROOTS = ("198.41.0.4", "2001:503:ba3e::2:30", "170.247.170.2", "2801:1b8:10::b")
OTHER = {4: "203.0.113.9", 6: "2001:db8:bad::9"}
SAID_BY_ROUTERS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.ENOPROTOOPT,
                   errno.EPROTO)


class Kernel:
    """Its routes, by address; what it says of all others, and of opening a socket of a family."""

    def __init__(
        self, routed: Iterable[str], says: int = errno.ENETUNREACH, opening: dict[int, int] | None = None
    ) -> None:
        self.routed = set(routed)
        self.says = says
        self.opening = opening or {}
        self.asked: list[str] = []

    def open(self, family: int, _source: str) -> "Kernel":
        if family in self.opening:
            raise OSError(self.opening[family], "no socket")
        return self

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, name: tuple[str, int]) -> None:
        self.asked.append(name[0])
        if name[0] not in self.routed:
            raise OSError(self.says, "no route")


def install(monkeypatch: pytest.MonkeyPatch, *routed: str, **how: Any) -> Kernel:
    kernel = Kernel(routed, **how)
    monkeypatch.setattr(routes, "open_socket", kernel.open)
    return kernel


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EPERM])
def test_an_address_without_a_route_does_not_disable_its_family(
    version: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prohibited ranges, broadcast addresses, rules of the firewall: all of them may be in glue.
    install(monkeypatch, *ROOTS[2:], says=code)
    checker = RouteChecker(ROOTS)
    assert checker.classify_datagram_error(code, OTHER[version]) is FailureKind.NO_ROUTE
    assert checker.classify_connection_error(OSError(code, "no"), OTHER[version]) is FailureKind.NO_ROUTE


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH])
def test_a_family_without_a_route_to_any_reference_address(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = install(monkeypatch, ROOTS[0], says=code)
    checker = RouteChecker(ROOTS)
    assert checker.classify_datagram_error(code, OTHER[6]) is FailureKind.NO_FAMILY
    assert checker.classify_connection_error(OSError(code, "no"), OTHER[6]) is FailureKind.NO_FAMILY
    assert checker.classify_datagram_error(code, OTHER[4]) is FailureKind.NO_ROUTE
    assert set(kernel.asked) <= {*ROOTS, *OTHER.values()}


def test_a_family_that_the_kernel_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *ROOTS, opening={socket.AF_INET6: errno.EAFNOSUPPORT})
    assert RouteChecker(ROOTS).classify_datagram_error(errno.EAFNOSUPPORT, OTHER[6]) is FailureKind.NO_FAMILY
    assert RouteChecker(ROOTS).classify_datagram_error(errno.EINVAL, OTHER[4]) is FailureKind.NO_ROUTE


@pytest.mark.parametrize("how", [{"says": errno.ENOBUFS}, {"opening": {socket.AF_INET6: errno.EMFILE}}], ids=repr)
def test_a_shortage_during_the_route_check_disables_no_family(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **how)
    assert RouteChecker(ROOTS).classify_datagram_error(errno.EINVAL, OTHER[6]) is FailureKind.NO_ROUTE
    assert RouteChecker(ROOTS).classify_datagram_error(errno.EMFILE, OTHER[6]) is FailureKind.LOCAL_RESOURCE


@pytest.mark.parametrize("reference_addresses", [(), ("::1", "fe80::1", "127.0.0.1"), ("198.41.0.4",)], ids=repr)
def test_without_reference_addresses_no_family_is_disabled(
    reference_addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback and link-local addresses have routes even without a network."""
    install(monkeypatch, "::1", "127.0.0.1")
    assert (
        RouteChecker(reference_addresses).classify_datagram_error(errno.ENETUNREACH, OTHER[6])
        is FailureKind.NO_ROUTE
    )


def test_loopback_and_link_local_are_no_reference_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "::1", "fe80::1%lo")
    checker = RouteChecker(("::1", "fe80::1%lo", *ROOTS))
    assert checker.classify_datagram_error(errno.ENETUNREACH, OTHER[6]) is FailureKind.NO_FAMILY


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("code", SAID_BY_ROUTERS)
def test_icmp_errors_over_tcp_concern_the_address_only(
    version: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is being opened fails with the error number of the ICMP message (RFC 5461)."""
    install(monkeypatch, OTHER[version])  # not even the reference addresses have a route
    assert (
        RouteChecker(ROOTS).classify_connection_error(OSError(code, "said"), OTHER[version]) is FailureKind.NETWORK
    )


def test_no_router_forbids_anything_with_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES comes from a rule of this host, also where it has a route; with IPv6 it may come from a router."""
    install(monkeypatch, *ROOTS, *OTHER.values())
    checker, refused = RouteChecker(ROOTS), OSError(errno.EACCES, "no")
    assert checker.classify_connection_error(refused, OTHER[4]) is FailureKind.NO_ROUTE
    assert checker.classify_connection_error(refused, OTHER[6]) is FailureKind.NETWORK
    assert checker.classify_datagram_error(errno.EACCES, OTHER[4]) is FailureKind.NO_ROUTE
    assert checker.classify_datagram_error(errno.EACCES, OTHER[6]) is FailureKind.LOCAL_RESOURCE


@pytest.mark.parametrize("code", [*SAID_BY_ROUTERS, errno.ECONNREFUSED])
def test_a_pending_error_of_an_earlier_packet_is_not_attributed_to_the_next(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a socket with many servers the next sendto() returns the error, for any destination, and sends nothing."""
    install(monkeypatch, OTHER[4])
    assert RouteChecker(ROOTS).classify_datagram_error(code, OTHER[4]) is FailureKind.LOCAL_RESOURCE


def test_the_number_of_reference_addresses_is_bounded() -> None:
    checker = RouteChecker([f"192.0.2.{n}" for n in range(250)])
    assert sum(map(len, checker._references.values())) == routes.limits.FAMILY_REFERENCE_ADDRESSES


@pytest.mark.parametrize("fresh", [True, False])
def test_the_kernel_has_no_route_from_loopback_sources(fresh: bool) -> None:
    """From a loopback address no other can be reached, so the kernel has no route to the reference addresses."""
    async def body() -> None:
        checker = RouteChecker(ROOTS, source_v4="127.0.0.9")
        loop = asyncio.get_running_loop()
        for made in (
            UdpUpstream(loop, entropy=Entropy(), source_v4="127.0.0.9", port_per_query=fresh, routes=checker),
            StreamUpstream(loop, entropy=Entropy(), source_v4="127.0.0.9", routes=checker),
        ):
            got = Collector()
            made.start(Ask(Server("192.0.2.1", 53), names.from_text("x."), c.A, timeout=5.0), got)
            [failure] = await got.wait()
            made.close()
            assert isinstance(failure, Failure)
            assert failure.kind is FailureKind.NO_FAMILY, made

    asyncio.run(body())


def test_icmp_errors_for_established_connections() -> None:
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
        connection.connection_lost(OSError(errno.ENETUNREACH, "said"))
        transport.abort()
        [failure] = await got.wait()
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.NETWORK
        made.close()
        await peer.close()

    play(body)
