"""Division of descriptors: upstream queries always have some, and the sum never exceeds the limit of the process."""

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver import limits
from resolver.daemon.runtime_config import within_descriptors
from resolver.net import descriptors
from resolver.settings import ListenerSettings, ServerSettings, Settings, TlsSettings

RESERVE = limits.DESCRIPTORS_RESERVE


@pytest.mark.parametrize("number", [128, 256, 1024, 4096, 20_000, 65_536, 1 << 20])
def test_shares_of_any_number(number: int) -> None:
    udp, tcp = descriptors.udp_sockets(number), descriptors.stream_upstreams(number)
    clients = descriptors.client_connections(number)
    assert 2 * udp + tcp + clients == number - RESERVE
    assert udp == min((number - RESERVE) // 4, limits.UDP_SOCKETS)
    assert tcp == min((number - RESERVE) // 8, limits.STREAM_UPSTREAMS)
    assert clients >= (number - RESERVE) // 4


def test_with_very_few_descriptors_each_part_gets_one() -> None:
    assert (descriptors.udp_sockets(1), descriptors.stream_upstreams(1), descriptors.client_connections(1)) == (1, 1, 1)


def test_an_unlimited_number_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert descriptors.udp_sockets() == limits.UDP_SOCKETS
    assert descriptors.client_connections() > 100_000


def test_connections_of_clients_follow_from_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    server = ServerSettings(listen=("127.0.0.1:53", "[::1]:53"), tcp_connections=200)
    found = within_descriptors(Settings(server=server))
    assert [one.tcp_connections for one in found] == [148, 148]
    assert "permits 148 connections of clients, not 200" in caplog.text and "listener [::1]:53 (dns)" in caplog.text
    caplog.clear()
    one = ServerSettings(listen=("127.0.0.1:53",), tcp_connections=328)
    assert [one.tcp_connections for one in within_descriptors(Settings(server=one))] == [328]
    assert caplog.records == []


def test_unused_connection_shares_go_to_busier_listeners(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20_000, 20_000))
    more = (
        ListenerSettings(address="127.0.0.1:853", protocol="tls", connections=10_000),
        ListenerSettings(address="127.0.0.1:8853", protocol="quic", connections=90_000),
    )
    server = ServerSettings(listen=("127.0.0.1:53",), tcp_connections=1000)
    settings = Settings(server=server, listener=more, tls=TlsSettings(certificate=("c.pem",), key=("k.pem",)))
    found = {one.protocol: own.tcp_connections
             for one, own in zip(settings.listeners, within_descriptors(settings), strict=True)}
    assert found == {"dns": 1000, "tls": 10_000, "quic": 90_000} and caplog.records == []


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=20), st.integers(1, 1 << 20))
def test_division_of_connections(wanted: list[int], total: int) -> None:
    found = descriptors.divide_connections(wanted, total)
    each = [one + limits.STREAM_WITHOUT_SLOT for one in found]
    assert all(1 <= one <= most for one, most in zip(found, wanted, strict=True))
    if min(found) > 1:
        assert sum(each) <= total
    if found != wanted:
        # Those that do not get all have equal shares, up to rounding.
        short = min(one for one, most in zip(found, wanted, strict=True) if one < most)
        assert short >= max(found) - 1 or short == 1


def test_enough_descriptors_are_not_divided() -> None:
    wanted = [1000, 10_000, 1]
    assert descriptors.divide_connections(wanted, sum(wanted) + 3 * limits.STREAM_WITHOUT_SLOT) == wanted
