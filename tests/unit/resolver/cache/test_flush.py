"""Flushing: the entries are removed in every process, however they are found, whatever others store meanwhile.

Races are tested one step at a time: a flush is an iterator, and concurrent operations run between two of its steps.
"""

import contextlib
import itertools
import os
import random
import resource
import signal
import sys
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from resolver import limits
from resolver.cache import Store
from resolver.cache.snapshot import dump, load
from resolver.wire import consts as c
from resolver.wire.name import from_text
from resolver.wire.rrset import RRset

NOW = 1_000_000
WWW = from_text("www.example.com.")


def make(size: int = 1 << 20) -> Store:
    return Store.create(size, seed=bytes(16), shared=True)


def put(store: Store, text: str, *, serial: int = 0) -> bool:
    store.rrsets.serial = serial
    try:
        return bool(store.rrsets.put(RRset(from_text(text), c.A, 300, [b"\1\2\3\4"], trust=6), NOW))
    finally:
        store.rrsets.serial = 0


def has(store: Store, text: str) -> bool:
    return store.rrsets.find(from_text(text), c.A, NOW) is not None


def query_for(text: str) -> bytes:
    return dns.message.make_query(text, "A").to_wire()


def put_answer(store: Store, text: str, *alias: str, serial: int = 0) -> bool:
    message = dns.message.make_response(dns.message.make_query(text, "A"))
    for name in alias:
        message.answer.append(dns.rrset.from_text(text, 300, "IN", "CNAME", name))
        text = name
    message.answer.append(dns.rrset.from_text(text, 300, "IN", "A", "192.0.2.1"))
    return bool(store.answers.put(message.to_wire(), do=False, cd=False, now=NOW, ttl=300, serial=serial))


def shows(store: Store, text: str) -> bool:
    return store.answers.render(query_for(text), NOW, 512) is not None


# --- what goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtree", [False, True])
def test_an_answer_with_an_alias_to_the_name_is_flushed_too(subtree):
    store = make()
    assert put_answer(store, "shop.example.net.", "cdn.example.org.", "www.example.com.")
    assert shows(store, "shop.example.net.")
    store.drop(WWW, subtree=subtree)
    assert not shows(store, "shop.example.net.")
    assert put_answer(store, "shop.example.net.", "cdn.example.org.", "www.example.com.")
    assert shows(store, "shop.example.net.")


def test_flushed_entries_are_hidden_from_the_first_step_on():
    store = make(4 << 20)
    for number in range(5000):
        put(store, f"n{number}.example.com.")
    put(store, "other.example.net.")
    steps = store.flush(from_text("example.com."), subtree=True)
    next(steps)
    assert not any(has(store, f"n{number}.example.com.") for number in range(5000))
    assert has(store, "other.example.net.")
    sizes = list(steps)
    assert sum(sizes) == 5000
    assert len(sizes) > 1 and max(sizes) <= limits.FLUSH_GROUPS * 64 * 7
    assert store.statistics()["entries_rrset"] == 1


def test_a_flush_of_one_type_keeps_the_others():
    store = make()
    for rtype, rdata in ((c.A, bytes(4)), (c.AAAA, bytes(16))):
        store.rrsets.put(RRset(WWW, rtype, 300, [rdata], trust=6), NOW)
    assert put_answer(store, "alias.example.net.", "www.example.com.")
    assert store.drop(WWW, rtype=c.A) == 1
    assert store.rrsets.find(WWW, c.A, NOW) is None and store.rrsets.find(WWW, c.AAAA, NOW) is not None
    assert not shows(store, "alias.example.net.")


def test_a_flush_removes_earlier_answers_and_keeps_newer_ones():
    store = make()
    put_answer(store, "a.example.net.")
    store.drop(from_text("x.example.org."))
    put_answer(store, "b.example.net.")
    assert store.statistics()["entries_answer"] == 1
    assert shows(store, "b.example.net.")


def test_a_full_flush_is_done_in_one_step():
    store = make(4 << 20)
    for number in range(5000):
        put(store, f"n{number}.example.com.")
    put_answer(store, "b.example.net.")
    sizes = list(store.flush())
    assert sizes == [5001]
    assert store.statistics()["entries_rrset"] == store.statistics()["entries_answer"] == 0


# --- races --------------------------------------------------------------------------------------------------------


def test_results_begun_before_a_flush_are_not_stored_after_it():
    store = make()
    before = store.table.serial
    steps = store.flush(WWW)
    next(steps)
    assert not put(store, "www.example.com.", serial=before), "in its midst"
    assert not put_answer(store, "www.example.com.", serial=before)
    list(steps)
    assert not put(store, "www.example.com.", serial=before), "at its end"
    assert not put(store, "www.example.com.", serial=before), "as a renewal in place"
    assert not put_answer(store, "shop.example.net.", "www.example.com.", serial=before)
    store.rrsets.serial = before
    assert not store.rrsets.put_negative(WWW, c.A, soa=None, ttl=60, verdict=0, now=NOW)
    assert not store.rrsets.put_failure(WWW, c.A, kind=7, verdict=None, ede=0, text="", ttl=60, now=NOW)
    store.rrsets.serial = 0
    assert put(store, "www.example.com.", serial=store.table.serial) and has(store, "www.example.com.")
    assert not put(store, "www.example.com.", serial=before), "in place of a newer one"
    assert put_answer(store, "shop.example.net.", "www.example.com.", serial=store.table.serial)


@pytest.mark.parametrize("seed", range(8))
def test_no_earlier_entry_survives_concurrent_moves(seed):
    """A small cache in which a writer evicts, moves and splits between the steps; old entries are marked."""
    rng = random.Random(seed)
    store = make(1 << 20)
    for number in range(4000):
        put(store, f"old{number}.example.com.")
        has(store, f"old{rng.randrange(number + 1)}.example.com.")  # used ones are carried over, not evicted
    before = store.table.serial
    steps = store.flush(from_text("example.com."), subtree=True)
    for turn, _ in enumerate(steps):
        for number in range(200):
            put(store, f"new{turn}-{number}.example.net.")
            put(store, f"old{rng.randrange(4000)}.example.com.", serial=before)
            has(store, f"new{turn}-{rng.randrange(number + 1)}.example.net.")
    assert not any(has(store, f"old{number}.example.com.") for number in range(4000))
    assert store.table.statistics().groups > 1


def test_two_concurrent_flushes_are_both_complete():
    store = make(4 << 20)
    for number in range(3000):
        put(store, f"n{number}.example.com.")
        put(store, f"n{number}.example.net.")
    first = store.flush(from_text("example.com."), subtree=True)
    second = store.flush(from_text("example.net."), subtree=True)
    gone = next(first) + next(second)
    for left, right in itertools.zip_longest(first, second, fillvalue=0):
        gone += left + right
    assert gone == 6000
    assert store.statistics()["entries_rrset"] == 0


def test_more_concurrent_flushes_than_permitted_are_refused():
    store = make()
    put(store, "www.example.com.")
    under_way = [store.flush(from_text(f"n{number}.example.net.")) for number in range(4)]
    for steps in under_way:
        next(steps)
    with pytest.raises(BlockingIOError):
        store.drop(WWW)
    assert has(store, "www.example.com.")
    under_way[0].close()
    assert store.drop(WWW) == 1
    for steps in under_way:
        steps.close()


def test_an_abandoned_flush_shows_the_entries_that_it_did_not_reach():
    store = make()
    put(store, "www.example.com.")
    steps = store.flush(WWW)
    next(steps)
    assert not has(store, "www.example.com.")
    steps.close()
    assert has(store, "www.example.com.")


def test_a_flush_of_a_dead_process_ends():
    store = make()
    put(store, "www.example.com.")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        steps = store.flush(WWW)
        next(steps)
        os.write(write_end, b"!")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(read_end, 1) == b"!"
    os.waitpid(child, 0)
    assert not has(store, "www.example.com.")
    for number in range(limits.FLUSH_OWNER_CHECK):  # each store checks now and then
        put(store, f"n{number}.example.net.")
    assert has(store, "www.example.com.")
    assert store.drop(WWW) == 1
    os.close(read_end)
    os.close(write_end)


@contextlib.contextmanager
def no_descriptors():
    """No file can be opened, not even in /proc."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def flushing_child(store: Store, *, blind: bool):
    """A process during a flush of WWW; `blind`: it cannot read /proc. Killed and reaped at the end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with no_descriptors() if blind else contextlib.nullcontext():
            steps = store.flush(WWW)
            next(steps)
        os.write(write_end, b"!")
        signal.pause()
    try:
        assert os.read(read_end, 1) == b"!"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("blind", [False, True])
def test_a_flush_of_a_dead_process_ends_without_proc(blind):
    store = make()
    put(store, "www.example.com.")
    with flushing_child(store, blind=blind):
        pass
    with no_descriptors():
        for number in range(limits.FLUSH_OWNER_CHECK):
            put(store, f"n{number}.example.net.")
    assert has(store, "www.example.com.")


@pytest.mark.parametrize("blind", [False, True])
def test_a_flush_continues_when_its_process_cannot_be_checked(blind):
    """A lack of descriptors to read /proc must not end a living process's flush: entries would be found again."""
    store = make()
    put(store, "www.example.com.")
    with flushing_child(store, blind=blind):
        for look in (contextlib.nullcontext(), no_descriptors()):
            with look:
                for number in range(2 * limits.FLUSH_OWNER_CHECK):
                    put(store, f"n{number}.example.net.")
                store.drop(from_text("other.example."))
            assert not has(store, "www.example.com.")
    assert store.drop(WWW) == 1


def shared_memory_of(store: Store) -> tuple[int, int]:
    """First and last address of the store's arena, found by its size, which no other mapping has."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if " rw-s " in line and end - begin == store.arena.size:
            return begin, end
    raise AssertionError("no shared mapping of that size")


def test_a_process_with_a_reused_pid_does_not_continue_a_flush():
    """A PID may be reused by a process with another start time. Here the start time is changed instead."""
    store = make(3 << 20)
    put(store, "www.example.com.")
    steps = store.flush(WWW)
    next(steps)
    for number in range(2 * limits.FLUSH_OWNER_CHECK):
        put(store, f"n{number}.example.net.")
    assert not has(store, "www.example.com."), "its process is alive"
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    mine, other = ((began + change).to_bytes(8, sys.byteorder) for change in (0, 1))
    begin, end = shared_memory_of(store)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        content = memory.read(end - begin)
        assert content.count(mine) == 1
        memory.seek(begin + content.index(mine))
        memory.write(other)
    for number in range(limits.FLUSH_OWNER_CHECK):
        put(store, f"m{number}.example.net.")
    assert has(store, "www.example.com.")
    steps.close()


def test_a_process_forked_during_a_flush_does_not_end_it():
    store = make()
    put(store, "www.example.com.")
    steps = store.flush(WWW)
    next(steps)
    child = os.fork()
    if child == 0:
        steps.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not has(store, "www.example.com."), "the flush is under way"
    assert sum(steps) == 1


def test_clearing_is_visible_in_other_processes_at_once():
    store = make()
    put(store, "www.example.com.")
    put_answer(store, "shop.example.net.")
    before = store.table.serial
    child = os.fork()
    if child == 0:
        store.clear()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert store.table.serial != before
    assert not has(store, "www.example.com.") and not shows(store, "shop.example.net.")
    assert not put(store, "www.example.com.", serial=before)
    assert not put_answer(store, "shop.example.net.", serial=before)
    assert put(store, "www.example.com.", serial=store.table.serial) and has(store, "www.example.com.")


def test_stale_data_is_not_found_after_clearing():
    store = make()
    put(store, "www.example.com.")
    assert store.rrsets.find(WWW, c.A, NOW + 400, stale=3600) is not None
    store.clear()
    assert store.rrsets.find(WWW, c.A, NOW + 400, stale=3600) is None
    assert store.rrsets.created(WWW, c.A) == 0


def test_a_flush_is_visible_in_other_processes_at_once():
    store = make()
    put(store, "www.example.com.")
    put_answer(store, "shop.example.net.", "www.example.com.")
    before = store.table.serial
    child = os.fork()
    if child == 0:
        store.drop(WWW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert store.table.serial != before
    assert not has(store, "www.example.com.") and not shows(store, "shop.example.net.")
    assert not put(store, "www.example.com.", serial=before)


def test_a_dump_during_a_flush_omits_flushed_entries(tmp_path):
    store = make()
    put(store, "www.example.com.")
    put(store, "www.example.net.")
    steps = store.flush(WWW)
    next(steps)
    path = tmp_path / "dump"
    path.write_bytes(b"".join(dump(store, label=b"x", now=NOW)))
    steps.close()
    other = make()
    with path.open("rb") as file:
        assert load(other, file, label=b"x", now=NOW, largest=1 << 20).entries == 1
    assert has(other, "www.example.net.") and not has(other, "www.example.com.")


def test_loading_a_dump_ends_with_a_flush():
    store = make()
    put(store, "www.example.com.")
    [block] = store.table.copy_out(1 << 2, now=NOW)
    serial = store.table.serial
    store.drop(WWW)
    assert store.table.copy_in(block, 1 << 2, now=NOW, serial=serial) == 0
    assert not has(store, "www.example.com.")
