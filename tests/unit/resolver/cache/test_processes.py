"""Several processes on one arena: no torn or wrong reads, and no process waits for a dead one.

Every writer ends after a fixed number of operations, and readers with it. The interleaving depends on the machine; the
assertions hold for every interleaving. Each value contains its key and a checksum, so a reader detects a torn or
misplaced one.
"""

import hashlib
import itertools
import os
import random
import signal
import traceback
from collections.abc import Callable

import dns.message
import dns.rrset
import pytest

from resolver.cache import AnswerCache, Arena, Table
from resolver.cache.table import Entry

SEED = bytes(range(16))
RRSET = 2
KEYS = 300
MISSED_PUTS = 10


def value_for(key: bytes, rng: random.Random) -> bytes:
    body = key + b"|" + rng.randbytes(rng.choice((1, 16, 17, 100, 101, 900)))
    return hashlib.blake2b(body, digest_size=8).digest() + body


def is_whole(key: bytes, value: bytes) -> bool:
    body = value[8:]
    return value[:8] == hashlib.blake2b(body, digest_size=8).digest() and body.startswith(key + b"|")


def write(table: Table, seed: int, turns: int) -> None:
    rng = random.Random(seed)
    for _ in range(turns):
        key = b"key %d" % rng.randrange(KEYS)
        if rng.random() < 0.02:
            table.drop(RRSET, key)
        else:
            table.put(RRSET, key, value_for(key, rng), now=100, ttl=50)


def read(table: Table, seed: int, turns: int) -> int:
    rng = random.Random(seed)
    found = 0
    for _ in range(turns):
        key = b"key %d" % rng.randrange(KEYS)
        entry = table.find(RRSET, key, 100)
        if entry is not None:
            assert is_whole(key, entry.value), "torn or misplaced"
            found += 1
    return found


def in_child(job: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        job()
        status = 0
    except BaseException:  # noqa: BLE001 -- the child must never return into pytest
        traceback.print_exc()
    finally:
        os._exit(status)


def beside(children: list[int], step: Callable[[], int]) -> int:
    """The sum of what `step` returns, called once and then until all children have ended, each of them well."""
    total = step()
    while children:
        child, status = os.waitpid(children[0], os.WNOHANG)
        if child:
            assert status == 0
            del children[0]
        total += step()
    return total


# A ring that holds everything, one that evicts all the time, and a table that grows meanwhile.
@pytest.mark.parametrize("size", [4 << 20, 128 << 10])
@pytest.mark.slow
def test_readers_beside_writers_see_no_torn_values(size):
    table = Table(Arena(size, shared=True), SEED)
    children = [in_child(lambda seed=seed: write(table, seed, 15_000)) for seed in (1, 2)]
    turns = itertools.count(3)
    assert beside(children, lambda: read(table, next(turns), 5_000)) > 0
    assert read(table, 4, 5_000) > 0
    statistics = table.statistics()
    alive = sum(table.find(RRSET, b"key %d" % number, 100) is not None for number in range(KEYS))
    assert statistics.entries["rrset"] == alive
    assert statistics.repaired == 0


def found_at_last(table: Table, key: bytes, writer: int) -> Entry:
    """The keys that were missed, after the writer has continued or ended.

    An entry that is moved to another bucket may be missed in that instant, and a writer that loses the processor there
    makes the instant as long as it likes; so time is counted by what the writer stored. More would be a lost group.
    """
    missed_at = set()
    while len(missed_at) < MISSED_PUTS:
        ended = os.waitid(os.P_PID, writer, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        missed_at.add(table.statistics().stored["rrset"])
        if entry := table.find(RRSET, key, 100):
            return entry
        assert ended is None, "lost"
        os.sched_yield()
    raise AssertionError("hidden for good")


@pytest.mark.slow
def test_growth_hides_no_existing_entry_from_readers():
    """Groups are split during reads; keys that existed before must always be found."""
    table = Table(Arena(32 << 20, shared=True), SEED)
    fixed = [b"key %d" % number for number in range(KEYS)]
    for key in fixed:
        table.put(RRSET, key, value_for(key, random.Random(0)), now=100, ttl=50)
    child = in_child(lambda: [table.put(RRSET, b"new %d" % n, b"x", now=100, ttl=50) for n in range(40_000)])
    for turn in range(60_000):
        key = fixed[turn % KEYS]
        entry = table.find(RRSET, key, 100) or found_at_last(table, key, child)
        assert is_whole(key, entry.value)
    assert os.waitpid(child, 0)[1] == 0
    assert table.statistics().groups > 60
    assert all(table.find(RRSET, key, 100) for key in fixed)


@pytest.mark.slow
def test_writers_killed_anywhere_leave_a_usable_table():
    """kill -9 at forty points of a writer that evicts, replaces and drops; the survivor repairs and continues."""
    table = Table(Arena(128 << 10, shared=True), SEED)
    rng = random.Random(5)
    for turn in range(40):
        read_end, write_end = os.pipe()

        def endless(seed: int = turn, pipe: int = write_end) -> None:
            os.write(pipe, b"!")
            write(table, seed, 1_000_000)

        child = in_child(endless)
        assert os.read(read_end, 1) == b"!"
        write(table, 100 + turn, rng.randrange(400))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)
        write(table, 200 + turn, 50)
        read(table, 300 + turn, 200)
        assert table.arena.ring_used <= table.arena.ring_size
    assert table.put(RRSET, b"key 1", value_for(b"key 1", rng), now=100, ttl=50)
    assert table.find(RRSET, b"key 1", 100)


@pytest.mark.slow
def test_entries_copied_during_their_replacement_are_not_torn():
    """One process renews an entry in place by values of five sizes; each copy of it is one of them."""
    table = Table(Arena(128 << 10, shared=True), SEED)
    key = b"\3www\0\0\1"
    values = []
    for size in range(2, 7):  # with head, key and sum 41 to 45 bytes, all of which take 48
        body = key + b"|" + bytes([size]) * size
        values.append(hashlib.blake2b(body, digest_size=8).digest() + body)

    def renew() -> None:
        for turn in range(300_000):
            table.put(RRSET, key, values[turn % 5], now=100, ttl=50)

    table.put(RRSET, key, values[0], now=100, ttl=50)
    child = in_child(renew)
    other = Table(Arena(128 << 10), SEED)

    def copy() -> int:
        for block in table.copy_out(1 << RRSET, now=100):
            other.drop(RRSET, key)
            assert other.copy_in(block, 1 << RRSET, now=100) == 1
            found = other.find(RRSET, key, 100)
            assert found is not None and is_whole(key, found.value), "torn"
        return 1

    assert beside([child], copy) > 0


@pytest.mark.slow
def test_answers_rendered_during_their_replacement_are_not_torn():
    """One process renews an answer of changing size; rendered replies parse and are one of the stored versions."""
    cache = AnswerCache(Table(Arena(256 << 10, shared=True), SEED))
    query = dns.message.make_query("www.example.com.", "TXT")
    packets = []
    for size in (1, 5, 20):
        message = dns.message.make_response(query)
        letter = chr(ord("a") + size)
        for number in range(size):
            text = f'"{number} {letter * 30}"'
            message.answer.append(dns.rrset.from_text(f"n{number}.example.com.", 300, "IN", "TXT", text))
        packets.append(message.to_wire())

    def renew() -> None:
        for turn in range(300_000):
            cache.put(packets[turn % 3], do=False, cd=False, now=100, ttl=50)

    child = in_child(renew)
    wire = query.to_wire()
    bodies = {packet[4:] for packet in packets}

    def render() -> int:
        found = 0
        for _ in range(1_000):
            reply = cache.render(wire, 100, 65_535)
            if reply is not None:
                assert reply[4:] in bodies
                found += 1
        return found

    assert beside([child], render) > 0
