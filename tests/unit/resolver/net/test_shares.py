"""Upstream slots by network and zone: evictions, that no two members evict each other in turns, and the wait queue."""

import random

import pytest
from support.shortage import FullDict

from resolver import limits
from resolver.net.upstream_slots import NEVER_REPLIED, RepliedNetworks, UpstreamSlots, WaitQueue, server_network


def fill(*homes: str) -> UpstreamSlots[str]:
    """Members named after network, zone and number, such as "a.x0", in the order given."""
    shares: UpstreamSlots[str] = UpstreamSlots()
    counts: dict[str, int] = {}
    for home in homes:
        network, _, zone = home.partition(".")
        number = counts[home] = counts.get(home, -1) + 1
        shares.add(f"{home}{number}", network, zone)
    return shares


def test_the_most_silent_member_of_the_largest_zone_and_network_is_evicted() -> None:
    shares = fill("a.x", "a.y", "a.y", "b.z", "b.z")
    assert shares.choose_victim("c", "new") == "a.y0"
    shares.note_progress("a.y0")
    assert shares.choose_victim("c", "new") == "a.y1"
    assert shares.choose_victim("b", "z") is None, "two and three become three and two: nothing is gained"
    shares.remove("b.z0")
    assert shares.choose_victim("b", "z") == "a.y1"


def test_many_zones_on_one_network_have_the_share_of_one() -> None:
    shares = fill(*(f"a.zone{number}." for number in range(8)))
    assert shares.choose_victim("b", "new") == "a.zone0.0"
    assert shares.choose_victim("a", "new") is None


def test_a_zone_beside_a_silent_one_on_the_same_network_has_its_share() -> None:
    shares = fill("a.silent", "a.silent", "a.silent", "b.other")
    assert shares.choose_victim("a", "honest") == "a.silent0"
    assert shares.choose_victim("a", "silent") is None
    assert shares.count("a") == 3


def test_evictions_make_shares_more_equal_and_end() -> None:
    """For any order of new members, after a limited number of evictions there are no more."""
    rng = random.Random(7)
    homes = [(network, f"{network}{zone}") for network in "abcd" for zone in range(rng.randint(1, 6))]
    shares: UpstreamSlots[int] = UpstreamSlots()
    for number in range(40):
        shares.add(number, *homes[0])
    number, since = 40, 0
    while since < 200:
        home = rng.choice(homes)
        victim = shares.choose_victim(*home)
        since += 1
        if victim is not None:
            assert shares.remove(victim)
            shares.add(number, *home)
            number, since = number + 1, 0
            assert number < 2000, "they end each other in turns"
    assert len(shares) == 40
    assert {shares.count(network) for network in "abcd"} == {10}


def test_members_that_left_or_never_came_change_nothing() -> None:
    shares = fill("a.x")
    shares.note_progress("b.y0")
    assert shares.remove("a.x0") and not shares.remove("a.x0")
    assert (len(shares), shares.choose_victim("a", "x")) == (0, None)


@pytest.mark.parametrize("table", ["_network_of", "_networks"])
def test_lack_of_memory_leaves_the_counts_unchanged(table: str) -> None:
    shares = fill("a.x")
    real = getattr(shares, table)
    setattr(shares, table, FullDict(real))
    with pytest.raises(MemoryError):
        shares.add("new", "b", "y")
    setattr(shares, table, real)
    assert (len(shares), shares.count("b"), shares.remove("new")) == (1, 0, False)
    shares.add("new", "b", "y")
    assert shares.remove("new") and shares.remove("a.x0")
    assert not shares._network_of and not shares._networks


def test_networks_have_their_turns_and_in_them_zones() -> None:
    line: WaitQueue[str] = WaitQueue()
    for home in ("a.x", "a.x", "a.x", "a.y", "b.z", "b.z"):
        network, _, zone = home.partition(".")
        line.add(f"{home}{len(line)}", network, zone)
    assert [line.next() for _ in range(7)] == ["a.x0", "b.z4", "a.y3", "b.z5", "a.x1", "a.x2", None]
    assert (len(line), line.members()) == (0, [])


def test_the_zone_with_the_fewest_slots_is_served_next() -> None:
    line: WaitQueue[str] = WaitQueue()
    for home in ("a.x", "a.x", "a.y", "b.z", "b.z"):
        network, _, zone = home.partition(".")
        line.add(f"{home}{len(line)}", network, zone)
    shares = fill("a.x", "a.x", "a.y", "b.z")
    assert line.next(shares) == "b.z3"
    assert line.next(shares) == "b.z4"
    assert line.next(shares) == "a.y2", "the other zone of that network has more"
    shares.remove("a.x0")
    shares.remove("a.x1")
    assert line.next(shares) == "a.x0"
    assert line.next(shares) == "a.x1"


def test_a_long_queue_of_one_network_leaves_space_for_others() -> None:
    line: WaitQueue[int] = WaitQueue()
    number = 0
    while line.admits("a", 100, 75):
        line.add(number, "a", f"zone{number}")
        number += 1
    assert number == 75
    assert line.admits("b", 100, 75)
    assert line.remove(3, "a", "zone3") and not line.remove(3, "a", "zone3")
    assert line.admits("a", 100, 75)
    for _ in range(number - 1):
        line.next()
    assert not line._networks and not line._counts


def test_servers_count_for_their_network() -> None:
    assert server_network("192.0.2.1") == server_network("192.0.2.200") != server_network("192.0.3.1")
    assert server_network("2001:db8::1") == server_network("2001:db8::2") != server_network("2001:db8:1::1")
    assert server_network("no:address") == "no:address"


def test_networks_that_never_replied_share_one_share() -> None:
    heard, shares = RepliedNetworks(), UpstreamSlots[int]()
    heard.add_reply("192.0.2.1")
    for number in range(16):
        shares.add(number, heard.network("192.0.2.7"), "honest")
    for number in range(16, 216):
        address = f"198.51.{number}.1"
        victim = shares.choose_victim(heard.network(address), f"zone{number}")
        if victim is not None:
            assert shares.remove(victim)
            shares.add(number, heard.network(address), f"zone{number}")
    assert (shares.count(server_network("192.0.2.1")), shares.count(NEVER_REPLIED)) == (8, 8)
    shares.remove(15)
    assert shares.choose_victim(heard.network("203.0.113.1"), "new") is None, "together they have more"
    assert shares.choose_victim(heard.network("192.0.2.9"), "honest") is None, (
        "as many as the others will have is enough"
    )
    shares.remove(14)
    assert (shares.choose_victim(heard.network("192.0.2.9"), "honest") or 0) >= 16


def test_the_networks_that_replied_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_NETWORKS", 2)
    heard = RepliedNetworks()
    for address in ("192.0.2.1", "2001:db8::1", "192.0.2.2", "198.51.100.1", "203.0.113.1"):
        heard.add_reply(address)
        heard.add_reply("192.0.2.3")
    assert len(heard) == 2
    assert heard.network("192.0.2.4") == server_network("192.0.2.1")
    assert heard.network("203.0.113.2") == server_network("203.0.113.1")
    assert heard.network("198.51.100.1") is NEVER_REPLIED
    assert heard.network("2001:db8::1") is NEVER_REPLIED


def test_lack_of_memory_to_record_a_reply_is_no_error() -> None:
    heard = RepliedNetworks()
    real = heard.by_last_reply
    heard.by_last_reply = FullDict()  # type: ignore[assignment]
    heard.add_reply("192.0.2.1")
    heard.by_last_reply = real
    assert heard.network("192.0.2.1") is NEVER_REPLIED


def test_a_free_slot_goes_to_its_own_zone_or_one_with_fewer() -> None:
    shares: UpstreamSlots[str] = UpstreamSlots()
    for member, network, zone in (("a1", "a", "x"), ("a2", "a", "x"), ("a3", "a", "y"), ("b1", "b", "z")):
        shares.add(member, network, zone)
    assert shares.may_take_slot_of("a1", "a", "x"), "its own zone's"
    assert shares.may_take_slot_of("a1", "a", "y"), "a zone that has fewer"
    assert not shares.may_take_slot_of("a3", "a", "x")
    assert shares.may_take_slot_of("a3", "a", "new")
    assert shares.may_take_slot_of("a3", "b", "z"), "a network that has fewer"
    assert not shares.may_take_slot_of("b1", "a", "new")
    assert shares.may_take_slot_of("b1", "c", "new")
    shares.remove("a1")
    shares.remove("a2")
    assert not shares.may_take_slot_of("a3", "b", "z"), "as many"
