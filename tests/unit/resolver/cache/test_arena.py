"""The mapping: its kinds, its limits, and taking up a kept file. What lives in it is tested with the table."""

import os
import random
import signal
import threading
from typing import Any

import pytest

from resolver import limits
from resolver.cache.arena import Arena
from resolver.cache.table import Table

SEED = bytes(range(16))
RRSET = 2


def test_size_is_checked_and_rounded_to_pages():
    with pytest.raises(ValueError, match="cache size"):
        Arena(limits.ARENA_BYTES.minimum - 1)
    arena = Arena(100_000)
    assert arena.size == 98_304
    assert 0 < arena.ring_size < arena.size
    assert arena.ring_used == 0


@pytest.mark.parametrize("arguments", [(1,), ("large",), ()])
def test_an_arena_that_never_was_closes_nobodys_descriptor(arguments: tuple[Any, ...]):
    """Objects begin as zeros, and zero is standard input: whoever is given that number next cannot do with it."""
    before = os.fstat(0)
    with pytest.raises((TypeError, ValueError)):
        Arena(*arguments)
    assert os.path.samestat(os.fstat(0), before)


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


def test_a_kept_file_is_taken_up_again(tmp_path):
    path = str(tmp_path / "cache")
    first = Arena(1 << 20, path=path)
    assert first.fresh and first.shared
    assert Table(first, SEED).put(RRSET, b"key", b"value", now=10, ttl=10)
    again = Arena(1 << 20, path=path)
    assert not again.fresh
    entry = Table(again, SEED).find(RRSET, b"key", 12)
    assert entry is not None
    assert (entry.value, entry.remaining) == (b"value", 8)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_file_in_use_is_not_disturbed(tmp_path):
    path = str(tmp_path / "cache")
    first = Arena(1 << 20, path=path)
    with pytest.raises(BlockingIOError):
        Arena(1 << 20, path=path)
    table = Table(first, SEED)
    table.put(RRSET, b"key", b"value", now=10, ttl=10)
    with pytest.raises(BlockingIOError, match="size"):
        Arena(2 << 20, path=path)
    with pytest.raises(BlockingIOError, match="seed"):
        Table(Arena(1 << 20, path=path), SEED[::-1])
    assert table.find(RRSET, b"key", 10) is not None


def test_a_file_that_is_in_use_is_not_laid_out_anew(tmp_path):
    path = tmp_path / "cache"
    table = Table(Arena(1 << 20, path=str(path)), SEED)
    with path.open("r+b") as file:
        file.write(b"another")
    with pytest.raises(BlockingIOError, match="layout"):
        Arena(1 << 20, path=str(path))
    assert path.read_bytes()[:7] == b"another"
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10), "who uses it is not disturbed"


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_never_followed(tmp_path, seed):
    """Bytes changed anywhere in the file: taking it up and working on must neither crash nor hang."""
    rng = random.Random(seed)
    path = tmp_path / "cache"
    table = Table(Arena(128 << 10, path=str(path)), SEED)
    for number in range(1500):
        table.put(RRSET, b"%d" % number, b"%d" % number * 5, now=10, ttl=10)
    used = table.arena.size
    del table
    content = bytearray(path.read_bytes())
    start = rng.choice((64, 4096, 8192, 12288))
    for _ in range(rng.choice((1, 20, 2000))):
        content[rng.randrange(start, used)] = rng.randrange(256)
    path.write_bytes(content)
    table = Table(Arena(128 << 10, path=str(path)), SEED)
    for number in range(3000):
        table.find(RRSET, b"%d" % number, 10)
        assert table.put(RRSET, b"new %d" % number, b"value", now=10, ttl=10)
        assert table.find(RRSET, b"new %d" % number, 10).value == b"value"
    table.clear()


def test_an_undamaged_file_loses_nothing(tmp_path):
    path = str(tmp_path / "cache")
    table = Table(Arena(4 << 20, path=path), SEED)
    for number in range(9000):
        table.put(RRSET, b"%d" % number, b"value", now=10, ttl=10)
    before = table.statistics()
    there = [number for number in range(9000) if table.find(RRSET, b"%d" % number, 10)]
    del table
    again = Table(Arena(4 << 20, path=path), SEED)
    assert again.arena.fresh is False
    assert again.statistics().entries == before.entries
    assert [number for number in range(9000) if again.find(RRSET, b"%d" % number, 10)] == there


def test_another_seed_empties_a_kept_file(tmp_path):
    path = str(tmp_path / "cache")
    Table(Arena(1 << 20, path=path), SEED).put(RRSET, b"key", b"value", now=10, ttl=10)
    assert Table(Arena(1 << 20, path=path), SEED[::-1]).find(RRSET, b"key", 10) is None


def test_another_size_starts_the_file_anew(tmp_path):
    path = str(tmp_path / "cache")
    Table(Arena(1 << 20, path=path), SEED).put(RRSET, b"key", b"value", now=10, ttl=10)
    arena = Arena(2 << 20, path=path)
    assert arena.fresh
    assert os.path.getsize(path) == 2 << 20
    assert Table(arena, SEED).find(RRSET, b"key", 10) is None


def test_a_file_of_something_else_is_laid_out_anew(tmp_path):
    path = tmp_path / "cache"
    path.write_bytes(b"\xff" * (1 << 20))
    arena = Arena(1 << 20, path=str(path))
    assert arena.fresh
    table = Table(arena, SEED)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    assert table.find(RRSET, b"key", 10) is not None


def test_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "cache").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        Arena(1 << 20, path=str(tmp_path / "cache"))
    assert (tmp_path / "target").read_bytes() == b""


def test_seed_has_sixteen_bytes():
    with pytest.raises(ValueError, match="seed"):
        Table(Arena(1 << 20), b"short")


# --- locks whose holder died ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaped", [True, False])
def test_a_writer_killed_inside_its_bucket_does_not_hold_it(reaped):
    """The holder is dead, reaped or still a zombie: the next writer takes both locks over and repairs the bucket."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    for number in range(50):
        table.put(RRSET, b"other %d" % number, b"value", now=10, ttl=10)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        table._hold_lock(b"key", RRSET)
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


def test_what_stood_in_the_bucket_of_a_dead_writer_is_gone():
    """Nobody knows how far the writer came with it."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    assert table.put(RRSET, b"key", b"value", now=10, ttl=10)
    child = os.fork()
    if child == 0:
        table._hold_lock(b"key", RRSET)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert table.put(RRSET, b"another", b"value", now=10, ttl=10)
    assert table.find(RRSET, b"key", 10) is None
    assert table.statistics().entries["rrset"] == 1


def test_a_stopped_holder_costs_the_entry_not_the_worker():
    """A living holder keeps its lock; the other gives up after a bounded wait and says so."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        table._hold_lock(b"key", RRSET)
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


def test_a_process_with_the_number_of_a_dead_holder_keeps_no_lock():
    """A number outlives its holder when another process has it. A thread that ends with the locks does the same: the
    process number it locked under lives on, and nobody with that number will ever release them."""
    table = Table(Arena(1 << 20, shared=True), SEED)
    table.put(RRSET, b"other", b"value", now=10, ttl=10)
    thread = threading.Thread(target=table._hold_lock, args=(b"key", RRSET))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
    statistics = table.statistics()
    assert (statistics.repaired, statistics.busy) == (2, 0)
    table.sweep(1 << RRSET)
    assert table.statistics().entries["rrset"] == 0


def test_a_holder_that_dies_while_it_repairs_leaves_the_repair_to_the_next():
    table = Table(Arena(1 << 20, shared=True), SEED)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            table._hold_lock(b"key", RRSET)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    assert table.put(RRSET, b"key", b"after", now=10, ttl=10)
    assert table.statistics().busy == 0
    found = table.find(RRSET, b"key", 10)
    assert found is not None and found.value == b"after"
