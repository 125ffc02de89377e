"""Division of descriptors: upstream queries always have some, and the sum never exceeds the limit of the process."""

import resource

import pytest

from resolver import limits
from resolver.daemon.runtime_config import connections_per_address, within_descriptors
from resolver.net import descriptors
from resolver.settings import ServerSettings

RESERVE = limits.DESCRIPTORS_RESERVE


@pytest.mark.parametrize("number", [128, 256, 1024, 4096, 20_000, 65_536, 1 << 20])
def test_shares_of_any_number(number: int) -> None:
    udp, tcp = descriptors.udp_sockets(number), descriptors.stream_upstreams(number)
    clients = descriptors.client_connections(number)
    assert 2 * udp + tcp + clients == number - RESERVE
    assert udp == min((number - RESERVE) // 4, limits.UDP_SOCKETS)
    assert tcp == min((number - RESERVE) // 8, limits.STREAM_UPSTREAMS)
    assert clients >= (number - RESERVE) // 4


def test_too_few_for_anything_still_give_one_of_each() -> None:
    assert (descriptors.udp_sockets(1), descriptors.stream_upstreams(1), descriptors.client_connections(1)) == (1, 1, 1)


def test_no_limit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert descriptors.udp_sockets() == limits.UDP_SOCKETS
    assert descriptors.client_connections() > 100_000


def test_connections_of_clients_follow_from_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    server = ServerSettings(listen=("127.0.0.1:53", "[::1]:53"), tcp_connections=200)
    found = within_descriptors(server, connections_per_address(2))
    assert found == ServerSettings(listen=server.listen, tcp_connections=148)
    assert "permits 148 TCP connections" in caplog.text and "not 200" in caplog.text
    caplog.clear()
    one = ServerSettings(listen=("127.0.0.1:53",), tcp_connections=328)
    assert within_descriptors(one, connections_per_address(1)) is one
    assert caplog.records == []
