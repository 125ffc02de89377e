"""The infrastructure cache, with a clock that the test sets."""

import pytest

from resolver import limits
from resolver.cache import InfraCache
from resolver.cache.infra import InfraEntry

ADDRESS = ("192.0.2.1", 53)
FIRST = limits.SERVER_TIMEOUT_FIRST / 1000
HIGHEST = limits.SERVER_TIMEOUT_MAXIMUM / 1000
INTERVAL = limits.SERVER_PROBE_INTERVAL


def test_an_unknown_server_has_default_values():
    table = InfraCache()
    assert table.find(ADDRESS) is None
    assert table.timeout(ADDRESS) == InfraEntry().rtt_estimate() == FIRST == 0.376
    assert table.is_usable(ADDRESS, 0.0)
    assert len(table) == 0


def test_round_trips_are_smoothed_as_in_rfc_6298():
    table = InfraCache()
    table.note_reply(ADDRESS, 0.1, 1.0)
    info = table.find(ADDRESS)
    assert (info.srtt, info.rttvar) == (0.1, 0.05)
    assert info.timeout == pytest.approx(0.3)
    table.note_reply(ADDRESS, 0.2, 2.0)
    assert info.rttvar == pytest.approx(0.75 * 0.05 + 0.25 * 0.1)
    assert info.srtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.2)
    assert info.rtt_estimate() == info.srtt
    for _ in range(100):
        table.note_reply(ADDRESS, 0.001, 3.0)
    assert info.timeout == limits.SERVER_TIMEOUT_MINIMUM / 1000


def test_timeouts_double_and_a_reply_resets_them():
    table = InfraCache()
    for expected in (0.752, 1.504, 3.008):
        table.note_timeout(ADDRESS, 1.0)
        assert table.timeout(ADDRESS) == pytest.approx(expected)
        assert table.find(ADDRESS).rtt_estimate() == table.timeout(ADDRESS)
    assert not table.find(ADDRESS).dead
    table.note_reply(ADDRESS, 0.1, 2.0)
    assert table.timeout(ADDRESS) == pytest.approx(0.3)
    assert table.find(ADDRESS).timeouts == 0


def test_timeouts_of_concurrent_queries_count_once():
    table = InfraCache()
    table.note_reply(ADDRESS, 0.001, 0.0)
    together = table.timeout(ADDRESS)
    for _ in range(100):
        table.note_timeout(ADDRESS, 1.0, together)
    assert (table.timeout(ADDRESS), table.find(ADDRESS).timeouts) == (2 * together, 1)
    table.note_timeout(ADDRESS, 1.1, 2 * together)
    assert (table.timeout(ADDRESS), table.find(ADDRESS).timeouts) == (4 * together, 2)
    table.note_reply(ADDRESS, 0.001, 1.2)
    again = table.timeout(ADDRESS)
    table.note_timeout(ADDRESS, 1.3, 4 * together)  # sent before the reply came
    assert (table.timeout(ADDRESS), table.find(ADDRESS).timeouts) == (again, 0)


def test_a_dead_address_is_probed_once_per_interval_and_recovers():
    table = InfraCache()
    for _ in range(20):
        table.note_timeout(ADDRESS, 1.0)
    assert table.timeout(ADDRESS) == HIGHEST
    assert table.find(ADDRESS).dead
    assert not table.is_usable(ADDRESS, 1.0 + INTERVAL - 0.1)
    assert table.is_usable(ADDRESS, 1.0 + INTERVAL)
    assert not table.is_usable(ADDRESS, 1.0 + INTERVAL)
    assert table.is_usable(ADDRESS, 1.0 + 2 * INTERVAL)
    table.note_reply(ADDRESS, 0.02, 200.0)
    assert table.is_usable(ADDRESS, 200.0)
    assert not table.find(ADDRESS).dead


def is_lame(table: InfraCache, zone: bytes, now: float) -> bool:
    """Whether ADDRESS is lame for `zone`, which is in lower case."""
    return table.find(ADDRESS).lame.get(zone, now) > now


def test_lameness_is_per_zone_and_expires():
    table = InfraCache()
    table.note_lame(ADDRESS, b"\7Example\0", 10.0)
    assert is_lame(table, b"\7example\0", 10.0 + limits.SERVER_LAME - 1)
    assert not is_lame(table, b"\7example\0", 10.0 + limits.SERVER_LAME)
    assert not is_lame(table, b"\3com\0", 10.0)
    assert table.find(("192.0.2.2", 53)) is None


def test_lame_zones_are_bounded():
    table = InfraCache()
    count = limits.SERVER_LAME_ZONES
    for number in range(count + 1):
        table.note_lame(ADDRESS, b"\4%04d\0" % number, 10.0)
    assert len(table.find(ADDRESS).lame) == count
    assert not is_lame(table, b"\0040000\0", 10.0)
    assert is_lame(table, b"\4%04d\0" % count, 10.0)


def test_tcp_marks_expire():
    table = InfraCache()
    table.note_tcp_only(ADDRESS, 10.0)
    info = table.find(ADDRESS)
    assert info.tcp_until == 10.0 + limits.SERVER_TCP_ONLY
    table.note_reply(ADDRESS, 0.1, 12.0, edns=True)
    assert info.edns_seen


def test_old_entries_expire():
    table = InfraCache()
    table.note_reply(ADDRESS, 5.0, 10.0)
    table.note_reply(ADDRESS, 0.1, 10.0 + limits.INFRA_TTL + 1)
    assert table.find(ADDRESS).srtt == 0.1


def test_the_least_recently_updated_entry_is_evicted():
    capacity = limits.CACHE_SERVERS.minimum
    table = InfraCache(capacity)
    for number in range(capacity):
        table.note_reply(number, 0.1, 1.0)
    table.note_reply(0, 0.1, 2.0)
    table.note_reply("new", 0.1, 3.0)
    assert len(table) == capacity
    assert table.find(0) and table.find("new")
    assert table.find(1) is None
    assert table.statistics() == (capacity, 0, 1)
    table.clear()
    assert len(table) == 0
    with pytest.raises(ValueError, match="servers"):
        InfraCache(0)
