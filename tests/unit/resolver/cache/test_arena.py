"""The mapping: private and shared, limits, and locks whose holder died. Its content is tested with the table."""

import os
import signal
import threading

import pytest
from support.native import begin_clear, hold_locks

from resolver import limits
from resolver.cache import Store
from resolver.cache.arena import Arena
from resolver.cache.table import Table
from resolver.wire.name import from_text
from resolver.wire.rrset import RRset

SEED = bytes(range(16))
RRSET = 2


def test_size_is_checked_and_rounded_to_pages():
    with pytest.raises(ValueError, match="cache size"):
        Arena(limits.ARENA_BYTES.minimum - 1)
    arena = Arena(100_000)
    assert arena.size == 98_304
    assert 0 < arena.ring_size < arena.size
    assert arena.ring_used == 0


def test_an_empty_arena_touches_almost_no_memory():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    table = Table(Arena(1 << 30), SEED)
    table.put(RRSET, b"key", b"value", now=0, ttl=1)
    assert resident() - before < 2 << 20


def test_private_arena_is_not_shared_by_fork():
    assert _seen_after_fork(Arena(1 << 20, shared=False)) is False


def test_shared_arena_is_one_memory_after_fork():
    assert _seen_after_fork(Arena(1 << 20, shared=True)) is True


def _seen_after_fork(arena: Arena) -> bool:
    """Whether the parent finds what the child puts."""
    table = Table(arena, SEED)
    child = os.fork()
    if child == 0:
        table.put(RRSET, b"key", b"from the child", now=10, ttl=10)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return table.find(RRSET, b"key", 10) is not None


def test_seed_has_sixteen_bytes():
    with pytest.raises(ValueError, match="seed"):
        Table(Arena(1 << 20), b"short")


def test_an_arena_has_one_table():
    """A second one would initialise the locks of the first one again."""
    arena = Arena(1 << 20)
    table = Table(arena, SEED)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    for seed in (SEED, SEED[::-1]):
        with pytest.raises(ValueError, match="table"):
            Table(arena, seed)
    assert table.find(RRSET, b"key", 10) is not None


# --- locks whose holder died ------------------------------------------------------------------------------------------


@pytest.mark.checkout
@pytest.mark.parametrize("reaped", [True, False])
def test_a_writer_killed_inside_its_bucket_does_not_hold_it(reaped):
    """The holder is dead, reaped or still a zombie: the next writer takes both locks over and repairs the bucket."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    for number in range(50):
        table.put(RRSET, b"other %d" % number, b"value", now=10, ttl=10)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        hold_locks(table, RRSET, b"key")
        os.write(write_end, b"!")
        signal.pause()
    assert os.read(read_end, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    if reaped:
        os.waitpid(child, 0)
    assert table.find(RRSET, b"key", 10) is None
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
    assert table.statistics().repaired == 2
    if not reaped:
        os.waitpid(child, 0)
    survivors = [number for number in range(50) if table.find(RRSET, b"other %d" % number, 10)]
    assert len(survivors) >= 43
    for number in range(5000):
        assert table.put(RRSET, b"more %d" % number, b"value" * 40, now=10, ttl=10)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.checkout
def test_the_bucket_of_a_dead_writer_is_emptied():
    """The bucket may be half written."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    child = os.fork()
    if child == 0:
        hold_locks(table, RRSET, b"key")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert table.put(RRSET, b"another", b"value", now=10, ttl=10)
    assert table.find(RRSET, b"key", 10) is None
    assert table.statistics().entries["rrset"] == 1


@pytest.mark.checkout
def test_a_stopped_lock_holder_costs_the_entry_and_does_not_block():
    """A living holder keeps its lock; the other process gives up after a bounded wait, which is counted."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        hold_locks(table, RRSET, b"key")
        os.write(write_end, b"!")
        signal.pause()
    assert os.read(read_end, 1) == b"!"
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10) is False
    assert table.find(RRSET, b"key", 10) is None
    assert table.statistics().busy == 1
    with pytest.raises(BlockingIOError):
        table.clear()
    with pytest.raises(BlockingIOError):
        table.sweep(1 << RRSET)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.checkout
def test_clearing_does_not_visit_the_buckets():
    """So it takes as long with three million entries as with one, and waits for no writer that changes an entry."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    assert table.put(RRSET, b"other", b"value", now=10, ttl=10)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        hold_locks(table, RRSET, b"key", arena=False)
        os.write(write_end, b"!")
        signal.pause()
    assert os.read(read_end, 1) == b"!"
    assert table.clear() == 2
    assert table.find(RRSET, b"other", 10) is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
    os.close(read_end)
    os.close(write_end)


@pytest.mark.checkout
def test_a_clear_whose_process_is_killed_in_the_middle_is_completed():
    """No entry is found, and no result of a query that began before is stored, nor a renewal in place."""
    store = Store.create(1 << 20, seed=SEED, shared=True)
    found = RRset(from_text("www.example.com."), 1, 300, [bytes(4)], trust=6)
    store.rrsets.serial = before = store.table.serial
    assert store.rrsets.put(found, 10)
    child = os.fork()
    if child == 0:
        begin_clear(store.table)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.rrsets.find(found.name, 1, 10) is None
    assert not store.rrsets.put(found, 10)
    assert store.rrsets.find(found.name, 1, 10) is None
    assert store.table.serial != before
    store.rrsets.serial = store.table.serial
    assert store.rrsets.put(found, 10)
    assert store.rrsets.find(found.name, 1, 10) == found


@pytest.mark.checkout
def test_a_process_with_the_reused_pid_of_a_dead_holder_holds_no_lock():
    """A pid may be reused by another process. A thread that ends with the locks causes the same state: the pid that it
    locked under still exists, and no process with that pid will release them."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    table.put(RRSET, b"other", b"value", now=10, ttl=10)
    thread = threading.Thread(target=hold_locks, args=(table, RRSET, b"key"))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
    statistics = table.statistics()
    assert (statistics.repaired, statistics.busy) == (2, 0)
    table.sweep(1 << RRSET)
    assert table.statistics().entries["rrset"] == 0


@pytest.mark.checkout
def test_a_repair_is_repeated_when_its_process_dies():
    table = Table(Arena(1 << 20, shared=True), SEED)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            hold_locks(table, RRSET, b"key")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    assert table.statistics().busy == 0
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
