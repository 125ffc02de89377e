"""The table by itself: storing, ageing, ranking, eviction, growth, sweeps. Concurrency is in test_processes.py."""

import random

import pytest

from resolver import limits
from resolver.cache.arena import Arena
from resolver.cache.table import Table

SEED = b"0123456789abcdef"
ANSWER, RRSET, NEGATIVE, FAILURE = 1, 2, 3, 4
SLACK = limits.CACHE_CLOCK_SLACK


def make(size: int = 1 << 20) -> Table:
    return Table(Arena(size), SEED)


def value_of(table: Table, key: bytes, now: int = 100, kind: int = RRSET) -> bytes | None:
    entry = table.find(kind, key, now)
    return None if entry is None else entry.value


def test_entries_are_stored_found_and_dropped():
    table = make()
    assert table.find(RRSET, b"key", 100) is None
    assert table.put(RRSET, b"key", b"value", now=100, ttl=50, meta=0x37, aux=513)
    entry = table.find(RRSET, b"key", 110)
    assert entry == (b"value", 40, 100, 50, 0x37, 513)
    assert table.drop(RRSET, b"key") is True
    assert table.drop(RRSET, b"key") is False
    assert table.find(RRSET, b"key", 110) is None


def test_kinds_of_entries_are_separate():
    table = make()
    for kind in (ANSWER, RRSET, NEGATIVE, FAILURE):
        assert table.put(kind, b"key", b"%d" % kind, now=100, ttl=50)
    for kind in (ANSWER, RRSET, NEGATIVE, FAILURE):
        assert value_of(table, b"key", kind=kind) == b"%d" % kind
    assert table.drop(NEGATIVE, b"key")
    assert value_of(table, b"key", kind=RRSET) == b"2"
    with pytest.raises(ValueError, match="kind"):
        table.put(0, b"key", b"", now=1, ttl=1)
    with pytest.raises(ValueError, match="kind"):
        table.find(5, b"key", 1)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255, 4096])
def test_values_of_all_sizes_are_returned_unchanged(size):
    table = make()
    for key_size in (1, 2, 7, 8, 9, 257, 1024):
        value = random.Random(size).randbytes(size)
        assert table.put(RRSET, b"k" * key_size, value, now=100, ttl=50)
        assert value_of(table, b"k" * key_size) == value


def test_an_oversized_value_is_refused_without_effect():
    table = make(64 << 10)
    assert table.put(RRSET, b"key", b"small", now=100, ttl=50)
    assert table.put(RRSET, b"key", bytes(20_000), now=100, ttl=50) is False
    assert table.put(RRSET, b"k" * 1025, b"", now=100, ttl=50) is False
    assert value_of(table, b"key") == b"small"


def test_replacing_with_another_size():
    table = make()
    for size in (10, 500, 11, 3000, 0, 12):
        assert table.put(RRSET, b"key", bytes(size), now=100, ttl=50)
        assert value_of(table, b"key") == bytes(size)
    assert table.statistics().entries["rrset"] == 1


def test_ttl_zero_is_not_stored():
    table = make()
    assert table.put(RRSET, b"key", b"value", now=100, ttl=0) is False
    assert table.put(RRSET, b"key", b"value", now=100, ttl=-5) is False
    assert table.find(RRSET, b"key", 100) is None


# --- time ---------------------------------------------------------------------------------------------------------


def remaining(table: Table, now: int) -> int:
    entry = table.find(RRSET, b"key", now)
    assert entry is not None
    return entry.remaining


def test_ageing_forward_and_a_jump_of_years():
    table = make()
    table.put(RRSET, b"key", b"value", now=1_000_000_000, ttl=300)
    assert remaining(table, 1_000_000_000) == 300
    assert remaining(table, 1_000_000_299) == 1
    assert remaining(table, 1_000_000_300) == 0
    assert remaining(table, 1_000_000_000 + 20 * 31_536_000) < 0


def test_a_clock_set_back_a_little_keeps_the_ttl():
    table = make()
    table.put(RRSET, b"key", b"value", now=1_000_000_000, ttl=300)
    assert remaining(table, 1_000_000_000 - 1) == 300
    assert remaining(table, 1_000_000_000 - SLACK) == 300


@pytest.mark.parametrize("back", [SLACK + 1, 3600, 20 * 31_536_000])
def test_a_clock_set_back_further_expires(back):
    table = make()
    table.put(RRSET, b"key", b"value", now=1_000_000_000, ttl=86_400)
    assert remaining(table, 1_000_000_000 - back) < 0
    table.put(RRSET, b"key", b"again", now=1_000_000_000 - back, ttl=86_400)
    assert remaining(table, 1_000_000_000 - back) == 86_400


# --- ranks --------------------------------------------------------------------------------------------------------


def test_ranked_put_does_not_replace_a_fresh_better_one():
    table = make()
    assert table.put(RRSET, b"key", b"better", now=100, ttl=50, meta=0x36, ranked=True)
    assert table.put(RRSET, b"key", b"worse!", now=149, ttl=50, meta=0x05, ranked=True) is False
    assert table.put(RRSET, b"key", b"of another size", now=149, ttl=50, meta=0x05, ranked=True) is False
    assert value_of(table, b"key", 149) == b"better"
    assert table.statistics().refused == 2
    assert table.put(RRSET, b"key", b"equal!", now=149, ttl=1, meta=0x06, ranked=True)
    assert table.put(RRSET, b"key", b"worse!", now=150, ttl=50, meta=0x01, ranked=True)
    assert value_of(table, b"key", 150) == b"worse!"


@pytest.mark.parametrize("value", [b"same", b"of another size"])
def test_not_longer_keeps_the_end_of_the_fresh_one(value):
    table = make()
    table.put(RRSET, b"key", b"once", now=100, ttl=50)
    assert table.put(RRSET, b"key", value, now=120, ttl=1000, not_longer=True)
    assert remaining(table, 120) == 30
    assert table.put(RRSET, b"key", value, now=120, ttl=10, not_longer=True)
    assert remaining(table, 120) == 10
    assert table.put(RRSET, b"key", value, now=130, ttl=1000, not_longer=True)
    assert remaining(table, 130) == 1000


# --- limits, eviction, growth -------------------------------------------------------------------------------------


def test_a_full_table_evicts_and_never_passes_its_limit():
    table = make(128 << 10)
    rng = random.Random(7)
    stored = {}
    for _ in range(5000):
        key = b"key %d" % rng.randrange(1000)
        stored[key] = rng.randbytes(rng.randrange(400))
        assert table.put(RRSET, key, stored[key], now=100, ttl=50)
        assert value_of(table, key) == stored[key]
        assert table.arena.ring_used <= table.arena.ring_size
    found = [key for key in stored if value_of(table, key) is not None]
    assert all(value_of(table, key) == stored[key] for key in found)
    statistics = table.statistics()
    assert statistics.entries["rrset"] == len(found)
    assert statistics.evicted["rrset"] > 0
    assert statistics.stored["rrset"] == 5000


@pytest.mark.parametrize("sizes", [
    pytest.param([10] * 3000 + [7000] * 40, id="small then large"),
    pytest.param([7000] * 40 + [10] * 3000, id="large then small"),
    pytest.param([10, 7000] * 400, id="alternating"),
    pytest.param([1 << (i % 13) for i in range(3000)], id="powers"),
    pytest.param(list(range(0, 7000, 13)), id="growing"),
    pytest.param(list(range(7000, 0, -13)), id="shrinking"),
])
def test_no_order_of_sizes_defeats_eviction(sizes):
    """CVE-2023-2828: cleaning that lags behind insertion lets the order of sizes pass the limit."""
    table = make(128 << 10)
    for number, size in enumerate(sizes):
        key = b"%d" % number
        assert table.put(ANSWER, key, bytes(size), now=100, ttl=50)
        assert value_of(table, key, kind=ANSWER) == bytes(size)
        assert table.arena.ring_used <= table.arena.ring_size


def test_used_entries_outlive_unused_ones():
    table = make(128 << 10)
    table.put(RRSET, b"used", b"value", now=100, ttl=50)
    table.put(RRSET, b"idle", b"value", now=100, ttl=50)
    for number in range(5000):
        table.put(RRSET, b"%d" % number, bytes(100), now=100, ttl=50)
        assert value_of(table, b"used") == b"value"
    assert value_of(table, b"idle") is None
    assert table.statistics().carried > 0


@pytest.mark.parametrize("size", [100, 2000])
def test_expired_entries_are_not_carried_over(size):
    """Small entries fill the buckets before the ring, large ones the ring."""
    table = make(128 << 10)
    table.put(RRSET, b"used", b"value", now=100, ttl=50)
    assert value_of(table, b"used") == b"value"
    for number in range(500_000 // size):
        table.put(RRSET, b"%d" % number, bytes(size), now=200, ttl=50)
    assert table.find(RRSET, b"used", 200) is None
    statistics = table.statistics()
    assert (statistics.expired["rrset"], statistics.carried) == (1, 0)


def test_growth_keeps_every_entry():
    """While memory lasts nothing may be lost to the division of groups."""
    table = make(16 << 20)
    total = 20_000
    for number in range(total):
        assert table.put(RRSET, b"%d" % number, b"%d" % number, now=100, ttl=50)
    statistics = table.statistics()
    assert statistics.groups > 40
    assert sum(value_of(table, b"%d" % number) == b"%d" % number for number in range(total)) >= total - 5
    assert statistics.entries["rrset"] >= total - 5


def test_the_limit_holds_when_all_entries_are_used():
    """All entries marked as used: an insertion carries over a bounded number, then evicts."""
    table = make(128 << 10)
    for number in range(500):
        table.put(RRSET, b"%d" % number, bytes(400), now=100, ttl=50)
    for turn in range(5):
        alive = sum(table.find(RRSET, b"%d" % number, 100) is not None for number in range(500))
        before = table.statistics()
        assert alive > 3 * limits.TABLE_SECOND_CHANCES
        assert table.put(RRSET, b"new %d" % turn, bytes(400), now=100, ttl=50)
        after = table.statistics()
        assert after.carried - before.carried == limits.TABLE_SECOND_CHANCES
        assert 0 < after.evicted["rrset"] - before.evicted["rrset"] <= 2


@pytest.mark.parametrize("seed", range(4))
def test_moved_entries_never_overtake_the_oldest(seed):
    """CVE-2023-2828: entries of all sizes, nearly all in use, so that each insertion moves some over the edge."""
    table = make(64 << 10)
    rng = random.Random(seed)
    stored = {}
    for _ in range(3000):
        key = b"%d" % rng.randrange(60)
        stored[key] = rng.randbytes(rng.choice((8, 100, 1000, 2500)) + rng.randrange(200))
        assert table.put(RRSET, key, stored[key], now=100, ttl=50)
        assert table.arena.ring_used <= table.arena.ring_size
        for used in rng.sample(sorted(stored), min(len(stored), 12)):
            assert value_of(table, used) in (None, stored[used])
    assert table.statistics().carried > 1000
    assert table.statistics().repaired == 0


# --- removal ------------------------------------------------------------------------------------------------------


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".") if part) + b"\0"


def test_sweep_by_name_and_subtree():
    table = make()
    keys = [name(text) + b"\0\1" for text in
            ("example.com", "www.example.com", "a.b.example.com", "example.org", "notexample.com", "com", "")]
    for key in keys:
        table.put(RRSET, key, b"", now=100, ttl=50)
        table.put(ANSWER, key, b"", now=100, ttl=50)
    assert table.sweep(1 << RRSET, name("www.example.com")) == 1
    assert table.sweep(1 << RRSET, name("example.com"), subtree=True) == 2
    left = [key for key in keys if table.find(RRSET, key, 100)]
    assert left == [keys[3], keys[4], keys[5], keys[6]]
    assert all(table.find(ANSWER, key, 100) for key in keys)
    assert table.sweep(1 << RRSET | 1 << ANSWER, name(""), subtree=True) == 11
    assert table.statistics().entries == {"answer": 0, "rrset": 0, "negative": 0, "failure": 0}


def test_a_label_that_contains_a_name_is_not_its_subtree():
    table = make()
    inner = name("example.com")
    key = bytes([len(inner)]) + inner + b"\0" + b"\0\1"
    table.put(RRSET, key, b"", now=100, ttl=50)
    assert table.sweep(1 << RRSET, inner, subtree=True) == 0


def test_sweep_of_more_records_than_one_hold():
    table = make(4 << 20)
    count = limits.TABLE_SWEEP * 2 + 17
    for number in range(count):
        table.put(RRSET, b"%d" % number, b"", now=100, ttl=50)
    assert table.sweep(1 << RRSET) == count - table.statistics().evicted["rrset"]


def test_the_table_is_usable_after_clear():
    table = make(128 << 10)
    for number in range(3000):
        table.put(RRSET, b"%d" % number, bytes(50), now=100, ttl=50)
    alive = table.statistics().entries["rrset"]
    assert table.clear() == alive == table.statistics().dropped["rrset"]
    assert table.statistics().bytes_used == 0
    assert table.statistics().entries["rrset"] == 0
    assert all(table.find(RRSET, b"%d" % number, 100) is None for number in range(3000))
    assert table.put(RRSET, b"key", b"value", now=100, ttl=50)
    assert value_of(table, b"key") == b"value"


@pytest.mark.parametrize("seed", range(4))
def test_no_entry_is_found_after_a_clear_wherever_the_ring_is(seed):
    """Some laps of a small ring, cleared at random, before and after a whole lap; values of all sizes, replaced in
    place and elsewhere, used and not. An entry that is found was stored since the last clear; the counters agree."""
    rng = random.Random(seed)
    table = make(128 << 10)
    stored: dict[bytes, bytes] = {}
    for turn in range(30_000):
        key = b"%d" % rng.randrange(900)
        if rng.random() < 0.0004:
            found = sum(value_of(table, known) is not None for known in stored)
            assert table.clear() == found
            stored.clear()
            assert table.statistics().entries["rrset"] == 0
        elif rng.random() < 0.02:
            assert table.drop(RRSET, key) <= (key in stored)
            stored.pop(key, None)
        elif rng.random() < 0.5:
            stored[key] = b"%d " % turn + bytes(rng.choice((1, 1, 60, 200)))
            assert table.put(RRSET, key, stored[key], now=100, ttl=50)
        else:
            assert value_of(table, key) in (None, stored.get(key))
        assert table.statistics().bytes_used <= table.statistics().bytes_limit
    found = sum(value_of(table, key) is not None for key in stored)
    assert table.clear() == found


@pytest.mark.parametrize("laps", [0.3, 1, 2.7])
def test_the_memory_of_cleared_entries_is_used_again(laps):
    """As many new entries stay as in a cache that was never cleared, although the cleared ones had been used."""
    counts = []
    for cleared in (False, True):
        table = make(1 << 20)
        if cleared:
            for number in range(int(laps * table.arena.ring_size / 88)):
                table.put(RRSET, b"%06d" % number, bytes(64), now=100, ttl=50)
                table.find(RRSET, b"%06d" % number, 100)
            table.clear()
        for number in range(20_000):
            assert table.put(RRSET, b"new%06d" % number, bytes(60), now=100, ttl=50)
        kept = [number for number in range(20_000) if table.find(RRSET, b"new%06d" % number, 100)]
        assert len(kept) == table.statistics().entries["rrset"]
        counts.append(len(kept))
    assert counts[1] > 0.99 * counts[0] > 5000


def test_cleared_entries_get_neither_copied_nor_swept_nor_dropped():
    table = make()
    old, new = (name(text) + b"\0\1" for text in ("old.example.", "new.example."))
    table.put(RRSET, old, b"1", now=100, ttl=50)
    table.clear()
    table.put(RRSET, new, b"2", now=100, ttl=50)
    assert not table.drop(RRSET, old)
    other = make()
    assert sum(other.copy_in(block, 1 << RRSET, now=100) for block in table.copy_out(1 << RRSET, now=100)) == 1
    assert other.find(RRSET, old, 100) is None
    assert table.sweep(1 << RRSET, old[:-2]) == 0
    assert table.sweep(1 << RRSET) == 1
    assert table.statistics().dropped["rrset"] == 2
    assert table.statistics().entries["rrset"] == 0


def test_a_copy_that_a_clear_interrupts_has_no_cleared_entries():
    table = make(4 << 20)
    for number in range(20_000):
        table.put(RRSET, name(f"n{number}.example.") + b"\0\1", b"", now=100, ttl=50)
    blocks = table.copy_out(1 << RRSET, now=100)
    assert next(blocks)
    table.clear()
    assert list(blocks) == []


def test_hits_and_misses_are_counted_by_kind():
    table = make()
    table.put(RRSET, b"key", b"value", now=100, ttl=50)
    table.find(RRSET, b"key", 100)
    table.find(RRSET, b"none", 100)
    table.find(ANSWER, b"none", 100)
    statistics = table.statistics()
    assert statistics.hits == {"answer": 0, "rrset": 1, "negative": 0, "failure": 0}
    assert statistics.misses == {"answer": 1, "rrset": 1, "negative": 0, "failure": 0}


def test_another_seed_places_keys_differently():
    """Placement, seen by which keys a tiny table loses, depends on the seed: nobody can choose colliding names."""
    lost = []
    for seed in (SEED, SEED[::-1]):
        table = Table(Arena(64 << 10), seed)
        for number in range(3000):
            table.put(RRSET, b"%d" % number, b"", now=100, ttl=50)
        lost.append({number for number in range(3000) if table.find(RRSET, b"%d" % number, 100) is None})
    assert lost[0] != lost[1]
