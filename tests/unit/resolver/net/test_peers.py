"""Outgoing sockets: random ports of the whole range, path MTU discovery off, and errors that leave no socket open."""

import errno
import socket

import pytest
from support.upstream_peers import open_descriptors

from resolver.net import sockaddr
from resolver.net.clock_random import Entropy

IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IP_PMTUDISC_OMIT = 10, 23, 5


@pytest.mark.parametrize(("family", "source", "level", "option"), [
    (socket.AF_INET, "127.0.0.1", socket.IPPROTO_IP, IP_MTU_DISCOVER),
    (socket.AF_INET6, "::1", socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER),
])
def test_sockets_are_bound_to_scattered_ports(family: int, source: str, level: int, option: int) -> None:
    entropy = Entropy()
    sockets = [sockaddr.open_socket(family, source, entropy) for _ in range(24)]
    ports = [sock.getsockname()[1] for sock in sockets]
    assert len(set(ports)) == 24
    assert max(ports) - min(ports) > 20_000
    assert min(ports) >= 1024
    assert sockets[0].getsockopt(level, option) == IP_PMTUDISC_OMIT
    assert not sockets[0].getblocking()
    for sock in sockets:
        sock.close()


def test_an_address_that_is_not_ours_leaves_nothing_open() -> None:
    before = open_descriptors()
    with pytest.raises(OSError) as caught:
        sockaddr.open_socket(socket.AF_INET, "192.0.2.77", Entropy())
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert open_descriptors() == before


def test_the_number_of_draws_for_a_free_port_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(socket.socket):
        tries = 0

        def bind(self, address: object) -> None:
            Taken.tries += 1
            if Taken.tries < free_at:
                raise OSError(errno.EADDRINUSE, "Address already in use")
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Taken)
    free_at = 10
    sockaddr.open_socket(socket.AF_INET, "127.0.0.1", Entropy()).close()
    assert Taken.tries == 10
    Taken.tries, free_at = 0, 1000
    with pytest.raises(OSError, match="in use"):
        sockaddr.open_socket(socket.AF_INET, "127.0.0.1", Entropy())
    assert Taken.tries == 16
