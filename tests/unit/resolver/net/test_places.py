"""Fair slots: which member is evicted, what a new member may not evict, and consistent counts in all cases."""

import random

import pytest
from support.shortage import FullDict

from resolver import limits
from resolver.net.fair_slots import FairSlots


def fill(*groups: str) -> FairSlots[str]:
    """Members named after their group and their number in it, all idle, in the given order."""
    places: FairSlots[str] = FairSlots()
    for group in groups:
        places.add(f"{group}{places.count(group)}", group)
    return places


def test_the_longest_idle_member_of_the_largest_group_is_evicted() -> None:
    places = fill("a", "b", "b", "b", "c", "c")
    assert places.choose_victim("new") == "b0"
    places.note_progress("b0", busy=False)
    assert places.choose_victim("new") == "b1"
    places.note_progress("b1", busy=True)
    places.note_progress("b2", busy=True)
    assert places.choose_victim("new") == "b0"
    places.note_progress("b0", busy=True)
    assert places.choose_victim("new") == "c0", "those who rest come before those who are busy"


def test_a_new_member_of_a_larger_group_does_not_evict_members_of_smaller_ones() -> None:
    places = fill("a", "b", "b", "b")
    for member in ("b0", "b1", "b2"):
        places.note_progress(member, busy=True)
    assert places.choose_victim("b") is None
    assert places.choose_victim("a") == "a0", "its own"
    assert places.choose_victim("new") == "a0"
    places.note_progress("a0", busy=True)
    assert places.choose_victim("new") == "b0"
    assert places.choose_victim("a") == "b0"
    places.remove("b0")
    assert places.choose_victim("a") is None, "two and one become one and two: nothing is gained"


def test_the_search_is_bounded_and_falls_back_to_its_own_group() -> None:
    places = fill(*(f"g{n}." for n in range(limits.SLOT_SCAN)), "resting", "own", "own")
    for member in list(places):
        if member.startswith("g"):
            places.note_progress(member, busy=True)
    assert places.choose_victim("other") == "own0"
    places.remove("own0")
    assert places.choose_victim("other") is None
    assert places.choose_victim("own") == "own1"


def test_members_that_left_or_never_came_change_nothing() -> None:
    places = fill("a")
    places.note_progress("b0", busy=True)
    assert places.remove("a0") and not places.remove("a0")
    assert (len(places), places.count("a"), places.choose_victim("a"), places.oldest_idle("a")) == (0, 0, None, None)
    assert (places._groups, places._sizes, places._members) == ({}, {}, {})


@pytest.mark.parametrize("full", ["_groups", "_members"])
def test_a_member_without_memory_leaves_no_entry(full: str) -> None:
    places = fill("a")
    ample = getattr(places, full)
    scarce = FullDict(ample)
    setattr(places, full, scarce)
    with pytest.raises(MemoryError):
        places.add("b0", "b")
    setattr(places, full, dict(scarce))
    assert (list(places), places.count("b"), places.choose_victim("c")) == (["a0"], 0, "a0")
    places.add("b0", "b")
    assert places.count("b") == 1


def test_the_counts_are_consistent_and_no_smaller_group_is_evicted() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        places: FairSlots[int] = FairSlots()
        truth: dict[int, str] = {}
        busy: set[int] = set()
        for number in range(200):
            action = dice.randrange(10)
            if action < 6:
                group = dice.choice("aaaabbcdefg")
                if len(places) == 12:
                    out = places.choose_victim(group)
                    sizes = {g: list(truth.values()).count(g) for g in "abcdefg"}
                    if out is None:
                        assert all(m in busy for m in truth if sizes[truth[m]] >= sizes[group] or truth[m] == group)
                        assert max(sizes.values()) <= sizes[group] + 1
                        continue
                    assert truth[out] == group or sizes[truth[out]] >= sizes[group]
                    if out in busy:
                        assert sizes[truth[out]] > sizes[group] + 1
                    assert places.remove(out)
                    busy.discard(out)
                    del truth[out]
                places.add(number, group)
                truth[number] = group
            elif truth:
                member = dice.choice(list(truth))
                if action < 9:
                    places.note_progress(member, busy=action == 8)
                    (busy.add if action == 8 else busy.discard)(member)
                else:
                    places.remove(member)
                    busy.discard(member)
                    del truth[member]
            assert dict.fromkeys(places) == dict.fromkeys(truth)
            assert all(places.count(g) == list(truth.values()).count(g) for g in "abcdefg")
