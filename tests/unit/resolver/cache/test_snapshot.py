"""Dumps of the cache: which entries are loaded, with which age, and which files are rejected."""

import io
import random

import pytest

from resolver import limits
from resolver.cache import Store, snapshot
from resolver.cache.snapshot import HEAD, SnapshotError, dump, load
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

NOW = 1_800_000_000
LABEL = b"rules"
LARGEST = 8 << 20


def store(size=1 << 20, seed=bytes(16)):
    return Store.create(size, seed=seed)


def name(text):
    return names.from_text(text)


def address(text, last=1, ttl=300, **more):
    return RRset(name(text), c.A, ttl, [bytes([192, 0, 2, last])], trust=Trust.ANSWER, **more)


def filled(count=100):
    full = store()
    for number in range(count):
        full.rrsets.put(address(f"host{number}.example.", number % 250), NOW)
    soa = RRset(name("example."), c.SOA, 600, [b"\x02ns\0\x01x\0" + bytes(20)], sigs=[bytes(40)])
    full.rrsets.put_negative(name("nothing.example."), 0, soa=soa, ttl=600, verdict=Verdict.SECURE, now=NOW)
    full.rrsets.put_failure(name("broken.example."), c.A, kind=7, verdict=None, ede=22, text="x", ttl=60, now=NOW)
    return full


def dumped(full, now=NOW, **more):
    return b"".join(dump(full, label=LABEL, now=now, **more))


def loaded(data, now=NOW, into=None, **more):
    empty = into or store()
    more.setdefault("label", LABEL)
    more.setdefault("largest", LARGEST)
    return empty, load(empty, io.BytesIO(data), now=now, **more)


def test_entries_are_restored():
    empty, result = loaded(dumped(filled()))
    assert (result.entries, result.age) == (101, 0)
    found = empty.rrsets.find(name("HOST7.example."), c.A, NOW)
    assert (found.rdatas(), found.trust, found.ttl) == ([bytes([192, 0, 2, 7])], Trust.ANSWER, 300)
    denial = empty.rrsets.find_negative(name("nothing.example."), c.A, NOW)
    assert (denial.rcode, denial.verdict, denial.soa.ttl) == (c.NXDOMAIN, Verdict.SECURE, 600)
    assert denial.soa.sigs() == [bytes(40)]
    assert empty.rrsets.find_failure(name("broken.example."), c.A, NOW) is None


def test_entries_age_while_they_are_in_a_file():
    data = dumped(filled())
    empty, result = loaded(data, now=NOW + 100)
    assert result.age == 100
    assert empty.rrsets.find(name("host7.example."), c.A, NOW + 100).ttl == 200
    assert empty.rrsets.find_negative(name("nothing.example."), c.A, NOW + 100).soa.ttl == 500
    empty, result = loaded(data, now=NOW + 301)
    assert result.entries == 1, "only the denial has not expired"
    empty, result = loaded(data, now=NOW + 301, stale=3600)
    assert result.entries == 101
    assert empty.rrsets.find(name("host7.example."), c.A, NOW + 301) is None
    assert empty.rrsets.find(name("host7.example."), c.A, NOW + 301, stale=3600) is not None


def test_expired_entries_are_written_for_serve_stale():
    full = filled()
    assert loaded(dumped(full, NOW + 400), now=NOW + 400, stale=1000)[1].entries == 1
    assert loaded(dumped(full, NOW + 400, stale=1000), now=NOW + 400, stale=1000)[1].entries == 101


def test_fresh_entries_are_not_replaced():
    into = store()
    into.rrsets.put(address("host7.example.", 99), NOW + 5)
    loaded(dumped(filled()), now=NOW + 5, into=into)
    assert into.rrsets.find(name("host7.example."), c.A, NOW + 5).rdatas() == [bytes([192, 0, 2, 99])]
    assert into.rrsets.find(name("host8.example."), c.A, NOW + 5) is not None


def test_a_cache_whose_ring_has_wrapped_is_dumped_completely():
    full = store(256 << 10)
    for number in range(6000):
        full.rrsets.put(address(f"host{number}.example.", number % 250), NOW)
    kept = full.statistics()["entries_rrset"]
    assert kept < 6000
    # The seed of the next start differs, so entries that shared a bucket here do not share one there.
    empty, result = loaded(dumped(full), into=store(seed=bytes(range(16))))
    assert result.entries == kept
    assert empty.statistics()["entries_rrset"] == kept


def test_a_dump_of_a_larger_cache_is_loaded_up_to_capacity():
    small = store(128 << 10)
    result = loaded(dumped(filled(3000)), into=small)[1]
    assert result.entries == 3001
    assert 0 < small.statistics()["entries_rrset"] < 3000


def test_large_entries_are_restored():
    full = store(4 << 20)
    texts = [bytes([202]) + bytes(200) + number.to_bytes(2, "big") for number in range(300)]
    rrset = RRset(name("large.example."), c.TXT, 300, texts, trust=Trust.ANSWER)
    assert full.rrsets.put(rrset, NOW)
    empty = store(4 << 20)
    loaded(dumped(full), into=empty)
    assert empty.rrsets.find(name("large.example."), c.TXT, NOW).rdatas() == rrset.rdatas()
    largest = max(len(block) for block in full.table.copy_out(0b1100, now=NOW))
    assert largest <= limits.SNAPSHOT_BLOCK


def test_an_empty_cache_is_dumped_and_loaded():
    assert loaded(dumped(store()))[1].entries == 0


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corrupt", "words"),
    [
        (lambda data: b"", "not a dump"),
        (lambda data: b"resolver", "not a dump"),
        (lambda data: b"x" + data[1:], "not a dump"),
        (lambda data: data[:16] + (99).to_bytes(4, "little") + data[20:], "version 99"),
        (lambda data: data[:20] + (0x01020304).to_bytes(4, "big") + data[24:], "byte order"),
        (lambda data: data[:-1], "damaged"),
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[: HEAD.size], "damaged"),
        (lambda data: data + b"\0", "damaged"),
        (lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:], "damaged"),
    ],
)
def test_damage_is_detected_before_any_entry_is_loaded(corrupt, words):
    empty = store()
    with pytest.raises(SnapshotError, match=words):
        loaded(corrupt(dumped(filled())), into=empty)
    assert empty.statistics()["entries_rrset"] == 0


def test_any_single_changed_bit_is_detected():
    data = dumped(filled(5))
    dice = random.Random(5)
    for _ in range(300):
        spoiled = bytearray(data)
        spoiled[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        with pytest.raises(SnapshotError):
            loaded(bytes(spoiled))


def test_a_dump_made_under_other_rules_is_refused():
    with pytest.raises(SnapshotError, match="other settings"):
        loaded(dumped(filled()), label=b"other rules")


def test_a_dump_from_the_future_is_refused():
    with pytest.raises(SnapshotError, match="future"):
        loaded(dumped(filled()), now=NOW - 3600)


def test_a_dump_over_the_size_limit_is_refused():
    with pytest.raises(SnapshotError, match="larger than 1000 bytes"):
        loaded(dumped(filled()), largest=1000)


def test_a_block_over_the_written_size_is_refused(monkeypatch):
    data, empty = dumped(filled()), store()
    monkeypatch.setattr(snapshot, "LARGEST_BLOCK", 100)
    with pytest.raises(SnapshotError, match="a block is larger"):
        loaded(data, into=empty)
    assert empty.statistics()["entries_rrset"] == 0


def test_a_flush_during_loading_ends_the_loading():
    empty = store()

    class Flushing(io.BytesIO):
        """Something is flushed when the file has been checked and is about to be taken in."""

        def seek(self, at, whence=0):
            if at:
                empty.drop(name("elsewhere."))
            return super().seek(at, whence)

    found = load(empty, Flushing(dumped(filled())), label=LABEL, now=NOW, largest=LARGEST)
    assert (found.entries, empty.statistics()["entries_rrset"]) == (0, 0)


def test_crafted_blocks_do_no_harm():
    """The checksum is not secret: anyone who can write the file can make a valid one, so bounds are checked anyway."""
    dice = random.Random(9)
    blocks = list(filled(20).table.copy_out(0b1100, now=NOW))
    for _ in range(2000):
        block = bytearray(blocks[0])
        for _ in range(dice.randrange(1, 6)):
            block[dice.randrange(len(block))] = dice.randrange(256)
        empty = Store.create(64 << 10, seed=bytes(16))
        try:
            empty.table.copy_in(bytes(block[: dice.randrange(len(block))]), 0b1100, now=NOW)
        except ValueError:
            continue
        for number in range(20):
            empty.rrsets.find(name(f"host{number}.example."), c.A, NOW)
        empty.rrsets.find_negative(name("nothing.example."), c.A, NOW)
