"""The infrastructure cache, with a clock that the test sets."""

import _testcapi

import pytest
from support.dead_servers import is_dead, make_dead, note_timeouts

from resolver import limits
from resolver.cache import InfraCache
from resolver.cache.infra import InfraEntry

ADDRESS = ("192.0.2.1", 53)
ZONE, OTHER = b"\7example\0", b"\4evil\0"
FIRST = limits.SERVER_TIMEOUT_FIRST / 1000
HIGHEST = limits.SERVER_TIMEOUT_MAXIMUM / 1000
SHARED = limits.SERVER_TIMEOUT_SHARED / 1000
INTERVAL = limits.SERVER_PROBE_INTERVAL


def test_an_unknown_server_has_default_values():
    table = InfraCache()
    assert table.find(ADDRESS) is None
    assert table.timeout(ADDRESS, ZONE, 0.0) == InfraEntry().rtt_estimate() == FIRST == 0.376
    assert table.zone_at(ADDRESS, ZONE, 0.0) is None
    assert table.is_usable(ADDRESS, ZONE, 0.0)
    assert len(table) == 0


def test_round_trips_are_smoothed_as_in_rfc_6298():
    table = InfraCache()
    table.note_reply(ADDRESS, ZONE, 0.1, 1.0)
    info = table.find(ADDRESS)
    assert (info.srtt, info.rttvar) == (0.1, 0.05)
    assert info.timeout == pytest.approx(0.3)
    table.note_reply(ADDRESS, OTHER, 0.2, 2.0)
    assert info.rttvar == pytest.approx(0.75 * 0.05 + 0.25 * 0.1)
    assert info.srtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.2)
    assert info.rtt_estimate() == info.srtt
    for _ in range(100):
        table.note_reply(ADDRESS, ZONE, 0.001, 3.0)
    assert info.timeout == limits.SERVER_TIMEOUT_MINIMUM / 1000


def test_timeouts_double_and_a_reply_resets_them():
    table = InfraCache()
    for expected in (0.752, 1.504, 3.008):
        note_timeouts(table, ADDRESS, ZONE, 1.0, 1)
        assert table.timeout(ADDRESS, ZONE, 1.0) == pytest.approx(expected)
        assert table.find(ADDRESS).rtt_estimate() == pytest.approx(expected)
    assert not is_dead(table, ADDRESS, ZONE, 1.0)
    table.note_reply(ADDRESS, ZONE, 0.1, 2.0)
    assert table.timeout(ADDRESS, ZONE, 2.0) == pytest.approx(0.3)
    assert table.find(ADDRESS).timeouts == 0
    note_timeouts(table, ADDRESS, ZONE, 3.0, 1)
    assert table.timeout(ADDRESS, ZONE, 3.0) == pytest.approx(0.6)


def test_timeouts_of_one_zone_do_not_make_the_server_dead_for_another_one():
    """Anyone can delegate a zone to a server that ignores queries for it."""
    table = InfraCache()
    table.note_reply(ADDRESS, ZONE, 0.1, 0.0)
    make_dead(table, ADDRESS, OTHER, 1.0)
    assert not is_dead(table, ADDRESS, ZONE, 1.0)
    assert all(table.is_usable(ADDRESS, ZONE, 1.0) for _ in range(10))
    assert table.timeout(ADDRESS, ZONE, 1.0) == SHARED, "but it may be slower than it was"
    table.note_reply(ADDRESS, ZONE, 0.1, 2.0)
    assert table.timeout(ADDRESS, ZONE, 2.0) < SHARED
    assert is_dead(table, ADDRESS, OTHER, 2.0), "and the replies for one do not revive the other"
    assert not table.find(ADDRESS).dead


def test_timeouts_of_any_zone_change_the_place_of_an_address_and_the_timeouts_there():
    """Else each zone would have to find out that a server is down, or slower than it was."""
    table = InfraCache()
    table.note_reply(ADDRESS, ZONE, 0.05, 0.0)
    info = table.find(ADDRESS)
    shared = []
    for number in range(7):
        note_timeouts(table, ADDRESS, b"\1%d\0" % number, 1.0, 1)
        shared.append(table.timeout(ADDRESS, ZONE, 1.0))
        assert table.may_answer(ADDRESS, ZONE, 1.0) is not info.dead
    assert shared == [pytest.approx(seconds) for seconds in (0.3, 0.6, SHARED, SHARED, SHARED, SHARED, SHARED)]
    assert info.rtt_estimate() == HIGHEST and info.dead
    assert table.statistics().dead == 1
    note_timeouts(table, ADDRESS, ZONE, 1.0, 1)
    assert table.timeout(ADDRESS, ZONE, 1.0) == 2 * SHARED, "doubled from the time that was waited"
    table.note_reply(ADDRESS, ZONE, 0.05, 2.0)
    assert info.rtt_estimate() == info.srtt
    assert table.may_answer(ADDRESS, ZONE, 2.0)


@pytest.mark.parametrize("kind", ["lame", "dead"])
def test_a_server_that_is_lame_or_dead_for_a_zone_answers_for_others_only(kind):
    table = InfraCache()
    assert table.may_answer(ADDRESS, ZONE, 0.0)
    if kind == "lame":
        table.note_lame(ADDRESS, ZONE, 0.0)
    else:
        make_dead(table, ADDRESS, ZONE, 0.0)
    table.note_reply(ADDRESS, OTHER, 0.1, 0.0)
    assert not table.may_answer(ADDRESS, ZONE, 0.0)
    assert table.may_answer(ADDRESS, OTHER, 0.0)


@pytest.mark.parametrize("failing", range(12))
def test_without_memory_the_table_stays_usable_and_bounded(failing):
    """Whichever allocation fails. Tables of some sizes have to grow."""
    for size in (1, 5, 6, 10, 11, 21, 22, 42, 43, 85, 86):
        table = InfraCache()
        table._zones.limit = size * (len(ZONE) + limits.SERVER_ZONE_OVERHEAD)
        for number in range(size):
            note_timeouts(table, number, ZONE, 1.0, 1)
        _testcapi.set_nomemory(failing, failing + 1)
        try:
            table.note_timeout(0, OTHER, 2.0, 2.0)
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        for number in range(1, 3 * size + 1):
            note_timeouts(table, number, OTHER, 3.0, 1)
            assert table._zones.octets <= table._zones.limit
        assert table.zone_at(3 * size, OTHER, 3.0).timeouts


def test_timeouts_of_concurrent_queries_count_once():
    table = InfraCache()
    table.note_reply(ADDRESS, ZONE, 0.001, 0.0)

    def state(now):
        return table.timeout(ADDRESS, ZONE, now), table.find(ADDRESS).timeouts

    once = table.timeout(ADDRESS, ZONE, 0.0)
    for number in range(100):  # sent within 50 ms
        table.note_timeout(ADDRESS, ZONE, number / 2000, 0.05 + number / 2000)
    assert state(1.0) == (2 * once, 1)
    table.note_timeout(ADDRESS, ZONE, 0.05, 0.15)
    assert state(1.0) == (4 * once, 2)
    table.note_reply(ADDRESS, ZONE, 0.001, 0.2)
    again = table.timeout(ADDRESS, ZONE, 0.2)
    table.note_timeout(ADDRESS, ZONE, 0.14, 0.3)  # sent before the last timeout
    assert state(0.3) == (again, 0)


def test_a_dead_server_is_probed_once_per_interval_and_recovers():
    table = InfraCache()
    note_timeouts(table, ADDRESS, ZONE, 1.0, 20)
    assert table.timeout(ADDRESS, ZONE, 1.0) == HIGHEST
    assert is_dead(table, ADDRESS, ZONE, 1.0)
    assert not table.is_usable(ADDRESS, ZONE, 1.0 + INTERVAL - 0.1)
    assert table.is_usable(ADDRESS, ZONE, 1.0 + INTERVAL)
    assert not table.is_usable(ADDRESS, ZONE, 1.0 + INTERVAL)
    assert table.is_usable(ADDRESS, ZONE, 1.0 + 2 * INTERVAL)
    table.note_reply(ADDRESS, ZONE, 0.02, 200.0)
    assert table.is_usable(ADDRESS, ZONE, 200.0)
    assert not is_dead(table, ADDRESS, ZONE, 200.0)


def test_back_off_expires_although_the_address_replies_for_other_zones():
    table = InfraCache()
    make_dead(table, ADDRESS, ZONE, 1.0)
    for now in range(1, 2 + limits.INFRA_TTL):
        table.note_reply(ADDRESS, OTHER, 0.1, float(now))
    assert table.zone_at(ADDRESS, ZONE, 1.0 + limits.INFRA_TTL) is None
    note_timeouts(table, ADDRESS, ZONE, 2.0 + limits.INFRA_TTL, 1)
    assert table.zone_at(ADDRESS, ZONE, 2.0 + limits.INFRA_TTL).timeouts == 1


def is_lame(table: InfraCache, zone: bytes, now: float) -> bool:
    """Whether ADDRESS is lame for `zone`."""
    entry = table.zone_at(ADDRESS, zone, now)
    return entry is not None and entry.lame_until > now


def test_lameness_is_per_zone_and_expires():
    table = InfraCache()
    table.note_lame(ADDRESS, ZONE, 10.0)
    assert is_lame(table, ZONE, 10.0 + limits.SERVER_LAME - 1)
    assert not is_lame(table, ZONE, 10.0 + limits.SERVER_LAME)
    assert not is_lame(table, OTHER, 10.0)
    assert table.find(("192.0.2.2", 53)) is None


def test_zones_of_an_address_are_bounded():
    table = InfraCache()
    count = limits.SERVER_ZONES
    for number in range(count + 1):
        table.note_lame(ADDRESS, b"\4%04d\0" % number, 10.0)
    assert len(table.find(ADDRESS).zones) == count
    assert not is_lame(table, b"\0040000\0", 10.0)
    assert is_lame(table, b"\4%04d\0" % count, 10.0)


def test_tcp_marks_expire():
    table = InfraCache()
    table.note_tcp_only(ADDRESS, 10.0)
    info = table.find(ADDRESS)
    assert info.tcp_until == 10.0 + limits.SERVER_TCP_ONLY
    table.note_reply(ADDRESS, ZONE, 0.1, 12.0, edns=True)
    assert info.edns_seen


def test_old_entries_expire():
    table = InfraCache()
    table.note_reply(ADDRESS, ZONE, 5.0, 10.0)
    table.note_reply(ADDRESS, ZONE, 0.1, 10.0 + limits.INFRA_TTL + 1)
    assert table.find(ADDRESS).srtt == 0.1


def test_the_least_recently_updated_entry_is_evicted():
    capacity = limits.CACHE_SERVERS.minimum
    table = InfraCache(capacity)
    for number in range(capacity):
        table.note_reply(number, ZONE, 0.1, 1.0)
    table.note_reply(0, ZONE, 0.1, 2.0)
    table.note_reply("new", ZONE, 0.1, 3.0)
    assert len(table) == capacity
    assert table.find(0) and table.find("new")
    assert table.find(1) is None
    assert table.statistics() == (capacity, 0, 1)
    table.clear()
    assert len(table) == 0
    with pytest.raises(ValueError, match="servers"):
        InfraCache(0)
